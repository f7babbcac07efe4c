# The hand-made sibling: every width divided alike, to the FLOPs of dms-10_resnet18_b64_digits.py.
_base_ = './resnet18_b64_digits.py'

model = dict(backbone=dict(stem_channels=5, base_channels=5), head=dict(in_channels=40))
