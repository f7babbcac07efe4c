# ResNet-20 on digits.
_base_ = './resnet18_b64_digits.py'

model = dict(backbone=dict(_delete_=True, type='mmdms.CIFARResNet', depth=20), head=dict(in_channels=64))
