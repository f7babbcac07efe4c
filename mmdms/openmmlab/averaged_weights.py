"""Weights that mmengine's ``EMAHook`` averaged over the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError


def choose_weights(content: dict[str, Any], checkpoint: str, averaged: bool | None) -> dict[str, Any]:
    """State dict of a checkpoint, with averaged weights or those of the last step.

    ``EMAHook`` swaps the two as it saves: ``state_dict`` holds the averaged
    weights, which were validated, and ``ema_state_dict`` those that trained.

    Args:
        content: what :func:`mmdms.openmmlab.checkpoints.read_checkpoint` returned.
        checkpoint: its name, for messages.
        averaged: True: averaged weights; False: those of the last step; None: averaged
            ones where there are some.

    Raises:
        CheckpointError: there are no averaged weights where they are asked for, or not all of the last ones.
    """
    state: dict[str, Any] = content['state_dict']
    trained = content.get('ema_state_dict')
    if not isinstance(trained, Mapping):
        if averaged:
            raise CheckpointError(
                f'checkpoint {checkpoint!r} holds no averaged weights (no ema_state_dict): leave --ema out, '
                "or search with an EMAHook in the config's custom_hooks"
            )
        return state
    if averaged is False:
        print('weights: those of the last step, not their averages, which the search validated')
        last = {key.removeprefix('module.'): v for key, v in trained.items() if str(key).startswith('module.')}
        if last.keys() != state.keys():
            raise CheckpointError(
                f'checkpoint {checkpoint!r} is damaged: its state_dict has {len(state)} entries, and its '
                f'ema_state_dict {len(last)} of a model, not the same ones; leave --no-ema out'
            )
        state.update(last)  # the state dict as it was read: it carries the version of its format
    else:
        print('weights: averaged by EMAHook, as validated; --no-ema takes those of the last step')
    return state
