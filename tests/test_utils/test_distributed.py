"""What makes a model run in several processes on a CPU."""

import torch
import torch.distributed
from torch import nn

from mmdms.utils.distributed import CPUDistributedDataParallel


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
