"""The check that nothing vanishes from the report of a search space."""

import torch

from mmdms.space.search_space import FIXED
from mmdms.tracing.partition import partition


def assert_partition(model, space):
    """Every position of every dimension above 1 of every parameter may go, or stays for reasons that are listed."""
    found = {(d.parameter, d.dim): d for d in partition(model, space)}
    parameters = dict(model.named_parameters())
    every = {(name, dim) for name, p in parameters.items() for dim, size in enumerate(p.shape) if size > 1}
    assert found.keys() == every
    moving = {(a.parameter, a.dim): int((a.elements != FIXED).any(1).sum()) for a in space.axes}
    for (name, dim), dimension in found.items():
        assert dimension.size == parameters[name].size(dim)
        assert dimension.state in ('searched', 'follows', 'frozen', 'kernel'), dimension
        if dimension.state == 'kernel':
            assert (name, dim) not in moving and dim >= 1 and parameters[name].dim() >= 3, dimension
            continue
        assert dimension.kept + moving.get((name, dim), 0) == dimension.size, dimension
        assert (dimension.state == 'frozen') == ((name, dim) not in moving), dimension
        assert bool(dimension.reasons) == (dimension.kept > 0), dimension
        assert all(reason in space.frozen and reason.reason and reason.elements for reason in dimension.reasons)
        rows = space.held[name, dim]
        assert rows.shape == (dimension.size,) and int(torch.max(rows)) < len(space.frozen)
    return found
