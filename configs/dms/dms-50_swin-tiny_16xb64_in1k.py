# Swin-Tiny from pretrained weights to half its FLOPs: 10 epochs of search, then 100 of fine-tuning.
_base_ = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
custom_imports = dict(imports=['mmdms'])

weights = 'https://mmassets.onedl.ai/mmclassification/v0/swin-transformer/swin_tiny_224_b16x64_300e_imagenet_20210616_090925-66df6be6.pth'
architecture = _base_.model
architecture.init_cfg = dict(type='Pretrained', checkpoint=weights)

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=architecture,
    input_shape=(3, 224, 224),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.5)),
)
custom_hooks = [dict(type='mmdms.BudgetHook')]

optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor', optimizer=dict(lr=1e-4))
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)

# What tools/prune.py puts in the place of the schedule above.
retrain = dict(optim_wrapper=dict(optimizer=dict(lr=2e-4)), train_cfg=dict(max_epochs=100))
