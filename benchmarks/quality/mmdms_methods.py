"""The searches of mmdms, in plain PyTorch."""

import torch.nn.functional as F

from .methods import Found, register
from .networks import build_network, example_input
from .training import FINETUNE_LR, TRAIN_LR, evaluate, make_optimizer, make_schedule, ready_to_train, train_stream

#: Arguments of ``DMSMutator`` for every search of the benchmark: its defaults, but widths need not be multiples of 8.
MUTATOR = dict(divisor=1)


def search(cell, model, steps, lr, **mutator_args):
    """Search a network for some steps and slice it.

    Args:
        cell (Cell): The budget, and the seed of the data.
        model (nn.Module): The supernet, pretrained or new.
        steps (int): Training steps of the search.
        lr (float): Peak of the weights' one-cycle learning rate.
        **mutator_args: Override :data:`MUTATOR`.

    Returns:
        tuple[nn.Module, dict]: The sliced network with the weights it kept,
        and notes: the accuracy under hard masks and all kept counts.
    """
    from mmdms.api import build_search_space
    from mmdms.masks.channel_masks import without_masks
    from mmdms.mutators import DMSMutator
    from mmdms.slicing.slim import slim

    space = build_search_space(model, example_input())
    mutator = DMSMutator(budget=dict(metric='flops', target=cell.target), **{**MUTATOR, **mutator_args})
    mutator.prepare(model, space)
    ready_to_train(model)
    optimizer = make_optimizer(model.parameters(), lr)
    schedule = make_schedule(optimizer, lr, steps)
    mutator.attach(optimizer)
    stream = train_stream(cell.stream_seed('search'))
    for step in range(steps):
        mutator.set_progress(step / steps)
        x, y = next(stream)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    structure = mutator.structure()
    notes = dict(accuracy_masked=evaluate(model), kept={row['name']: row['kept'] for row in structure.report()})
    return slim(without_masks(model), space, structure), notes


@register('mmdms_pretrained')
def mmdms_pretrained(cell):
    """DMS from pretrained weights."""
    model, notes = search(cell, cell.pretrained(), cell.search_steps, FINETUNE_LR)
    return Found(model, steps=cell.search_steps, notes=notes)


@register('mmdms_scratch')
def mmdms_scratch(cell):
    """DMS from new weights; the steps that it does not spend on pretraining go to the search."""
    steps = cell.search_steps + cell.pretrain_steps
    model, notes = search(cell, build_network(cell.network, cell.seed), steps, TRAIN_LR)
    return Found(model, steps=cell.search_steps, instead=cell.pretrain_steps, notes=notes)
