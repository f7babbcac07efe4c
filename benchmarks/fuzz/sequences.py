"""Recurrent layers, attention and embeddings of torch.nn, each with its options drawn at random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .draw import Draw
from .layers import Factory, layer


class Recurrent(nn.Module):
    """A recurrent layer over (N, L, C): the outputs of all steps, or the last hidden state at every step."""

    def __init__(self, layer: nn.RNNBase, last: bool) -> None:
        super().__init__()
        self.layer, self.last = layer, last

    def forward(self, x: Tensor) -> Tensor:
        out, hidden = self.layer(x if self.layer.batch_first else x.transpose(0, 1))
        if not self.layer.batch_first:
            out = out.transpose(0, 1)
        if not self.last:
            return out
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return torch.cat([out, hidden[-1][:, None].expand(-1, out.size(1), -1)], -1)


class Unrolled(nn.Module):
    """A recurrent cell, called once per step."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state, found = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found, 1)


class Attending(nn.Module):
    """Multi-head attention of (N, L, C) to itself, or to other features of itself, under a mask or none."""

    def __init__(self, layer: nn.MultiheadAttention, key: nn.Module | None, mask: str, need_weights: bool) -> None:
        super().__init__()
        self.layer, self.key, self.mask, self.need_weights = layer, key, mask, need_weights

    def forward(self, x: Tensor) -> Tensor:
        key = x if self.key is None else self.key(x)
        options = masks_of(x, self.mask, ('attn_mask', 'key_padding_mask'))
        if not self.layer.batch_first:
            x, key = x.transpose(0, 1), key.transpose(0, 1)
        out = self.layer(x, key, key, need_weights=self.need_weights, **options)[0]
        return out if self.layer.batch_first else out.transpose(0, 1)


class Encoding(nn.Module):
    """A transformer encoder, or one layer of it, under a mask or none."""

    def __init__(self, layer: nn.Module, batch_first: bool, mask: str) -> None:
        super().__init__()
        self.layer, self.batch_first, self.mask = layer, batch_first, mask

    def forward(self, x: Tensor) -> Tensor:
        name = 'mask' if isinstance(self.layer, nn.TransformerEncoder) else 'src_mask'
        options = masks_of(x, self.mask, (name, 'src_key_padding_mask'))
        out = self.layer(x if self.batch_first else x.transpose(0, 1), **options)
        return out if self.batch_first else out.transpose(0, 1)


class Decoding(nn.Module):
    """A transformer decoder, one layer of it, or both halves: x attends to itself and to other features of x."""

    def __init__(self, layer: nn.Module, memory: nn.Module, batch_first: bool, mask: str) -> None:
        super().__init__()
        self.layer, self.memory, self.batch_first, self.mask = layer, memory, batch_first, mask

    def forward(self, x: Tensor) -> Tensor:
        options = masks_of(x, self.mask, ('tgt_mask', 'tgt_key_padding_mask'))
        memory = self.memory(x)
        if not self.batch_first:
            x, memory = x.transpose(0, 1), memory.transpose(0, 1)
        pair = (memory, x) if isinstance(self.layer, nn.Transformer) else (x, memory)
        out = self.layer(*pair, **options)
        return out if self.batch_first else out.transpose(0, 1)


class Bag(nn.Module):
    """An embedding bag over ids (N, L), given as a matrix, or as one row with offsets and weights."""

    def __init__(self, layer: nn.EmbeddingBag, offsets: bool) -> None:
        super().__init__()
        self.layer, self.offsets = layer, offsets

    def forward(self, ids: Tensor) -> Tensor:
        if not self.offsets:
            return self.layer(ids)
        starts = torch.arange(0, ids.numel(), ids.size(1))
        return self.layer(ids.flatten(), starts)


def masks_of(x: Tensor, mask: str, names: tuple[str, str]) -> dict[str, Tensor]:
    """The masks of a batch (N, L, C) by the names of the arguments of (attention, padding)."""
    length = x.size(1)
    options: dict[str, Tensor] = {}
    if mask in ('causal', 'both'):
        options[names[0]] = torch.ones(length, length, dtype=torch.bool).triu(1)
    if mask in ('padding', 'both'):
        hidden = torch.zeros(x.size(0), length, dtype=torch.bool)
        hidden[:, -1] = True
        options[names[1]] = hidden
    return options


LONGEST = 16
"""Recurrent layers take no more steps than this: each of them is traced."""

MASKS = ('none', 'none', 'causal', 'padding', 'both')


