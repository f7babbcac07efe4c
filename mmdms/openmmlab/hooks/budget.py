"""The hook that moves a search along."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EMAHook, Hook

from ...errors import ConfigError
from ...mutators.schedule import PHASES
from ..registries import HOOKS
from .norm_statistics import NormStatistics
from .scores import ScoreHook
from .searched import mutator_of, mutator_of_runner


@HOOKS.register_module()
class BudgetHook(Hook):
    """Tells the mutator the progress of the run, which sets the budget target and the phase.

    Priority ``VERY_HIGH``: the target is set before other hooks act on the
    iteration, and the structure is fixed before the last checkpoint is written.

    Where an ``EMAHook`` averages weights, the averaged network shares the state
    of the search instead of averaging it: what is validated and saved is the
    structure of the moment with averaged weights.

    The log names each phase as it begins, and the network that is validated.
    Before the settle phase that is the soft network, as it trains, with norm
    statistics of its own: those that training gathers lag behind masks that move.
    Hooks that follow a score wait for the settle phase (see :class:`ScoreHook`).

    Args:
        validate: ``'soft'``, or ``'hard'``: before the settle phase the masks of the moment are made hard to validate.
        statistics_batches: before the settle phase, batch norms are validated with statistics of so many training
            batches, the last ones, which are kept in memory. 0: with the statistics that training gathers.

    Raises:
        ConfigError: for a value that cannot be used; the message names it.
    """

    priority = 'VERY_HIGH'

    def __init__(self, validate: str = 'soft', statistics_batches: int = 8) -> None:
        if validate not in ('soft', 'hard'):
            raise ConfigError(f"BudgetHook.validate must be 'soft' or 'hard', but it is {validate!r}")
        if type(statistics_batches) is not int or statistics_batches < 0:
            raise ConfigError(
                f'BudgetHook.statistics_batches must be a number of batches, or 0, but it is {statistics_batches!r}'
            )
        self.validate = validate
        self._statistics = NormStatistics(statistics_batches)
        self._phase = ''  # that the log named last

    def before_run(self, runner: Any) -> None:
        """Have hooks that follow a score wait."""
        if not any(isinstance(hook, ScoreHook) for hook in runner.hooks):
            runner.register_hook(ScoreHook())

    def before_train(self, runner: Any) -> None:
        """Check that the optimizer knows the structure, and say how large the search is."""
        mutator = mutator_of_runner(runner)
        if not mutator.attached:
            raise ConfigError(
                'the optimizer does not know the keep ratios: set '
                "optim_wrapper.constructor='mmdms.DMSOptimWrapperConstructor' in the config"
            )
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                mutator.share_state(mutator_of(hook.ema_model.module))
        runner.logger.info(mutator.describe())

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Set progress, in [0, 1), and tell the mutator the loss scale of mixed precision.

        Batches whose gradients are accumulated are one step of the search: all of them see one and the same
        structure, as they would in one large batch.
        """
        mutator = mutator_of_runner(runner)
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        mutator.loss_scale = scaler.get_scale() if scaler is not None else 1.0
        accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        self._advance(runner, (runner.iter - runner.iter % accumulated) / runner.max_iters)
        if not mutator.settled:
            self._statistics.keep(data_batch)

    def after_train(self, runner: Any) -> None:
        """A run that ends has a structure."""
        self._advance(runner, 1.0)

    def before_val(self, runner: Any) -> None:
        """Name the network that is validated."""
        mutator_of_runner(runner).evaluate_hard = self.validate == 'hard'
        self._name(runner, 'val', 'validating')

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Estimate norm statistics, once averaged weights are in their place."""
        if batch_idx == 0 and mutator_of_runner(runner).network in ('soft', 'hard'):
            self._statistics.estimate(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Back to the network that trains, before averaged weights leave their place and checkpoints are written."""
        self._statistics.put_back()
        mutator_of_runner(runner).evaluate_hard = False

    def before_test(self, runner: Any) -> None:
        """Name the network that is tested."""
        self._name(runner, 'test', 'testing')
        if mutator_of_runner(runner).network == 'soft':
            runner.logger.warning(
                'the batch norm statistics of this checkpoint lag behind its masks: the score may be far below the '
                'one that the search logged; test the network that tools/prune.py exports'
            )

    def _advance(self, runner: Any, progress: float) -> None:
        mutator = mutator_of_runner(runner)
        settled = bool(mutator.settled)
        mutator.set_progress(progress)
        if mutator.phase != self._phase:
            self._phase = mutator.phase
            runner.logger.info(f'phase {self._phase} at progress {progress:.3f} of the run')
        runner.message_hub.update_scalar('train/phase', 1 + PHASES.index(self._phase))
        if mutator.settled and not settled:
            runner.logger.info(mutator.describe_structure())
            self._statistics.forget()

    def _name(self, runner: Any, mode: str, doing: str) -> None:
        mutator = mutator_of_runner(runner)
        runner.logger.info(f'{doing} {mutator.describe_network()}')
        runner.message_hub.update_info(f'{mode}/network', mutator.network)
