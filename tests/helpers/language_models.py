"""Tiny language models with random weights, and how they are tried."""

import torch
import transformers

from mmdms.masks.channel_masks import Masks
from mmdms.slicing.slim import slim
from mmdms.space.structure import Structure

HEADS, GROUPS, WIDTH, INNER = 4, 2, 32, 48
TOKENS = torch.tensor([[33, 28, 34, 3, 60, 32, 7]])
SIZES = dict(vocab_size=64, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS,
             intermediate_size=INNER, max_position_embeddings=64)  # fmt: skip
SHARED_KEYS = dict(num_key_value_heads=HEADS // GROUPS, head_dim=8)
SPECIAL = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)


def language_model(kind, attention, seed=0, **options):
    """A model ``kind`` (a class of transformers), with two layers and large weights, so that tokens differ."""
    torch.manual_seed(seed)
    cls = getattr(transformers, kind)
    config = cls.config_class(**{**SPECIAL, **options}, attn_implementation=attention)
    model = cls(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def sizes(space):
    """Kind and total of every unit by name."""
    return {unit.name: (unit.kind, unit.total) for unit in space.units}


def without(space, **gone):
    """The structure that keeps all but these elements of every unit of a kind."""
    kept = [[i for i in range(unit.total) if i not in gone.get(unit.kind, ())] for unit in space.units]
    return Structure(space.units, kept)


def written(model, tokens=TOKENS, **options):
    """What a model writes behind tokens, greedily."""
    with torch.no_grad():
        return model.generate(
            tokens, max_new_tokens=10, min_new_tokens=10, do_sample=False, pad_token_id=0, **options
        ).tolist()


def masked_and_sliced(model, space, structure, run):
    """What ``run`` returns for the masked network and for its slice."""
    masks = Masks(model, space)
    try:
        masks.set(space.mask(structure).double())
        masked = run(model)
    finally:
        masks.remove()
    return masked, run(slim(model, space, structure))
