"""What all tests share."""

import logging
import os

# Idle OpenMP threads sleep instead of spinning (see the Makefile); read when torch loads.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

import pytest
import torch
from mmengine.logging import MMLogger


@pytest.fixture(autouse=True, scope='session')
def quiet_and_frugal():
    """Two threads, and of mmengine's messages only warnings."""
    torch.set_num_threads(2)
    MMLogger.get_instance('mmengine').setLevel(logging.WARNING)
