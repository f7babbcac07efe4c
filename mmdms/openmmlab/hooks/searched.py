"""Where a Runner holds the mutator of its search."""

from __future__ import annotations

from typing import Any

from mmengine.model import is_model_wrapper

from ...errors import ConfigError


def mutator_of_runner(runner: Any) -> Any:
    """The mutator of the model that a Runner trains.

    Raises:
        ConfigError: the model has none.
    """
    return mutator_of(runner.model.module if is_model_wrapper(runner.model) else runner.model)


def mutator_of(model: Any) -> Any:
    """The mutator of a model that is not wrapped; raises as :func:`mutator_of_runner`."""
    mutator = getattr(model, 'mutator', None)
    if mutator is None:
        raise ConfigError(f'BudgetHook needs a model with a mutator (mmdms.DMSAlgorithm), got {type(model).__name__}')
    return mutator
