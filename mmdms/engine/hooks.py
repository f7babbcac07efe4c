"""The hook that moves a search along."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper

from ..errors import ConfigError
from ..registry import HOOKS


@HOOKS.register_module()
class BudgetHook(Hook):
    """Tells the mutator the progress of the run, which sets the budget target and the phase.

    Priority ``VERY_HIGH``: the target is set before other hooks act on the
    iteration, and the structure is fixed before the last checkpoint is written.

    Where an ``EMAHook`` averages weights, the averaged network shares the state
    of the search instead of averaging it: what is validated and saved is the
    structure of the moment with averaged weights.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Check that the optimizer knows the structure, and say how large the search is."""
        mutator = _mutator(runner)
        if not mutator.attached:
            raise ConfigError(
                'the optimizer does not know the keep ratios: set '
                "optim_wrapper.constructor='mmdms.DMSOptimWrapperConstructor' in the config"
            )
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                mutator.share_state(_mutator_of(hook.ema_model.module))
        runner.logger.info(mutator.describe())

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Set progress, in [0, 1), and tell the mutator the loss scale of mixed precision.

        Batches whose gradients are accumulated are one step of the search: all of them see one and the same
        structure, as they would in one large batch.
        """
        mutator = _mutator(runner)
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        mutator.loss_scale = scaler.get_scale() if scaler is not None else 1.0
        accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        self._advance(runner, (runner.iter - runner.iter % accumulated) / runner.max_iters)

    def after_train(self, runner: Any) -> None:
        """A run that ends has a structure."""
        self._advance(runner, 1.0)

    def _advance(self, runner: Any, progress: float) -> None:
        mutator = _mutator(runner)
        settled = bool(mutator.settled)
        mutator.set_progress(progress)
        if mutator.settled and not settled:
            runner.logger.info(mutator.describe_structure())


def _mutator(runner: Any) -> Any:
    return _mutator_of(runner.model.module if is_model_wrapper(runner.model) else runner.model)


def _mutator_of(model: Any) -> Any:
    mutator = getattr(model, 'mutator', None)
    if mutator is None:
        raise ConfigError(f'BudgetHook needs a model with a mutator (mmdms.DMSAlgorithm), got {type(model).__name__}')
    return mutator
