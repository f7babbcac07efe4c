"""Build architectures of any scope and run them on images alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..errors import ConfigError, ModelError
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
        with _own_scope(config['type']):
            return MODELS.build(config)
    except KeyError as error:
        raise ConfigError(f'architecture cannot be built: {error.args[0] if error.args else error}') from error


@contextmanager
def _own_scope(kind: Any) -> Iterator[None]:
    """Parts whose type names no package are of the package that the whole names, whichever package was used last."""
    package = kind.partition('.')[0] if isinstance(kind, str) and '.' in kind else ''
    with DefaultScope.overwrite_default_scope(package if package in MODULE2PACKAGE else None):
        yield


def tensor_forward(model: nn.Module) -> Callable[..., Any]:
    """What to call to run an OpenMMLab model on images alone; any other model itself.

    A model with a forward of its own, such as ``forward(self, imgs, labels, mode)``, is called with ``mode='tensor'``
    and None for the other arguments that it must have. What is returned raises ModelError if that does not do.
    """
    if is_detector(model):
        return detector_forward(model)
    return _images_forward(model) if isinstance(model, BaseModel) else model


def _images_forward(model: nn.Module) -> Callable[[Tensor], Any]:
    """``model(images, mode='tensor')``; whatever else its forward asks for (labels, say) is None."""
    name = f'{type(model).__name__}.forward'
    parameters = dict(inspect.signature(model.forward).parameters)
    takes_mode = 'mode' in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known: dict[str, Any] = {'mode': 'tensor'} if takes_mode else {}
    named = [p for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    absent = [p.name for p in named[1:] if p.default is p.empty and p.name not in known]
    known.update(dict.fromkeys(absent))
    call = f'{name}(images{"".join(f", {key}={value!r}" for key, value in known.items())})'

    def run(images: Tensor) -> Any:
        try:
            outputs = model(images, **known)
        except (AttributeError, TypeError) as error:
            if not absent:
                raise
            raise ModelError(
                f'{call} raised {type(error).__name__}: {error}. Of an OpenMMLab model only images are known here: '
                "have its forward do without the rest for mode 'tensor'"
            ) from error
        if outputs is None:
            raise ModelError(
                f"{call} returned None: have it return the outputs of its layers there: if mode == 'tensor': return x"
            )
        return outputs

    return run


def check_input_shape(shape: Any) -> tuple[int, int, int]:
    """Return ``shape`` as a tuple; raise ConfigError unless it is three positive whole numbers."""
    if not isinstance(shape, (tuple, list)) or len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ConfigError(
            f'input_shape must be (channels, height, width), three positive numbers, but it is {shape!r}'
        )
    channels, height, width = shape
    return channels, height, width
