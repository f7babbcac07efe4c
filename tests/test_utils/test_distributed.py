"""What makes a config run in several processes on a CPU."""

from mmengine.config import ConfigDict

from mmdms.utils.distributed import replace_sync_bn


def test_sync_bn_becomes_bn_wherever_it_is():
    model = ConfigDict(
        architecture=dict(
            backbone=dict(norm_cfg=dict(type='SyncBN', eps=1e-3), act_cfg=dict(type='SiLU')),
            neck=[dict(norm_cfg=dict(type='SyncBN')), dict(norm_cfg=dict(type='GN', num_groups=2))],
        )
    )
    assert replace_sync_bn(model) == 2
    assert model.architecture.backbone.norm_cfg == dict(type='BN', eps=1e-3)
    assert [part.norm_cfg.type for part in model.architecture.neck] == ['BN', 'GN']
    assert replace_sync_bn(model) == 0
