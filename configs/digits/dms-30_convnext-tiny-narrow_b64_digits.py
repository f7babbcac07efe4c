# Search convnext-tiny-narrow down to 30% of its FLOPs, from scratch.
_base_ = './convnext-tiny-narrow_b64_digits.py'

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=_base_.model,
    input_shape=(3, 32, 32),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.3)),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
custom_hooks = [dict(type='mmdms.BudgetHook')]
