# ResNet-56 on CIFAR-10, dense.
_base_ = './resnet20_b128_cifar10.py'

model = dict(backbone=dict(depth=56))
