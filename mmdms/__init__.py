"""mmdms: scale a network to a budget by differentiable top-k.

Importing the package is all that ``custom_imports=dict(imports=['mmdms'])``
needs: the registries find their modules by ``locations``, on first use. What
is exported here works without a Runner, on any ``nn.Module``.
"""

from .utils.mmyolo_gate import lift_mmyolo_gate
from .utils.versions import check_versions

check_versions()  # before anything below imports the packages that it checks
lift_mmyolo_gate()

from .api import build_search_space  # noqa: E402
from .export.slim import slim  # noqa: E402
from .models.mutators import DMSMutator  # noqa: E402
from .structure import Structure  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = ['DMSMutator', 'Structure', '__version__', 'build_search_space', 'slim']