def _check_length(x: Tensor) -> None:
    if x.size(1) > LONGEST:
        raise ValueError(f'{x.size(1)} steps are too many')


@layer('tokens')
def recurrent(draw: Draw, x: Tensor) -> nn.Module:
    """RNN, LSTM or GRU; of several layers, in both directions, with a projection."""
    _check_length(x)
    kind = draw.pick(nn.RNN, nn.LSTM, nn.LSTM, nn.GRU)
    options: dict[str, Any] = draw.options(
        num_layers=(1, 1, 2), bias=(True, True, False), batch_first=(True, False), bidirectional=(True, False)
    )
    if kind is nn.LSTM and draw.chance(0.4):
        options['proj_size'] = 3
    if kind is nn.RNN:
        options['nonlinearity'] = draw.pick('tanh', 'relu')
    if options['num_layers'] > 1 and draw.chance(0.3):
        options['dropout'] = 0.2
    return Recurrent(kind(x.size(-1), draw.width(), **options), draw.chance(0.3))


@layer('tokens')
def cell(draw: Draw, x: Tensor) -> nn.Module:
    """One recurrent cell, unrolled."""
    _check_length(x)
    return Unrolled(draw.pick(nn.RNNCell, nn.LSTMCell, nn.GRUCell)(x.size(-1), draw.width(), bias=draw.chance(0.7)))


@layer('tokens')
def attention(draw: Draw, x: Tensor) -> nn.Module:
    """Multi-head attention with every option."""
    width = x.size(-1)
    heads = draw.divisor(width)
    options: dict[str, Any] = draw.options(
        bias=(True, True, False), add_bias_kv=(False, False, False, True), add_zero_attn=(False, False, False, True),
        batch_first=(True, False), dropout=(0.0, 0.0, 0.1),
    )  # fmt: skip
    key = None
    if draw.chance(0.4):
        other = draw.width()
        options.update(kdim=other, vdim=other)
        key = nn.Linear(width, other)
    made = nn.MultiheadAttention(width, heads, **options)
    return Attending(made, key, draw.choice(MASKS), draw.chance(0.5))


def _transformer_options(draw: Draw) -> dict[str, Any]:
    return draw.options(
        dim_feedforward=(8, 12), dropout=(0.0, 0.1), activation=('relu', 'gelu'), batch_first=(True, True, False),
        norm_first=(True, False), bias=(True, True, False),
    )  # fmt: skip


@layer('tokens')
def encoder(draw: Draw, x: Tensor) -> nn.Module:
    """Transformer encoders."""
    width, options = x.size(-1), _transformer_options(draw)
    made: nn.Module = nn.TransformerEncoderLayer(width, draw.divisor(width), **options)
    if draw.chance(0.7):
        norm = nn.LayerNorm(width) if draw.chance(0.5) else None
        made = nn.TransformerEncoder(made, draw.pick(1, 2, 3), norm, enable_nested_tensor=draw.chance(0.5))
    return Encoding(made, options['batch_first'], draw.choice(MASKS))


@layer('tokens')
def decoder(draw: Draw, x: Tensor) -> nn.Module:
    """Transformer decoders, and encoder and decoder together."""
    width, options = x.size(-1), _transformer_options(draw)
    heads = draw.divisor(width)
    made: nn.Module = nn.TransformerDecoderLayer(width, heads, **options)
    if draw.chance(0.3):
        made = nn.Transformer(width, heads, draw.pick(1, 2), draw.pick(1, 2), **options)
    elif draw.chance(0.6):
        made = nn.TransformerDecoder(made, draw.pick(1, 2), nn.LayerNorm(width) if draw.chance(0.5) else None)
    return Decoding(made, nn.Linear(width, width), options['batch_first'], draw.choice(MASKS))


IDS = 20
"""Ids of embeddings run from 0 to this, exclusively."""


def embedding(draw: Draw, x: Tensor) -> nn.Module:
    """Ids (N, L) to tokens (N, L, C), or to vectors (N, C)."""
    width = draw.width()
    if draw.chance(0.6):
        options: dict[str, Any] = dict(padding_idx=draw.pick(None, None, 0))
        options['max_norm'] = draw.pick(None, None, None, 1.0)
        return nn.Embedding(IDS, width, scale_grad_by_freq=draw.chance(0.2), **options)
    return Bag(nn.EmbeddingBag(IDS, width, mode=draw.pick('sum', 'mean', 'max')), draw.chance(0.4))


EMBEDDING: Factory = embedding
