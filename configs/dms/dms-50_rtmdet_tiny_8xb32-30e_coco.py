# RTMDet-tiny from pretrained weights to half its FLOPs: 30 epochs of search, then trained on for 300.
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['mmdms'])

name = 'rtmdet_tiny_8xb32-300e_coco'
folder = f'https://download.openmmlab.com/mmdetection/v3.0/rtmdet/{name}'
architecture = _base_.model
architecture.init_cfg = dict(type='Pretrained', checkpoint=f'{folder}/{name}_20220902_112414-78e30dcc.pth')

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=architecture,
    input_shape=(3, 640, 640),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.5)),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')

max_epochs, stage2_epochs = 30, 5
train_cfg = dict(max_epochs=max_epochs, dynamic_intervals=[(max_epochs - stage2_epochs, 1)])
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=False, begin=0, end=1000),
    dict(
        type='CosineAnnealingLR', begin=15, end=30, T_max=15, eta_min=2e-4, by_epoch=True, convert_to_iter_based=True
    ),
]
ema, switch = _base_.custom_hooks
switch = {**switch, 'switch_epoch': max_epochs - stage2_epochs}
custom_hooks = [dict(type='mmdms.BudgetHook'), ema, switch]

# What tools/prune.py puts in the place of the schedule above: the zoo's own.
retrain = dict(train_cfg=_base_.train_cfg, param_scheduler=_base_.param_scheduler, custom_hooks=_base_.custom_hooks)
