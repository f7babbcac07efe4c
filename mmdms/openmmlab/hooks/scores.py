"""Hooks that follow a score of validation wait until the networks that are validated cost the same."""

from __future__ import annotations

from math import isfinite
from typing import Any

from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook, ParamSchedulerHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from ..registries import HOOKS
from .searched import mutator_of_runner

KEY = 'mmdms_scores'


@HOOKS.register_module()
class ScoreHook(Hook):
    """Has ``save_best``, early stopping and schedules on a plateau count scores only once these can be compared.

    While a budget falls, every validation is of a larger network than the next: the best score would be that of the
    first, and patience would end with every step of the budget. So these hooks see no score before
    ``mutator.comparable``, which for a search is the settle phase. Checkpoints that are saved at intervals, and
    schedules that follow no score, are as ever. A score that is not finite stops a run in every phase.

    Their state is in every checkpoint. A checkpoint is written before it is validated, so a run that resumes one
    validates it first where a hook has not counted its score yet.

    :class:`mmdms.openmmlab.hooks.BudgetHook` registers this hook.
    """

    priority = 'LOWEST'  # other hooks are ready before the first validation

    def __init__(self) -> None:
        self._followers: list[_Follower] = []
        self._resumed: list[dict[str, Any]] | None = None

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add what each hook has counted."""
        if self._followers:
            checkpoint[KEY] = [follower.state() for follower in self._followers]

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Remember what the hooks of a run that resumes had counted."""
        if runner._resume:
            self._resumed = checkpoint.get(KEY, [])

    def before_train(self, runner: Any) -> None:
        """Find the hooks that follow a score, and say from when on they count."""
        self._followers = find_followers(runner)
        if not self._followers:
            return
        self._say(runner)
        if self._resumed is not None:
            for follower, state in zip(self._followers, self._resumed, strict=False):
                follower.load(state)
            self._resumed = None
            self._catch_up(runner)

    def _say(self, runner: Any) -> None:
        start = mutator_of_runner(runner).comparable_from
        names = ', '.join(follower.name for follower in self._followers)
        if start >= 1:
            runner.logger.warning(
                f'{names}: no score will count, because the budget is met only at the end of the run; set '
                'mutator.schedule so that masks settle before it (mutator.schedule.settle=0.75)'
            )
        elif start > 0:
            runner.logger.info(
                f'{names}: scores count from progress {start:g} of the run on; the networks that are validated before '
                'are of other sizes'
            )

    def _catch_up(self, runner: Any) -> None:
        waiting = [follower.name for follower in self._followers if follower.counted != runner.iter]
        if waiting and mutator_of_runner(runner).comparable and _validates_now(runner):
            runner.logger.info(f'validating the checkpoint first: {", ".join(waiting)} has not counted its score yet')
            runner.val_loop.run()


class _Follower:
    """Takes the place of ``after_val_epoch`` of a hook, and passes on each score that counts, once."""

    def __init__(self, hook: Hook, name: str) -> None:
        self.hook = hook
        self.name = name
        self.counted = -1  # iteration of the last validation whose score the hook has seen
        self._after = hook.after_val_epoch
        hook.after_val_epoch = self

    def __call__(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        if self.counted == runner.iter:
            return
        if mutator_of_runner(runner).comparable or self._fails(metrics or {}):
            self.counted = runner.iter  # before the call: `save_best` writes a checkpoint in it
            self._after(runner, metrics)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as plain data."""
        state: dict[str, Any] = dict(counted=self.counted)
        if isinstance(self.hook, EarlyStoppingHook):  # mmengine saves the state of the others
            state.update(best_score=float(self.hook.best_score), wait_count=int(self.hook.wait_count))
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` returned."""
        self.counted = state['counted']
        if isinstance(self.hook, EarlyStoppingHook) and 'wait_count' in state:
            self.hook.best_score, self.hook.wait_count = state['best_score'], state['wait_count']

    def _fails(self, metrics: dict[str, float]) -> bool:
        hook = self.hook
        return isinstance(hook, EarlyStoppingHook) and hook.check_finite and not isfinite(metrics.get(hook.monitor, 0))


def find_followers(runner: Any) -> list[_Follower]:
    """Have the hooks of a run that follow a score wait; those that wait already are returned as they are."""
    found = []
    for hook in runner.hooks:
        if isinstance(hook.after_val_epoch, _Follower):
            found.append(hook.after_val_epoch)
        elif isinstance(hook, CheckpointHook) and hook.save_best:
            found.append(_Follower(hook, 'save_best'))
        elif isinstance(hook, EarlyStoppingHook):
            found.append(_Follower(hook, 'EarlyStoppingHook'))
        elif isinstance(hook, ParamSchedulerHook) and _on_plateau(runner):
            found.append(_Follower(hook, _on_plateau(runner)[0]))
    return found


def _on_plateau(runner: Any) -> list[str]:
    """Classes of the schedulers that take scores."""
    schedulers = getattr(runner, 'param_schedulers', None) or []
    lists = list(schedulers.values()) if isinstance(schedulers, dict) else [schedulers]
    return [type(each).__name__ for part in lists for each in part if getattr(each, 'need_val_args', False)]


def _validates_now(runner: Any) -> bool:
    """Whether a run that was not interrupted validates after the iteration that it has reached."""
    loop = runner.train_loop
    if runner.val_loop is None or runner.iter == 0:
        return False
    if isinstance(loop, IterBasedTrainLoop):
        now, end = loop.iter, loop.max_iters
    elif isinstance(loop, EpochBasedTrainLoop) and loop.iter == loop.epoch * len(loop.dataloader):
        now, end = loop.epoch, loop.max_epochs
    else:
        return False
    loop._decide_current_val_interval()
    return now >= loop.val_begin and (now % loop.val_interval == 0 or now == end)
