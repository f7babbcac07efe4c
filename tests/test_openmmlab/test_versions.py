import sys

import mmcv
import pytest

import mmdms
from mmdms.openmmlab.versions import check_versions


def test_import_exposes_the_version():
    assert mmdms.__version__ == '0.1.0'


def test_too_old(monkeypatch):
    monkeypatch.setattr(mmcv, '__version__', '1.7.1')
    with pytest.raises(ImportError, match='mmcv>=2.0.0,<3.0.0 but found 1.7.1: run `pip install'):
        check_versions()


def test_not_installed(monkeypatch):
    # None in sys.modules makes an import fail as if the module were not there.
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    with pytest.raises(ImportError, match='mmcv>=2.0.0,<3.0.0, which is not installed'):
        check_versions()
