# DeiT-Small, from scratch, to the FLOPs of DeiT-Tiny (DMS, ICML 2024): 30 epochs of search,
# then retrained from scratch.
_base_ = 'mmpretrain::deit/deit-small_4xb256_in1k.py'
custom_imports = dict(imports=['mmdms'])

architecture = _base_.model

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=architecture,
    input_shape=(3, 224, 224),
    mutator=dict(type='mmdms.DMSMutator', budget=dict(metric='flops', target=0.25)),
)
custom_hooks = [dict(type='mmdms.BudgetHook')]

optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
param_scheduler = dict(_delete_=True, type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=1)

# What tools/prune.py puts in the place of the schedule above.
retrain = dict(train_cfg=dict(max_epochs=300))
