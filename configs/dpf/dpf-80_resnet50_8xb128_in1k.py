# ResNet-50 on ImageNet, of which 80% of the weights go while it trains.
_base_ = './resnet50_8xb128_in1k.py'

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=_base_.model,
    input_shape=(3, 224, 224),
    mutator=dict(type='mmdms.DPFMutator', sparsity=0.8),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
custom_hooks = [dict(type='mmdms.BudgetHook')]
