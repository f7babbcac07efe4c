"""Search configs: build their supernet, and check them before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ...errors import ConfigError
from ..algorithm import DMSAlgorithm
from ..config_checks import check_model_section, check_training_sections
from ..configs import check_model_types
from ..export.subnet import without_pretrained


def check_search(config: Config) -> None:
    """Build the supernet of a search config once, traced and verified, and forget it.

    A Runner would find an impossible budget or a pattern that matches nothing
    too, but only after it wrote its work dir. Other configs pass unchecked; the
    caller's random state is left alone.

    Raises:
        ConfigError, BudgetError: the config cannot be searched; the message says why.
    """
    if _is_search(config.model):
        check_model_types(config)  # imports what the scope of the config registers
        check_training_sections(config)
        state = np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            build_algorithm(config)
        np.random.set_state(state)


def build_algorithm(config: Config) -> DMSAlgorithm:
    """Build the supernet of a search config, its pretrained weights left out.

    Raises:
        ConfigError: if the config is not one of a search.
    """
    model = config.get('model') or {}
    if not _is_search(model):
        raise ConfigError(
            f'config {config.filename!r} is no search config: its model is {model.get("type")!r}; '
            'give the config that tools/train.py searched with'
        )
    init_default_scope(config.get('default_scope') or 'mmengine')
    check_model_types(config)
    check_model_section(model)
    built = without_pretrained(model)
    if config.get('data_preprocessor') is not None:
        built.setdefault('data_preprocessor', config.data_preprocessor)
    return MODELS.build(built)


def _is_search(model: Mapping[str, Any]) -> bool:
    """Whether the config of a model is that of a search, be it with its mutator left out by mistake."""
    return 'mutator' in model or model.get('type') in ('DMSAlgorithm', 'mmdms.DMSAlgorithm')
