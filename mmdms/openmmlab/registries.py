"""Registries of the scope ``mmdms`` that are children of mmengine's.

``dict(type='mmdms.DMSAlgorithm')`` resolves from any other scope, and an architecture of another scope resolves from
inside this one. The modules behind a name are imported on its first use.
"""

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry

__all__ = ['DATASETS', 'HOOKS', 'MODELS', 'OPTIM_WRAPPERS', 'OPTIM_WRAPPER_CONSTRUCTORS']


def _child(name: str, parent: Registry, *modules: str) -> Registry:
    return Registry(name, parent=parent, scope='mmdms', locations=[f'mmdms.openmmlab.{module}' for module in modules])


MODELS = _child('model', mmengine_registry.MODELS, 'algorithm', 'models', 'export.subnet')
HOOKS = _child('hook', mmengine_registry.HOOKS, 'hooks')
OPTIM_WRAPPERS = _child('optimizer wrapper', mmengine_registry.OPTIM_WRAPPERS, 'optim')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer wrapper constructor', mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS, 'optim'
)
DATASETS = _child('dataset', mmengine_registry.DATASETS, 'datasets')
