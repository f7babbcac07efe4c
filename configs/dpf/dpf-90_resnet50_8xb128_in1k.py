# ResNet-50 on ImageNet, of which 90% of the weights go while it trains.
_base_ = './dpf-80_resnet50_8xb128_in1k.py'

model = dict(mutator=dict(sparsity=0.9))
