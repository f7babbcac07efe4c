# ConvNeXt-Tiny at input 32 with a stem of stride 2, a third as wide, on digits.
_base_ = [
    'mmpretrain::_base_/models/convnext/convnext-tiny.py',
    '../_base_/datasets/digits_bs64.py',
    '../_base_/schedules/digits_adamw_24e.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmdms'])

model = dict(
    backbone=dict(
        arch=dict(_delete_=True, depths=[2, 2, 4, 2], channels=[32, 64, 128, 256]),
        stem_patch_size=2,
        drop_path_rate=0.0,
    ),
    head=dict(num_classes=10, in_channels=256),
    train_cfg=None,
)

default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
