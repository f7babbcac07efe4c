"""Decoders of Hugging Face: what is found in them, and that a slice writes what the masked network writes."""

import pytest
import torch
from helpers.language_models import (
    GROUPS,
    HEADS,
    INNER,
    SHARED_KEYS,
    SIZES,
    TOKENS,
    WIDTH,
    language_model,
    masked_and_sliced,
    sizes,
    without,
    written,
)

import mmdms
from mmdms.verification.parity import TOLERANCE, check_parity
from mmdms.verification.verifier import uneven_structure

LIKE_LLAMA = {
    'Llama': dict(),
    'Llama tied': dict(tie_word_embeddings=True),
    'Llama with one key': dict(num_key_value_heads=1),
    'Mistral': dict(sliding_window=5),
    'Qwen2': dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
    'Qwen3': dict(tie_word_embeddings=True),
    'Gemma2': dict(sliding_window=5),
    'Gemma3': dict(sliding_window=5, layer_types=['sliding_attention', 'full_attention']),
    'Phi3': dict(),
    'GPTNeoX': dict(),
}
"""Options beside sizes and shared keys, by the class of the model before ``ForCausalLM``."""


def built(name, attention):
    options = {**SIZES, **SHARED_KEYS, **LIKE_LLAMA[name]}
    if name == 'GPTNeoX':  # a key for every query; queries, keys and values of a head lie one after the other
        options = {**SIZES, 'rotary_pct': 0.5}
    return language_model(f'{name.partition(" ")[0]}ForCausalLM', attention, **options)


def assert_writes_as_its_slice(model, space):
    """Masked network and slice: the same tokens, with a cache and without, and the same outputs in float64."""
    model = model.double()
    cuts = [
        uneven_structure(space, 0, 1, range(len(space.units))),
        without(space, depth=[0]),
        without(space, depth=[1]),
    ]
    for structure in cuts:
        assert check_parity(model, space, structure, TOKENS).share <= 1e-12 < TOLERANCE
        runs = masked_and_sliced(
            model, space, structure, lambda network: [written(network, use_cache=cache) for cache in (True, False)]
        )
        (masked, masked_anew), (sliced, sliced_anew) = runs
        assert masked == masked_anew == sliced == sliced_anew


@pytest.mark.parametrize('attention', ['eager', 'sdpa'])
@pytest.mark.parametrize('name', LIKE_LLAMA)
def test_heads_inner_width_stream_and_depth_are_searched(name, attention):
    model = built(name, attention)
    space = mmdms.build_search_space(model, TOKENS)
    found = list(sizes(space).values())
    # A key and its queries go together. Of a single key, all queries would: they stay.
    heads = HEADS if name == 'GPTNeoX' else 0 if 'one key' in name else HEADS // GROUPS
    in_layer = [('heads', heads)] * bool(heads) + [('channels', INNER)]
    assert found == [('channels', WIDTH), *in_layer, *in_layer, ('depth', 2)]
    assert space.prunable_fraction('params') > 0.99
    assert_writes_as_its_slice(model, space)


def test_one_key_and_its_queries_are_one_element():
    """Of query, key and value layers the rows of a key, and of the output layer its columns, are those by hand."""
    model = built('Llama', 'eager')
    space = mmdms.build_search_space(model, TOKENS)
    (first,) = [space.offsets[i] for i, unit in enumerate(space.units) if unit.name.startswith('model.layers.0.self')]
    axes = {(axis.parameter, axis.dim): axis.elements.flatten().tolist() for axis in space.axes}
    layer = 'model.layers.0.self_attn'
    by_key = [first] * 8 + [first + 1] * 8
    by_query = [first] * 16 + [first + 1] * 16
    assert axes[f'{layer}.k_proj.weight', 0] == axes[f'{layer}.v_proj.weight', 0] == by_key
    assert axes[f'{layer}.q_proj.weight', 0] == axes[f'{layer}.o_proj.weight', 1] == by_query


def test_a_tied_table_is_sliced_once_and_masked_where_it_is_read():
    model = built('Llama tied', 'eager')
    space = mmdms.build_search_space(model, TOKENS)
    structure = without(space, channels=range(0, 32, 2))
    subnet = mmdms.slim(model, space, structure)
    assert subnet.lm_head.weight is subnet.model.embed_tokens.weight and subnet.lm_head.weight.shape == (64, 16)
    # Soft masks act once, on what reads the stream: what is looked up is whole.
    masks = mmdms.masks.channel_masks.Masks(model, space)
    masks.set(torch.full((space.num_elements,), 0.5))
    looked_up, read = model.model.embed_tokens(TOKENS), model.lm_head.weight
    masks.remove()
    assert torch.equal(looked_up, model.model.embed_tokens(TOKENS))
    assert torch.equal(read, 0.5 * model.lm_head.weight)


def test_layers_that_stay_are_numbered_anew_for_a_cache():
    model = built('Gemma3', 'sdpa')
    space = mmdms.build_search_space(model, TOKENS)
    subnet = mmdms.slim(model, space, without(space, depth=[0]))
    assert subnet.model.layers[1].self_attn.layer_idx == 0
    assert subnet.config.layer_types == ['full_attention', 'sliding_attention']
    assert model.config.layer_types == ['sliding_attention', 'full_attention']
    assert model.model.layers[1].self_attn.layer_idx == 1


@pytest.mark.parametrize('side', ['left', 'right'])
def test_padded_inputs_by_keyword(side):
    """An attention mask and other keyword arguments are part of the example; logits of padded inputs are equal."""
    model = built('Llama', 'sdpa')
    pads = torch.zeros(1, 3, dtype=torch.long)
    order = [pads, TOKENS] if side == 'left' else [TOKENS, pads]
    tokens = torch.cat(order, 1)
    example = mmdms.ExampleCall(input_ids=tokens, attention_mask=(tokens != 0).long(), use_cache=False)
    space = mmdms.build_search_space(model, example)
    assert sizes(space) == sizes(mmdms.build_search_space(model, TOKENS))
    structure = uneven_structure(space, 0, 1, range(len(space.units)))
    assert check_parity(model, space, structure, example).share <= 1e-12


def test_a_model_in_bfloat16():
    model = built('Gemma2', 'sdpa').bfloat16()
    space = mmdms.build_search_space(model, TOKENS)
    assert sizes(space) == sizes(mmdms.build_search_space(built('Gemma2', 'sdpa'), TOKENS))
