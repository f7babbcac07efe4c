"""Modules of mmdet, mmcv and torchvision that keep a width in an attribute, or an operation that the CPU lacks."""

import pytest
import torch
from helpers.adapted import assert_same_forward
from mmcv.ops import CARAFEPack, carafe
from mmengine.registry import init_default_scope
from torch import nn
from torchvision.models.optical_flow.raft import ConvGRU, FlowHead, MotionEncoder, UpdateBlock

from mmdms.adapters.carafe import reassemble
from mmdms.api import build_search_space


def totals(space):
    return {unit.name: unit.total for unit in space.units}


def test_inner_widths_of_mmdets_res2net_are_searched():
    from mmdet.models.backbones.res2net import Bottle2neck

    torch.manual_seed(0)
    block = Bottle2neck(16, 4, scales=4, base_width=64, stage_type='normal')
    model = nn.Sequential(nn.Conv2d(3, 16, 1), block, nn.Conv2d(16, 2, 1))
    space = build_search_space(model, torch.rand(1, 3, 8, 8))
    # The stream of 16, and four scales of 4 channels, of which the middle ones are added: one unit.
    assert totals(space)['1.conv1'] == 4 and totals(space)['0'] == 16
    assert not [f for f in space.frozen if 'sliced network' in f.reason]


def test_a_sum_over_neighbourhoods_by_hand():
    """Every position becomes four, each a sum of 9 neighbours with weights of its own."""
    generator = torch.Generator().manual_seed(0)
    x, masks = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((2, 6, 3, 4), (2, 18, 6, 8)))
    expected = torch.zeros(2, 6, 6, 8, dtype=torch.float64)
    for channel in range(6):
        group = channel // 3
        for row in range(6):
            for column in range(8):
                for place in range(9):
                    y, z = row // 2 + place // 3 - 1, column // 2 + place % 3 - 1
                    if 0 <= y < 3 and 0 <= z < 4:
                        weight = masks[:, group * 9 + place, row, column]
                        expected[:, channel, row, column] += weight * x[:, channel, y, z]
    torch.testing.assert_close(reassemble(x, masks, 3, 2, 2), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='mmcv has CARAFE for GPUs alone')
def test_a_sum_over_neighbourhoods_is_mmcvs():
    x, masks = torch.rand(2, 6, 3, 4, device='cuda'), torch.rand(2, 18, 6, 8, device='cuda')
    torch.testing.assert_close(reassemble(x, masks, 3, 2, 2), carafe(x, masks, 3, 2, 2))


def test_carafe_is_searched_without_a_gpu():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), CARAFEPack(8, 2, compressed_channels=4), nn.Conv2d(8, 2, 1))
    space = build_search_space(model, torch.rand(1, 3, 6, 6))
    assert totals(space) == {'0': 8, '1.channel_compressor': 4}
    # By hand: 36 positions read 3, 8 and 4 channels (a kernel of 3x3), and 144 read 8; the sum itself is no layer.
    layers = 36 * (3 * 8 + 8 * 4 + 9 * 4 * 100) + 144 * 8 * 2
    assert space.cost('flops', torch.ones(space.num_elements)) == layers


def test_the_hidden_state_of_raft_is_searched():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden_size = 12
            self.gru = ConvGRU(input_size=30, hidden_size=12, kernel_size=3, padding=1)

        def forward(self, h, x):
            return self.gru(h, x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.both, self.correlation = nn.Conv2d(3, 22, 1), nn.Conv2d(3, 5, 1)
            encoder = MotionEncoder(in_channels_corr=5, corr_layers=(8,), flow_layers=(8, 8), out_channels=20)
            self.update = UpdateBlock(
                motion_encoder=encoder,
                recurrent_block=Recurrent(),
                flow_head=FlowHead(in_channels=12, hidden_size=8),
            )

        def forward(self, x):
            size = self.update.hidden_state_size
            both = self.both(x)
            hidden, context = both.split([size, both.size(1) - size], 1)
            return self.update(hidden.tanh(), context.relu(), self.correlation(x), x[:, :2])[1]

    torch.manual_seed(0)
    space = build_search_space(Net(), torch.rand(1, 3, 8, 8))
    assert {12, 10} <= {unit.total for unit in space.units if unit.name.startswith('both')}
    assert not [f for f in space.frozen if 'sliced network' in f.reason]


def test_queries_of_sparse_rcnn_may_shrink():
    init_default_scope('mmdet')
    from mmdet.models.roi_heads.bbox_heads import DIIHead

    torch.manual_seed(0)
    dynamic = dict(type='DynamicConv', in_channels=8, feat_channels=4, out_channels=8, input_feat_shape=3)
    head = DIIHead(
        num_classes=2, num_heads=2, num_reg_fcs=1, feedforward_channels=16, in_channels=8, dynamic_conv_cfg=dynamic,
        num_ffn_fcs=2,
    )  # fmt: skip
    assert_same_forward(head, torch.rand(5, 8, 3, 3), torch.rand(1, 5, 8), train=False)
    model = nn.ModuleDict(dict(queries=nn.Linear(4, 8), head=head))

    def forward(net):
        return lambda given, regions: net['head'](regions, net['queries'](given))[:2]

    space = build_search_space(model, (torch.rand(1, 5, 4), torch.rand(5, 8, 3, 3)), forward=forward)
    assert totals(space)['queries'] == 8
