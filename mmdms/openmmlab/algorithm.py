"""The supernet as mmengine trains it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from ..errors import BudgetError, ConfigError
from ..registry import MUTATORS
from ..space.search_space import SearchSpace
from .architecture import build_architecture, check_input_shape
from .model_space import build_model_space
from .registries import MODELS


@MODELS.register_module()
class DMSAlgorithm(BaseModel):
    """Wraps an architecture, searches or prunes it with a mutator and adds what that wants logged, or as a loss.

    The architecture keeps its parameter names (below ``architecture.``), and a
    checkpoint of the plain architecture loads as it is.

    Args:
        architecture: config of an ordinary model, or the model.
        mutator: config of a mutator (registry ``MUTATORS``).
        input_shape: ``(channels, height, width)`` of one sample; FLOPs are counted at this size.
        data_preprocessor: of the architecture; mmengine passes the config's here.
        include, exclude: shell patterns over module names that select what is searched.
        freeze_weights: learn only the structure; weights and norm statistics stay.
        init_cfg: as of any ``BaseModule``.

    Raises:
        ConfigError: for a value that cannot be used; the message names it.
    """

    def __init__(
        self,
        architecture: dict[str, Any] | nn.Module,
        mutator: dict[str, Any],
        input_shape: tuple[int, int, int],
        data_preprocessor: dict[str, Any] | nn.Module | None = None,
        include: tuple[str, ...] = ('*',),
        exclude: tuple[str, ...] = (),
        freeze_weights: bool = False,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        model = build_architecture(architecture, data_preprocessor)
        super().__init__(getattr(model, 'data_preprocessor', None) or data_preprocessor, init_cfg)
        self.architecture = model
        self.freeze_weights = freeze_weights
        self.input_shape = check_input_shape(input_shape)
        # The registry of mutators has no parent: without a scope of its own mmengine would search the default one.
        self.mutator = MUTATORS.build({'_scope_': 'mmdms', **mutator})
        if freeze_weights and self.mutator.needs_weights:
            raise ConfigError(
                f'model.freeze_weights must be False with {type(self.mutator).__name__}: its masks follow from how '
                'the weights learn'
            )
        try:
            space = self.mutator.survey(model, self._space_of, include, exclude)
        except ConfigError as error:
            raise ConfigError(f'model.{error}') from error
        try:
            self.mutator.prepare(model, space, mode_of=self)
        except (ConfigError, BudgetError) as error:
            raise type(error)(f'model.mutator: {error}') from error
        self.register_load_state_dict_pre_hook(_accept_plain_checkpoint)
        if freeze_weights:
            model.requires_grad_(False)
            # DDP and the gradient scaler refuse a model in which nothing trains; this parameter stays 0.
            self.anchor = nn.Parameter(torch.zeros(()))

    def _space_of(self, model: nn.Module, include: Iterable[str], exclude: Iterable[str]) -> SearchSpace:
        return build_model_space(model, self.input_shape, include, exclude)

    def init_weights(self) -> None:
        """Initialise the architecture; masks are off meanwhile, so that every weight is reached."""
        self.mutator.masks.set(None)
        super().init_weights()

    def train(self, mode: bool = True) -> DMSAlgorithm:
        """As of any module; norms of frozen weights stay in evaluation mode."""
        super().train(mode)
        if self.freeze_weights:
            self.architecture.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As of the architecture; in mode ``'loss'`` the budget loss and what to log of it come along."""
        result = self.architecture(*args, **kwargs)
        # The mode may be given by its place, which differs between models; it is the only text among the arguments.
        if kwargs.get('mode') == 'loss' or any(isinstance(value, str) and value == 'loss' for value in args):
            result = {**result, **self.mutator.losses()}
            if self.freeze_weights:
                result['budget_loss'] = result['budget_loss'] + 0.0 * self.anchor
        return result

    def __getattr__(self, name: str) -> Any:
        # Hooks and metrics look for parts of the model (``head``, ``with_neck``): they are the architecture's.
        try:
            return super().__getattr__(name)
        except AttributeError:
            architecture = self.__dict__.get('_modules', {}).get('architecture')
            if architecture is None or name.startswith('__'):
                raise
            return getattr(architecture, name)


def _accept_plain_checkpoint(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A checkpoint of the plain architecture: put its weights below ``architecture.``, and keep our own state."""
    assert isinstance(module, DMSAlgorithm)
    if any(key.startswith(f'{prefix}architecture.') for key in state):
        return
    own = module.state_dict(keep_vars=True)
    for key in [key for key in state if key.startswith(prefix)]:
        if f'architecture.{key[len(prefix) :]}' in own:
            state[f'{prefix}architecture.{key[len(prefix) :]}'] = state.pop(key)
    for key, value in own.items():
        if not key.startswith('architecture.'):
            state[prefix + key] = value
