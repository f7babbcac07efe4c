# Search RTMDet-tiny down to half its FLOPs, from scratch.
_base_ = './rtmdet_tiny_b16-20e_digits-coco.py'

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=_base_.model,
    input_shape=(3, 128, 128),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.5)),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
custom_hooks = [dict(type='mmdms.BudgetHook'), *_base_.custom_hooks]
