"""What all tests share."""

import functools
import logging
import os

# Idle OpenMP threads sleep instead of spinning (see the Makefile); read when torch loads.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

# Workers of pytest-xdist share the cores: each of them, and each tool that it starts, computes on one.
os.environ.update({'OMP_NUM_THREADS': '1'} if 'PYTEST_XDIST_WORKER' in os.environ else {})

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.optim.optimizer import amp_optimizer_wrapper

from mmdms.openmmlab.safe_load import FORCE


@pytest.fixture(autouse=True, scope='session')
def quiet_and_frugal():
    """One thread where workers share the cores, else two; of mmengine's messages only warnings."""
    torch.set_num_threads(1 if 'PYTEST_XDIST_WORKER' in os.environ else 2)
    MMLogger.get_instance('mmengine').setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def loads_as_a_library(monkeypatch):
    """A tool that a test runs in this process sets how torch loads files; the next test is no tool."""
    monkeypatch.setenv(FORCE, '')
    monkeypatch.delenv(FORCE)


@pytest.fixture
def amp_on_cpu(monkeypatch):
    """mmengine's AmpOptimWrapper on the CPU: it insists on a GPU, and needs only a scaler for the device at hand."""
    if torch.cuda.is_available():
        return
    monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler', functools.partial(torch.amp.GradScaler, 'cpu'))
