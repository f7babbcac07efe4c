"""What makes a model run in several processes on a CPU."""

import torch
import torch.distributed
from helpers.searched import batch, searched
from mmengine.model import convert_sync_batchnorm
from torch import nn

from mmdms.openmmlab.distributed import CPUDistributedDataParallel


def test_synchronised_norms_become_plain_ones(tmp_path, capsys):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4), nn.Sequential(nn.SyncBatchNorm(4, eps=1e-2)))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        wrapped = CPUDistributedDataParallel(model, device_ids=None)
        wrapped(torch.rand(2, 3, 4, 4)).sum().backward()  # DDP with SyncBatchNorm would refuse
    finally:
        torch.distributed.destroy_process_group()
    assert '2 SyncBatchNorm, which need GPUs, are BatchNorm here' in capsys.readouterr().out
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in wrapped.modules())
    assert wrapped.module[2][0].eps == 1e-2
    assert wrapped.module.state_dict().keys() == state.keys()
    assert torch.equal(wrapped.module[0].weight, state['0.weight'])


def test_a_masked_network_whose_norms_are_synchronised():
    """What a Runner with ``sync_bn='torch'`` does: masks, gates and parameters stay what they were."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 1))
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), block, nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model, mutator = searched(nn.Sequential(*layers, nn.Linear(8, 5)))
    generator = torch.Generator().manual_seed(0)
    mutator.importance.copy_(torch.rand(len(mutator.importance), generator=generator))
    mutator.keep_ratio.fill_(0.5)
    state, x = list(model.state_dict()), batch()[0]
    model.eval()  # norms that are synchronised train on GPUs only
    with torch.no_grad():
        expected = model(x)
    found = convert_sync_batchnorm(model, 'torch').eval()  # new norms start in training mode
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in found.modules()) == 2
    assert list(found.state_dict()) == state
    with torch.no_grad():
        assert torch.equal(found(x), expected)
        mutator.keep_ratio.fill_(1.0)
        assert not torch.equal(found(x), expected)  # the masks still act
