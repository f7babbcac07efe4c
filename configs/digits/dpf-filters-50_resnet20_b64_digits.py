# ResNet-20 on digits, whose filters go while it trains, down to half of its FLOPs.
_base_ = './resnet20_b64_digits.py'

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=_base_.model,
    input_shape=(3, 32, 32),
    mutator=dict(type='mmdms.StructuredDPFMutator', budget=dict(metric='flops', target=0.5)),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
custom_hooks = [dict(type='mmdms.BudgetHook')]
