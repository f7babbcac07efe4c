# Search yolov8_s-narrow down to the FLOPs of yolov8_n-narrow, from scratch.
_base_ = './yolov8_s-narrow_b16-20e_digits-coco.py'

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=_base_.model,
    input_shape=(3, 128, 128),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.3438)),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor', base_constructor=_base_.optim_wrapper.constructor)
custom_hooks = [dict(type='mmdms.BudgetHook'), *_base_.custom_hooks]
