"""Positions that attention depends on: by row and by column (MViT, SAM), and as rotations (EVA-02)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Adapter


def relative_bias(
    adapter: Adapter, q: Tensor, rows: Tensor, columns: Tensor, q_shape: tuple[int, int], k_shape: tuple[int, int]
) -> Tensor:
    """What relative positions add to attention, from queries: the sum of a product by row and one by column.

    Args:
        adapter: the running module, whose mask ``'query'`` is that of the width of a query.
        q: (B, heads, tokens, width), the tokens being those of a map.
        rows, columns: one vector per distance, shape (distances, width).
        q_shape, k_shape: height and width of the maps of queries and keys.

    Returns:
        Shape (B, heads, tokens of the query, tokens of the key).
    """
    grid = q.unflatten(2, q_shape)
    found = []
    for dim, table in ((0, rows), (1, columns)):
        distances = _distances(table, q_shape[dim], k_shape[dim])
        masked, distances = adapter.contract('query', grid, distances)
        found.append(torch.einsum('bnhwc,hkc->bnhwk' if dim == 0 else 'bnhwc,wkc->bnhwk', masked, distances))
    return (found[0][..., None] + found[1][..., None, :]).flatten(4).flatten(2, 3)


def _distances(table: Tensor, queries: int, keys: int) -> Tensor:
    """Vectors of all pairs of positions, shape (queries, keys, width), of a table (distances, width)."""
    longest = 2 * max(queries, keys) - 1
    if len(table) != longest:
        table = F.interpolate(table.t()[None], size=longest, mode='linear')[0].t()
    step_q, step_k = max(keys / queries, 1.0), max(queries / keys, 1.0)
    apart = torch.arange(queries)[:, None] * step_q - torch.arange(keys)[None, :] * step_k + (keys - 1) * step_k
    return table[apart.long()]
