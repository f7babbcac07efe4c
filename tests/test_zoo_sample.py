"""A sample of the sweep (benchmarks/sweep_zoo.py), one seed each.

The families are others than those of test_verification/test_zoo.py.
"""

import dataclasses
import math
import sys
from pathlib import Path

import pytest
from helpers.partitioned import assert_partition

from mmdms.api import build_search_space
from mmdms.openmmlab.architecture import tensor_forward
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.example import example_of
from mmdms.openmmlab.input_shape import infer_input_shape

sys.path.append(str(Path(__file__).parents[1] / 'benchmarks'))  # at the end: tools/test.py must hide nothing

from sweep import gates  # noqa: E402
from sweep.counted import TOLERANCE  # noqa: E402
from sweep.measure import build, measure  # noqa: E402
from sweep.zoo import DETECTORS, read_zoo  # noqa: E402

# Of the list of the sweep, at smaller inputs where the network takes them.
SMALL = (3, 64, 64)
SAMPLE = {
    'shufflenet_v2/shufflenet-v2-1x_16xb64_in1k.py': SMALL,
    'mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k.py': SMALL,
    'repvgg/repvgg-A0_8xb32_in1k.py': SMALL,
    'convnext_v2/convnext-v2-atto_32xb32_in1k.py': SMALL,
    'van/van-tiny_8xb128_in1k.py': SMALL,
    'poolformer/poolformer-s12_32xb128_in1k.py': SMALL,
    'deit/deit-tiny_4xb256_in1k.py': SMALL,
    'mobilevit/mobilevit-xxsmall_8xb128_in1k.py': SMALL,
    'edgenext/edgenext-xxsmall_8xb256_in1k.py': SMALL,
}
# Those that take longer than the ones above together.
SLOW = {
    'res2net/res2net50-w14-s8_8xb32_in1k.py': SMALL,
    'hrnet/hrnet-w18_4xb32_in1k.py': SMALL,
    'cspnet/cspresnet50_8xb32_in1k.py': SMALL,
    'convnext/convnext-tiny_32xb128_in1k.py': SMALL,
    'swin_transformer/swin-tiny_16xb64_in1k.py': None,
    't2t_vit/t2t-vit-t-14_8xb64_in1k.py': SMALL,
    'revvit/revvit-small_8xb256_in1k.py': SMALL,
    'levit/levit-128s_8xb256_in1k.py': None,
    'mlp_mixer/mlp-mixer-base-p16_64xb64_in1k.py': None,
}
ENTRIES = {entry.config.removeprefix('mmpretrain::'): entry for entry in read_zoo()}


@pytest.mark.parametrize('config', [*SAMPLE, *(pytest.param(slow, marks=pytest.mark.sweep) for slow in SLOW)])
def test_network(config):
    entry = ENTRIES[config]
    entry = dataclasses.replace(entry, input_shape=(SAMPLE | SLOW)[config] or entry.input_shape)
    record = measure(entry, seeds=[0], reload=False)
    (row,) = record['seeds']
    assert row['parity']['max_abs_output'] > 0
    assert row['parity']['max_abs_diff'] <= gates.PARITY * row['parity']['max_abs_output']
    assert record['prunable_flops_fraction'] >= gates.FRACTION[entry.kind], record['frozen']
    assert math.isfinite(row['loss'])
    assert 0 < row['flops_ratio'] < 0.5
    for counted in (record, row):
        assert counted['flops'] == pytest.approx(counted['mmengine_flops'], rel=TOLERANCE), record['flops_reasons']
    assert record['unlisted'] == [] and record['dimensions']['searched'] > 0


@pytest.mark.sweep
@pytest.mark.timeout(600)
@pytest.mark.parametrize('entry', [*read_zoo(), *read_zoo(DETECTORS)], ids=lambda entry: entry.config)
def test_nothing_vanishes_in_any_network_of_the_sweep(entry):
    config = load_config(entry.config)
    model = build(config)
    example = example_of(model, entry.input_shape or infer_input_shape(config))
    assert_partition(model, build_search_space(model, example.inputs, forward=tensor_forward, verify=False))
