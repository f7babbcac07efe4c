# RetinaNet with a ResNet-50, from pretrained weights to half its FLOPs: 12 epochs of search, then 12 of fine-tuning.
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['mmdms'])

name = 'retinanet_r50_fpn_1x_coco'
folder = f'https://download.openmmlab.com/mmdetection/v2.0/retinanet/{name}'
architecture = _base_.model
architecture.init_cfg = dict(type='Pretrained', checkpoint=f'{folder}/{name}_20200130-c2398f9e.pth')

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=architecture,
    input_shape=(3, 800, 1344),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.5)),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
custom_hooks = [dict(type='mmdms.BudgetHook')]
