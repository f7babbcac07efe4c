# Search the demo's ResNet-18 down to a tenth of its FLOPs, from scratch.
_base_ = './resnet18_b64_digits.py'

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=_base_.model,
    input_shape=(3, 32, 32),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.1)),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
custom_hooks = [dict(type='mmdms.BudgetHook')]
