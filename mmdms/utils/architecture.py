"""Build architectures of any scope and run them on images alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn

from ..errors import ConfigError
from .detection import detector_forward, is_detector


def build_architecture(
    architecture: dict[str, Any] | nn.Module, data_preprocessor: dict[str, Any] | nn.Module | None = None
) -> nn.Module:
    """Build a model of any scope, as the Runner would; a model is returned as it is.

    Raises:
        ConfigError: if the config has no type, or one that no registry knows.
    """
    if isinstance(architecture, nn.Module):
        return architecture
    if not isinstance(architecture, dict) or 'type' not in architecture:
        raise ConfigError(f'architecture must be the config of a model with a type, but it is {architecture!r}')
    config = ConfigDict(architecture)  # as the Runner gives it: some models read their parts by attribute
    if data_preprocessor is not None:
        config.setdefault('data_preprocessor', data_preprocessor)
    try:
        return MODELS.build(config)
    except KeyError as error:
        raise ConfigError(f'architecture cannot be built: {error.args[0] if error.args else error}') from error


def tensor_forward(model: nn.Module) -> Callable[..., Any]:
    """What to call to run an OpenMMLab model on images alone; any other model itself."""
    if is_detector(model):
        return detector_forward(model)
    return (lambda inputs: model(inputs, mode='tensor')) if isinstance(model, BaseModel) else model


def check_input_shape(shape: Any) -> tuple[int, int, int]:
    """Return ``shape`` as a tuple; raise ConfigError unless it is three positive whole numbers."""
    if not isinstance(shape, (tuple, list)) or len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ConfigError(
            f'input_shape must be (channels, height, width), three positive numbers, but it is {shape!r}'
        )
    channels, height, width = shape
    return channels, height, width
