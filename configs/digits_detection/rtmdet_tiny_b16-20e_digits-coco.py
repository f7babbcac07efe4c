# RTMDet-tiny on digits at 128 pixels.
_base_ = '../_base_/detection/rtmdet_tiny_digits-coco.py'

max_epochs, epochs_without_mosaic = 20, 4
train_cfg = dict(max_epochs=max_epochs, val_interval=5, dynamic_intervals=None)
optim_wrapper = dict(optimizer=dict(lr=0.002))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=60),
    dict(
        type='CosineAnnealingLR', begin=10, end=20, T_max=10, eta_min=1e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=1), logger=dict(interval=16))
ema, switch = _base_.custom_hooks
switch.update(switch_epoch=max_epochs - epochs_without_mosaic, switch_pipeline=_base_.train_pipeline_stage2)
custom_hooks = [ema, switch]
randomness = dict(seed=0)
