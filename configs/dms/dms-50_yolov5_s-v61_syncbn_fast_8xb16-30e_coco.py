# YOLOv5-s from pretrained weights to half its FLOPs: 30 epochs of search, then trained on for 300.
_base_ = 'mmyolo::yolov5/yolov5_s-v61_syncbn_fast_8xb16-300e_coco.py'
custom_imports = dict(imports=['mmdms'])

name = 'yolov5_s-v61_syncbn_fast_8xb16-300e_coco'
folder = f'https://download.openmmlab.com/mmyolo/v0/yolov5/{name}'
architecture = _base_.model
architecture.init_cfg = dict(type='Pretrained', checkpoint=f'{folder}/{name}_20220918_084700-86e02187.pth')

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=architecture,
    input_shape=(3, 640, 640),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.5)),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor', base_constructor=_base_.optim_wrapper.constructor)
train_cfg = dict(max_epochs=30)
default_hooks = dict(param_scheduler=dict(max_epochs=30))
custom_hooks = [dict(type='mmdms.BudgetHook'), *_base_.custom_hooks]

# What tools/prune.py puts in the place of the schedule above: the zoo's own.
retrain = dict(train_cfg=_base_.train_cfg, default_hooks=dict(param_scheduler=dict(max_epochs=_base_.max_epochs)))
