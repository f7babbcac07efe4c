# YOLOv8-s, from scratch, to the FLOPs of YOLOv8-n: 100 epochs of search, then retrained for 500.
_base_ = 'mmyolo::yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco.py'
custom_imports = dict(imports=['mmdms'])

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=_base_.model,
    input_shape=(3, 640, 640),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.3065)),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor', base_constructor=_base_.optim_wrapper.constructor)

max_epochs, close_mosaic_epochs = 100, 10
train_cfg = dict(max_epochs=max_epochs, dynamic_intervals=[(max_epochs - close_mosaic_epochs, 1)])
default_hooks = dict(param_scheduler=dict(max_epochs=max_epochs))
ema, switch = _base_.custom_hooks
switch = {**switch, 'switch_epoch': max_epochs - close_mosaic_epochs}
custom_hooks = [dict(type='mmdms.BudgetHook'), ema, switch]

# What tools/prune.py puts in the place of the schedule above: the zoo's own.
retrain = dict(
    train_cfg=_base_.train_cfg,
    default_hooks=dict(param_scheduler=dict(max_epochs=_base_.max_epochs)),
    custom_hooks=_base_.custom_hooks,
)
