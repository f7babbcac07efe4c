"""Check the sections of a config that are ours, before anything is built from it.

Messages begin with the path of the key. What only the network can tell (a pattern that matches nothing, a budget out
of reach) is found when the supernet is built, which is before data are loaded too.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from ..errors import ConfigError
from ..mutators import BaseMutator
from ..registry import MUTATORS
from .registries import HOOKS, MODELS

OWN_HOOKS = ('BudgetHook', 'ResumeHook')
COMMON_HOOK_KEYS = ('type', 'priority')
MAX = sys.float_info.max


def check_model_section(model: Any) -> None:
    """Check ``model`` of a search config.

    Raises:
        ConfigError: for an unknown or missing key, a wrong type, or a value out of range.
    """
    kind = _mapping('model', model).get('type')
    check_keys('model', model, MODELS.get(kind) if isinstance(kind, str) else kind)
    if not isinstance(model['architecture'], Mapping) or 'type' not in model['architecture']:
        raise ConfigError(
            f'model.architecture must be the config of a model with a type, but it is {model["architecture"]!r}'
        )
    shape = model['input_shape']
    if not isinstance(shape, (list, tuple)) or len(shape) != 3 or not all(_whole(n) and n > 0 for n in shape):
        raise ConfigError(
            f'model.input_shape must be (channels, height, width), three positive whole numbers, but it is {shape!r}'
        )
    for key in ('include', 'exclude'):
        patterns = model.get(key, ())
        if not isinstance(patterns, (list, tuple)) or not all(isinstance(pattern, str) for pattern in patterns):
            raise ConfigError(f'model.{key} must be a list of patterns over module names, but it is {patterns!r}')
    if not isinstance(model.get('freeze_weights', False), bool):
        raise ConfigError(f'model.freeze_weights must be True or False, but it is {model["freeze_weights"]!r}')
    check_mutator_section(model['mutator'])


def check_mutator_section(mutator: Any) -> None:
    """Check ``model.mutator``; raises as :func:`check_model_section`."""
    path = 'model.mutator'
    kind = _mapping(path, mutator).get('type')
    cls = MUTATORS.get(kind) if isinstance(kind, str) else kind
    if not inspect.isclass(cls):
        close = difflib.get_close_matches(str(kind).rpartition('.')[2], list(MUTATORS.module_dict), n=1)
        hint = f'did you mean {f"mmdms.{close[0]}"!r}?' if close else f'there are {sorted(MUTATORS.module_dict)}'
        raise ConfigError(f'{path}.type={kind!r} is not a mutator: {hint}')
    check_keys(path, mutator, cls)
    for name, parameter in inspect.signature(cls).parameters.items():
        # What a float is the default of is a number.
        if name in mutator and isinstance(parameter.default, float):
            _number(f'{path}.{name}', mutator[name])
    if 'divisor' in mutator:
        divisor = mutator['divisor']
        if divisor != 'auto' and (not _whole(divisor) or divisor < 1):
            raise ConfigError(f"{path}.divisor must be 'auto' or a whole number from 1, but it is {divisor!r}")
    if 'budget' in inspect.signature(cls).parameters:
        _check_budget(f'{path}.budget', mutator.get('budget'))
    if 'mutables' in mutator and issubclass(cls, BaseMutator):
        cls.checked_mutables(mutator['mutables'], f'{path}.mutables')
    _check_schedule(f'{path}.schedule', cls, mutator)


def check_training_sections(config: Mapping[str, Any]) -> None:
    """Check what else a search config needs to train: hook, optimizer constructor, length, ``retrain``.

    Raises:
        ConfigError: as :func:`check_model_section`.
    """
    hooks = config.get('custom_hooks') or []
    if not isinstance(hooks, (list, tuple)):
        raise ConfigError(f'custom_hooks must be a list of configs of hooks, but it is {hooks!r}')
    names = []
    for index, hook in enumerate(hooks):
        if not isinstance(hook, Mapping):
            continue  # mmengine takes hooks that are built already
        kind = hook.get('type')
        name = kind.removeprefix('mmdms.') if isinstance(kind, str) else getattr(kind, '__name__', '')
        names.append(name)
        if name in OWN_HOOKS:
            check_keys(f'custom_hooks[{index}]', hook, HOOKS.get(f'mmdms.{name}'), COMMON_HOOK_KEYS)
    if names.count('BudgetHook') != 1:
        raise ConfigError(
            f"custom_hooks must hold dict(type='mmdms.BudgetHook') once, but holds it {names.count('BudgetHook')} "
            'times: without it the search would never begin'
        )
    scope = config.get('default_scope') or 'mmengine'
    _check_constructor(_mapping('optim_wrapper', config.get('optim_wrapper')), scope)
    train_cfg = _mapping('train_cfg', config.get('train_cfg'))
    for key in ('max_epochs', 'max_iters'):
        if train_cfg.get(key) is not None and (not _whole(train_cfg[key]) or train_cfg[key] < 1):
            raise ConfigError(f'train_cfg.{key} must be a whole number from 1, but it is {train_cfg[key]!r}')
    if config.get('retrain') is not None:
        _mapping('retrain', config['retrain'])


def check_keys(path: str, section: Mapping[str, Any], built: Any, more: Iterable[str] = ('type',)) -> None:
    """Raise ConfigError for a key of ``section`` that the class ``built`` does not take, or one that it lacks."""
    if not inspect.isclass(built):
        raise ConfigError(f'{path}.type={section.get("type")!r} is not known: is it spelt right, and imported?')
    parameters = inspect.signature(built).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [name for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for key in section:
        if key not in (*known, *more, '_scope_') and not anything:
            raise _unknown(path, key, known, built.__name__)
    for name in known:
        if parameters[name].default is inspect.Parameter.empty and name not in section:
            raise ConfigError(f'{path}.{name} is missing: {built.__name__} needs it')


def _unknown(path: str, key: Any, known: Iterable[str], owner: str) -> ConfigError:
    close = difflib.get_close_matches(str(key), list(known), n=1)
    hint = f'did you mean {close[0]!r}?' if close else f'it takes {", ".join(known) or "none"}'
    return ConfigError(f'{path}.{key} is no setting of {owner}: {hint}')


def _check_budget(path: str, budget: Any) -> None:
    for key in _mapping(path, budget, "dict(metric='flops', target=0.5)"):
        if key not in ('metric', 'target'):
            raise _unknown(path, key, ('metric', 'target'), 'a budget')
    for key in ('metric', 'target'):
        if key not in budget:
            raise ConfigError(f"{path}.{key} is missing: write dict(metric='flops', target=0.5)")
    if budget['metric'] not in ('flops', 'params'):
        raise ConfigError(f"{path}.metric must be one of ['flops', 'params'], but it is {budget['metric']!r}")
    target = budget['target']
    if not isinstance(target, (int, float)) or isinstance(target, bool) or not 0 < target <= 1:
        raise ConfigError(f'{path}.target must be a share of the supernet in (0, 1], but it is {target!r}')


def _check_schedule(path: str, cls: Any, mutator: Mapping[str, Any]) -> None:
    schedule = mutator.get('schedule')
    if schedule is None:
        return
    known = [field.name for field in fields(cls.schedule_type)]
    for key, value in _mapping(path, schedule).items():
        if key not in known:
            raise _unknown(path, key, known, 'the schedule')
        _number(f'{path}.{key}', value)
    try:
        cls.check_schedule(mutator)
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error


def _check_constructor(wrapper: Mapping[str, Any], scope: str) -> None:
    constructor = wrapper.get('constructor')
    needed = "set optim_wrapper.constructor='mmdms.DMSOptimWrapperConstructor' in the config"
    if constructor in (None, 'DefaultOptimWrapperConstructor'):
        raise ConfigError(f'optim_wrapper.constructor is {constructor!r}, which does not move the structure: {needed}')
    for key in ('constructor', 'base_constructor'):
        name = wrapper.get(key)
        with OPTIM_WRAPPER_CONSTRUCTORS.switch_scope_and_registry(scope) as registry:  # packages have their own
            known = name is None or not isinstance(name, str) or registry.get(name) is not None
        if not known:
            raise ConfigError(f'optim_wrapper.{key}={name!r} is not known: is it spelt right, and imported?')


def _mapping(path: str, value: Any, example: str = 'a dict') -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f'{path} must be {example}, but it is {value!r}')
    return value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(path: str, value: Any) -> None:
    # A whole number beyond every float is none either.
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -MAX <= value <= MAX:
        raise ConfigError(f'{path} must be a finite number, but it is {value!r}')
