"""Hooks with which a run that was interrupted goes on as if it had not been."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook

from ..registries import HOOKS

KEY = 'mmdms_random'


@HOOKS.register_module()
class ResumeHook(Hook):
    """Keeps the random states (Python, numpy, PyTorch, CUDA) in checkpoints, and takes them up again on resume.

    Validation leaves them as they were, so that a run that resumes after a checkpoint, and does not validate it
    again, draws what the run without interruption drew.

    Only the states of the first process are in a checkpoint; on resume others are seeded anew.
    """

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None
        self._before_val: dict[str, Any] | None = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the random states."""
        checkpoint[KEY] = random_states()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Remember the random states of a checkpoint that the run resumes."""
        if not runner._resume:
            return
        self._pending = checkpoint.get(KEY)
        if self._pending is None:
            runner.logger.warning(
                'the checkpoint holds no random states: the run goes on, but will not equal one without interruption'
            )

    def before_train_epoch(self, runner: Any) -> None:
        """Take up the random states where the checkpoint left them."""
        if self._pending is None:
            return
        state, self._pending = self._pending, None

        def take_up() -> None:
            if get_rank() == 0:
                set_random_states(state)
            else:
                seed = (runner.seed + runner.iter * get_world_size() + get_rank()) % 2**32
                random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)

        data = getattr(runner.train_loop, 'dataloader_iterator', None)
        if hasattr(data, '_ensure_iterator'):
            runner.train_loop.dataloader_iterator = _ResumedData(data, take_up)
        else:
            take_up()
        runner.logger.info('random states are those of the checkpoint')
        if getattr(runner.train_dataloader, 'persistent_workers', False) or get_world_size() > 1:
            runner.logger.warning(
                'random states of persistent data workers and of further processes begin anew: '
                'the run goes on, but will not equal one without interruption in every bit'
            )

    def before_val(self, runner: Any) -> None:
        """Remember the random states."""
        self._before_val = random_states()

    def after_val(self, runner: Any) -> None:
        """Back to the random states before validation."""
        if self._before_val is not None:
            set_random_states(self._before_val)
            self._before_val = None


class _ResumedData:
    """The endless data of a loop by iterations, which begins to read them anew after a resume.

    PyTorch draws a number whenever reading begins, which the run without interruption did long ago: states are taken
    up after that, and before the first batch is made.
    """

    def __init__(self, data: Any, take_up: Callable[[], None]) -> None:
        self._data = data
        self._take_up: Callable[[], None] | None = take_up

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def __iter__(self) -> _ResumedData:
        return self

    def __next__(self) -> Any:
        if self._take_up is not None:
            self._data._ensure_iterator()
            self._take_up()
            self._take_up = None
        return next(self._data)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, which with ``max_keep_ckpts`` removes the old checkpoint before it has written the new one.

    Here the old one goes when the new one is whole, so that a kill at any time leaves one to resume.
    """

    file_backend: Any

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        backend: Any = self.file_backend
        later: Any = _RemoveLater(backend)
        self.file_backend = later
        try:
            super()._save_checkpoint_with_step(runner, step, meta)
        finally:
            self.file_backend = backend
        later.remove_now()


class _RemoveLater:
    """A file backend that puts off what it is asked to remove."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._calls: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._calls.append(('remove', path))

    def rmtree(self, path: str) -> None:
        self._calls.append(('rmtree', path))

    def remove_now(self) -> None:
        for name, path in self._calls:
            getattr(self._backend, name)(path)


def random_states() -> dict[str, Any]:
    """States of all generators, as tensors and plain Python data."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states: dict[str, Any] = dict(
        python=[version, list(internal), gauss],
        numpy=[
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Set what :func:`random_states` returned; those of GPUs only where there are as many."""
    version, internal, gauss = states['python']
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states['torch'].cpu())
    cuda = states.get('cuda')
    if cuda and torch.cuda.is_available() and torch.cuda.device_count() == len(cuda):
        torch.cuda.set_rng_state_all([state.cpu() for state in cuda])
