# WideResNet-28-2 on CIFAR-10, dense.
_base_ = [
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar10_sgd_200e.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmdms'])

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmdms.WideResNet', depth=28, widen_factor=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=128, loss=dict(type='CrossEntropyLoss')),
)

default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
