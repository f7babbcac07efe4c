"""``python -m mmdms.doctor``: what is there, what works, what to install."""

import os
import re
import subprocess
import sys

import pytest
import torch

import mmdms
from mmdms.doctor import Finding, look, numbers, report


@pytest.fixture
def doctor(tmp_path):
    """Run it where some packages are others: exit status and what it printed."""

    def run(**packages):
        for name, source in packages.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / '__init__.py').write_text(source)
        done = subprocess.run([sys.executable, '-m', 'mmdms.doctor'], capture_output=True, text=True,
                              env={**os.environ, 'PYTHONPATH': str(tmp_path)})  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def test_here():
    done = subprocess.run([sys.executable, '-m', 'mmdms.doctor'], capture_output=True, text=True)
    rows = {line.split()[0]: line.split() for line in done.stdout.split('for the rest')[0].splitlines() if line}
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows['torch'][1:3] == ['ok', torch.__version__]
    assert rows['mmdms'][1:3] == ['ok', mmdms.__version__]
    assert re.search(r'mmcv ops  ok +run', done.stdout)
    if not torch.cuda.is_available():
        assert rows['GPU'][1] == 'without' and 'GPU: training works on the CPU' in done.stdout


ABSENT = "raise ModuleNotFoundError('No module')"


def test_without_an_optional_package(doctor):
    status, said = doctor(mmyolo=ABSENT, onnx=ABSENT)
    assert status == 0
    assert re.search(r'mmyolo  without +not installed', said)
    assert 'mmyolo: pip install mmyolo onedl-mmdetection' in said and 'onnx: pip install onnx' in said


@pytest.mark.parametrize(
    ('package', 'source', 'message', 'remedy'),
    [
        ('mmcv', "__version__ = '1.7.1'", r'mmdms  MISSING +ImportError: .* found 1.7.1', 'run `pip install'),
        ('torch', "__version__ = '2.1.0'", r'torch  MISSING +2.1.0 is older than 2.6', 'pip install "torch>=2.6"'),
        ('mmengine', ABSENT, r'mmengine  without +not installed', 'mmengine: pip install onedl-mmengine'),
    ],
)
def test_something_needed_is_missing_or_too_old(doctor, package, source, message, remedy):
    status, said = doctor(**{package: source})
    assert status == 1, said[-2000:]
    assert re.search(message, said) and remedy in said, said


def test_versions_are_compared_as_numbers():
    assert numbers('2.11.0+cu128') == (2, 11) > (2, 6)
    assert look('x', lambda: '2.11.0', 'y', 'z', minimum=(2, 6)).works


def test_a_package_that_breaks_on_import_is_said():
    def broken():
        raise AssertionError('MMCV==2.3 is used but incompatible\nmore')

    found = look('mmdet', broken, 'detectors', 'install it')
    assert found == Finding(
        'mmdet', False, False, 'AssertionError: MMCV==2.3 is used but incompatible (detectors)', 'install it'
    )
    assert 'mmdet: install it' in report([found])
