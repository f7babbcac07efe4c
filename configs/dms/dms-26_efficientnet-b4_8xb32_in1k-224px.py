# EfficientNet-B4, at input 224 and from scratch, to the FLOPs of EfficientNet-B0: 30 epochs of search
# (DMS, ICML 2024, experiment settings), then retrained from scratch.
_base_ = 'mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py'
custom_imports = dict(imports=['mmdms'])

architecture = _base_.model
architecture.backbone.arch = 'b4'
architecture.head.in_channels = 1792

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=architecture,
    input_shape=(3, 224, 224),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.26)),
)
custom_hooks = [dict(type='mmdms.BudgetHook')]

optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=1)

# What tools/prune.py puts in the place of the schedule above.
retrain = dict(train_cfg=dict(max_epochs=300))
