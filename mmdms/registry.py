"""Registries of the ``mmdms`` scope.

Those with an mmengine parent are its children: ``dict(type='mmdms.DMSAlgorithm')``
resolves from any other scope, and an architecture of another scope resolves
from inside ours. ``MUTATORS`` and ``ADAPTERS`` have no counterpart in mmengine
and are roots of their own.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import (
    OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
)
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmdms', locations=['mmdms.models', 'mmdms.openmmlab.export'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmdms', locations=['mmdms.openmmlab.hooks'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='mmdms',
    locations=['mmdms.openmmlab.hooks'],
)
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='mmdms', locations=['mmdms.openmmlab.hooks']
)
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmdms', locations=['mmdms.openmmlab.datasets'])
MUTATORS = Registry('mutator', scope='mmdms', locations=['mmdms.mutators'])
ADAPTERS = Registry('adapter', scope='mmdms', locations=['mmdms.adapters'])
