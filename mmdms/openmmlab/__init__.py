"""The wing for OpenMMLab: the only modules that import mmengine, mmcv and the zoos.

Importing it checks the versions of these packages and registers the names of the scope ``mmdms`` in the registries of
mmengine; the modules behind the names are imported on first use.
"""

from .log import log_through_mmengine
from .mmyolo_gate import lift_mmyolo_gate
from .versions import check_versions

check_versions()  # before anything below imports the packages that it checks
lift_mmyolo_gate()
log_through_mmengine()

from . import registries as registries  # noqa: E402  (the versions first)
