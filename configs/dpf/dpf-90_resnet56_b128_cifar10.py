# ResNet-56 on CIFAR-10, of which 90% of the weights go while it trains.
_base_ = './resnet56_b128_cifar10.py'

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=_base_.model,
    input_shape=(3, 32, 32),
    mutator=dict(type='mmdms.DPFMutator', sparsity=0.9),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
custom_hooks = [dict(type='mmdms.BudgetHook')]
