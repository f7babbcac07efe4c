"""Attention heads are found from operations, and tables of embeddings followed, in classes that nobody adapts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmdms
from mmdms.verification.parity import check_parity
from mmdms.verification.verifier import uneven_structure

DIMS, WIDTH = 24, 4


class Attention(nn.Module):
    """Four queries of width 4 on a stream of 24, for each ``groups`` of which there is a key; sizes by ``-1``."""

    def __init__(self, groups=1, fused=False):
        super().__init__()
        self.groups, self.fused = groups, fused
        self.q, self.k, self.v = (nn.Linear(DIMS, 16 // n) for n in (1, groups, groups))
        self.out = nn.Linear(16, DIMS)

    def forward(self, x):
        q, k, v = (layer(x).view(1, x.size(1), -1, WIDTH).transpose(1, 2) for layer in (self.q, self.k, self.v))
        k, v = (part.repeat_interleave(self.groups, 1) for part in (k, v))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Joint(nn.Module):
    """One layer for queries, keys and values, which come first in its view; the number of heads is an attribute."""

    def __init__(self, heads=4):
        super().__init__()
        self.number_of_heads, self.inner_dim = heads, heads * WIDTH
        self.qkv, self.out = nn.Linear(DIMS, 3 * self.inner_dim), nn.Linear(self.inner_dim, DIMS)

    def forward(self, x):
        q, k, v = self.qkv(x).view(1, -1, 3, self.number_of_heads, WIDTH).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(1, -1, self.inner_dim))


class OneAfterTheOther(nn.Module):
    """Queries, keys and values of a head lie one after the other."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(DIMS, 48), nn.Linear(16, DIMS)

    def forward(self, x):
        q, k, v = self.qkv(x).view(1, x.size(1), -1, 3 * WIDTH).transpose(1, 2).chunk(3, -1)
        return self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Words(nn.Module):
    """A table, attention, and an output layer that may share the weight of the table."""

    def __init__(self, attention, tied=True):
        super().__init__()
        self.table, self.attention = nn.Embedding(11, DIMS), attention
        self.out = nn.Linear(DIMS, 11, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, words):
        x = self.table(words)
        return self.out(x + self.attention(x))


ATTENTIONS = {
    'a key per query': (Attention, 'heads', 4),
    'two keys': (lambda: Attention(2), 'heads', 2),
    'fused': (lambda: Attention(fused=True), 'heads', 4),
    'fused, two keys': (lambda: Attention(2, fused=True), 'heads', 2),
    'joint': (Joint, 'number_of_heads', 4),
    'joint, three heads': (lambda: Joint(3), 'number_of_heads', 3),
    'one after the other': (OneAfterTheOther, 'heads', 4),
}


@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('name', ATTENTIONS)
def test_heads_and_stream(name, tied):
    make, heads, count = ATTENTIONS[name]
    torch.manual_seed(0)
    model, words = Words(make(), tied), torch.tensor([[3, 1, 4, 1, 5]])
    space = mmdms.build_search_space(model, words)
    assert [(u.name, u.kind, u.total) for u in space.units] == [
        ('table', 'channels', DIMS),
        (f'attention.{heads}', 'heads', count),
    ]
    structure = uneven_structure(space, 0, 1, [0, 1])
    assert check_parity(model, space, structure, words).share <= 1e-12
    subnet = mmdms.slim(model, space, structure)
    assert (subnet.out.weight is subnet.table.weight) == tied
    assert subnet.table.weight.shape == (11, structure.mask('table').sum())


def test_a_single_key_stays_with_all_its_queries():
    torch.manual_seed(0)
    space = mmdms.build_search_space(Words(Attention(4)), torch.tensor([[3, 1, 4, 1, 5]]))
    assert [unit.name for unit in space.units] == ['table']
    assert 'is a single head, and one must stay' in [row.reason for row in space.frozen]


def test_a_layer_may_be_a_view_of_its_input():
    """A stream of rows: a block that flattens and restores its input carries it on, and can be removed."""

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            rows = x.flatten(0, 1)
            return (rows + self.layer(rows)).view(x.shape)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), Rows(), Rows(), nn.Linear(6, 2))
    space = mmdms.build_search_space(model, torch.rand(1, 4, 3))
    assert [(u.kind, u.total) for u in space.units] == [('channels', 6), ('depth', 2)]


def test_a_table_that_a_product_reads_is_masked_there_and_whole_where_it_is_looked_up():
    class Untold(Words):
        def forward(self, words):
            x = self.table(words)
            return F.linear(x + self.attention(x), self.table.weight)

    torch.manual_seed(0)
    model, words = Untold(Attention()), torch.tensor([[3, 1, 4, 1, 5]])
    space = mmdms.build_search_space(model, words)
    assert [(u.name, u.kind, u.total) for u in space.units] == [
        ('table', 'channels', DIMS),
        ('attention.heads', 'heads', 4),
    ]
    assert check_parity(model, space, uneven_structure(space, 0, 1, [0, 1]), words).share <= 1e-12
