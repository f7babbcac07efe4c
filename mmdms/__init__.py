"""mmdms: scale a network to a budget by differentiable top-k.

All names that this module exports work on any ``nn.Module``, with torch and numpy alone. Where mmengine and mmcv are
installed, importing the package also registers the names of the scope ``mmdms`` in the registries of mmengine:
``custom_imports=dict(imports=['mmdms'])`` needs no more.
"""

import importlib.util
import sys
import warnings

from .version import __version__

try:
    from .api import build_search_space
    from .errors import SearchWarning
    from .masks.channel_masks import remove_masks, without_masks
    from .mutators import DMSMutator, DPFMutator, StructuredDPFMutator
    from .network.example_call import ExampleCall
    from .slicing.slim import slim
    from .space.structure import Structure

    if all(importlib.util.find_spec(name) for name in ('mmengine', 'mmcv')):
        from . import openmmlab as openmmlab
    elif importlib.util.find_spec('mmengine') is not None:
        warnings.warn(
            'mmcv is not installed, so configs of mmengine find no name of mmdms: run `pip install onedl-mmcv`',
            stacklevel=2,
        )
except Exception:
    # `python -m mmdms.doctor` says what is missing, and needs none of this.
    if 'mmdms.doctor' not in sys.orig_argv:
        raise

__all__ = [
    'DMSMutator', 'DPFMutator', 'ExampleCall', 'SearchWarning', 'Structure', 'StructuredDPFMutator', '__version__',
    'build_search_space', 'remove_masks', 'slim', 'without_masks',
]  # fmt: skip
