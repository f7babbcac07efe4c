# ResNet-20 on CIFAR-10, dense.
_base_ = [
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar10_sgd_300e.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmdms'])

model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmdms.CIFARResNet', depth=20),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss')),
)

default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=1))
