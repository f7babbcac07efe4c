"""Check the OpenMMLab packages that mmdms stands on."""

import importlib

# Import name -> (first version that works, first that is untested, where to get it).
# Import names, because upstream (mmengine, mmcv) and its maintained fork
# (onedl-mmengine, onedl-mmcv) differ only in their distribution names.
REQUIRED = {
    'mmengine': ('0.10.0', '1.0.0', 'onedl-mmengine'),
    'mmcv': ('2.0.0', '3.0.0', 'onedl-mmcv'),
}


def check_versions() -> None:
    """Raise ``ImportError`` unless the packages of ``REQUIRED`` are there and recent enough."""
    for name, (minimum, maximum, distribution) in REQUIRED.items():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ImportError(
                f'mmdms needs {name}>={minimum},<{maximum}, which is not installed: run `pip install {distribution}`'
            ) from error
        # mmengine is first in the table, so it is there by now.
        from mmengine.utils import digit_version

        if not digit_version(minimum) <= digit_version(module.__version__) < digit_version(maximum):
            raise ImportError(
                f'mmdms needs {name}>={minimum},<{maximum} but found {module.__version__}: '
                f'run `pip install "{distribution}>={minimum},<{maximum}"`'
            )
