# YOLOv8-s, half as wide, on digits at 128 pixels.
_base_ = '../_base_/detection/yolov8_s_digits-coco.py'

widen_factor = 0.25
model = dict(
    backbone=dict(widen_factor=widen_factor),
    neck=dict(widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(widen_factor=widen_factor)),
)

max_epochs = 20
close_mosaic_epochs = 4
optim_wrapper = dict(optimizer=dict(lr=0.02))
train_cfg = dict(max_epochs=max_epochs, val_interval=5, dynamic_intervals=None)
default_hooks = dict(
    param_scheduler=dict(max_epochs=max_epochs, warmup_mim_iter=60, warmup_epochs=2),
    checkpoint=dict(interval=5, max_keep_ckpts=1, save_best=None),
    logger=dict(interval=16),
)
ema, switch = _base_.custom_hooks
switch.update(switch_epoch=max_epochs - close_mosaic_epochs, switch_pipeline=_base_.train_pipeline_stage2)
custom_hooks = [ema, switch]
randomness = dict(seed=0)
