"""GPT-2, OPT, encoders and encoder-decoders: sizes that their Python holds, shared tables, blocks in tuples."""

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
    written,
)

import mmdms
from mmdms.verification.parity import check_parity
from mmdms.verification.verifier import uneven_structure

SEVERAL = mmdms.ExampleCall(input_ids=TOKENS, decoder_input_ids=TOKENS[:, :5])
OF_BART = dict(vocab_size=64, d_model=WIDTH, encoder_layers=2, decoder_layers=2, encoder_attention_heads=HEADS,
               decoder_attention_heads=HEADS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER,
               max_position_embeddings=64, decoder_start_token_id=0, forced_eos_token_id=None)  # fmt: skip
OF_T5 = dict(vocab_size=64, d_model=WIDTH, d_kv=8, d_ff=INNER, num_layers=2, num_heads=HEADS, decoder_start_token_id=0)


def logits(model):
    """The logits alone: what an encoder outputs is read by its decoder, and by no one else."""
    return lambda **inputs: model(**inputs).logits


def written_both_ways(model):
    return [written(model, use_cache=cache) for cache in (True, False)]


def assert_cut_exactly(model, space, example, forward=None, writes=True):
    for cut in (0, 1):
        structure = uneven_structure(space, cut, 1, range(len(space.units)))
        assert check_parity(model, space, structure, example, forward).share <= 1e-12
        if writes:
            masked, sliced = masked_and_sliced(model.double(), space, structure, written_both_ways)
            assert masked[0] == masked[1] == sliced[0] == sliced[1]


@pytest.mark.parametrize('attention', ['eager', 'sdpa'])
@pytest.mark.parametrize('kind', ['GPT2LMHeadModel', 'OPTForCausalLM'])
def test_decoders_with_learnt_positions(kind, attention):
    own = dict(n_inner=INNER) if 'GPT2' in kind else dict(ffn_dim=INNER, word_embed_proj_dim=WIDTH)
    model = language_model(kind, attention, **SIZES, **own)
    space = mmdms.build_search_space(model, TOKENS)
    in_layer = [('heads', HEADS), ('channels', INNER)]
    assert list(sizes(space).values()) == [('channels', WIDTH), *in_layer, *in_layer, ('depth', 2)]
    assert_cut_exactly(model, space, TOKENS)


@pytest.mark.parametrize('attention', ['eager', 'sdpa'])
@pytest.mark.parametrize('kind', ['BertForMaskedLM', 'RobertaForMaskedLM', 'BertModel'])
def test_encoders(kind, attention):
    model = language_model(kind, attention, **SIZES)
    space = mmdms.build_search_space(model, TOKENS)
    in_layer = [('heads', HEADS), ('channels', INNER)]
    # A norm comes after every sum: no block carries its input on. A bare encoder outputs the stream.
    assert list(sizes(space).values()) == [('channels', WIDTH)] * ('Masked' in kind) + in_layer * 2
    assert_cut_exactly(model, space, TOKENS, writes=False)


def test_bart_by_its_logits():
    model = language_model('BartForConditionalGeneration', 'sdpa', **OF_BART)
    space = mmdms.build_search_space(model, SEVERAL, forward=logits)
    encoder, decoder = [('heads', HEADS), ('channels', INNER)], [('heads', HEADS)] * 2 + [('channels', INNER)]
    assert list(sizes(space).values()) == [('channels', WIDTH), *encoder * 2, *decoder * 2]
    assert_cut_exactly(model, space, SEVERAL, logits)


def test_t5_shares_one_table_of_positions_between_its_layers():
    """The table of layer 0 has a column per head, and all layers add it: heads of one place are one element."""
    model = language_model('T5ForConditionalGeneration', 'eager', **OF_T5)
    space = mmdms.build_search_space(model, SEVERAL, forward=logits)
    found = sizes(space)
    heads = [name for name, (kind, total) in found.items() if kind == 'heads' and total == HEADS]
    assert heads == [
        'encoder.block.0.layer.0.SelfAttention.n_heads',
        'decoder.block.0.layer.0.SelfAttention.n_heads',
        'decoder.block.0.layer.1.EncDecAttention.n_heads',
    ]
    assert found['shared'] == ('channels', WIDTH)
    assert [total for kind, total in found.values() if kind == 'channels'] == [WIDTH] + [INNER] * 4
    assert_cut_exactly(model, space, SEVERAL, logits)


@pytest.mark.parametrize('kind', ['MixtralForCausalLM', 'Qwen3MoeForCausalLM'])
def test_mixtures_of_experts(kind):
    """The inner width of every expert is its own, and all add to one stream; how many experts there are stays."""
    own = dict(num_local_experts=4) if 'Mixtral' in kind else dict(num_experts=4, moe_intermediate_size=INNER)
    model = language_model(kind, 'eager', **SIZES, **SHARED_KEYS, num_experts_per_tok=2, **own)
    many = torch.randint(3, 64, (1, 24), generator=torch.Generator().manual_seed(0))  # each expert has some of them
    space = mmdms.build_search_space(model, many)
    in_layer = [('heads', HEADS // GROUPS), *[('channels', INNER)] * 4]
    assert list(sizes(space).values()) == [('channels', WIDTH), *in_layer, *in_layer, ('depth', 2)]
    assert_cut_exactly(model, space, many)
