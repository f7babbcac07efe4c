"""mmdms: scale a network to a budget by differentiable top-k.

Importing the package is all that ``custom_imports=dict(imports=['mmdms'])``
needs: the registries find their modules by ``locations``, on first use. What
is exported here works without a Runner, on any ``nn.Module``.
"""

import sys

from .version import __version__

try:
    from .openmmlab.mmyolo_gate import lift_mmyolo_gate
    from .openmmlab.versions import check_versions

    check_versions()  # before anything below imports the packages that it checks
except Exception:
    if 'mmdms.doctor' not in sys.orig_argv:  # `python -m mmdms.doctor` says what is missing, and needs none of this
        raise
else:
    lift_mmyolo_gate()

    from .api import build_search_space
    from .errors import SearchWarning
    from .masks.channel_masks import remove_masks, without_masks
    from .mutators import DMSMutator, DPFMutator, StructuredDPFMutator
    from .network.example_call import ExampleCall
    from .slicing.slim import slim
    from .space.structure import Structure

__all__ = [
    'DMSMutator', 'DPFMutator', 'ExampleCall', 'SearchWarning', 'Structure', 'StructuredDPFMutator', '__version__',
    'build_search_space', 'remove_masks', 'slim', 'without_masks',
]  # fmt: skip
