# ResNet-56 on CIFAR-10, whose filters go while it trains, down to half of its FLOPs.
_base_ = './resnet56_b128_cifar10.py'

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=_base_.model,
    input_shape=(3, 32, 32),
    mutator=dict(type='mmdms.StructuredDPFMutator', budget=dict(metric='flops', target=0.5)),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
custom_hooks = [dict(type='mmdms.BudgetHook')]
