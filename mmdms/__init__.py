"""mmdms: scale a network to a budget by differentiable top-k.

Importing the package is all that ``custom_imports=dict(imports=['mmdms'])``
needs: the registries find their modules by ``locations``, on first use.
"""

from .utils.versions import check_versions
from .version import __version__

check_versions()

__all__ = ['__version__']
