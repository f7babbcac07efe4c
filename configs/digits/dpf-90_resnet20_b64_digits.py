# ResNet-20 on digits, of which 90% of the weights go while it trains.
_base_ = './resnet20_b64_digits.py'

model = dict(
    _delete_=True,
    type='mmdms.DMSAlgorithm',
    architecture=_base_.model,
    input_shape=(3, 32, 32),
    # The run is 228 iterations long: masks every 16 of them would be too coarse.
    mutator=dict(type='mmdms.DPFMutator', sparsity=0.9, reallocation_interval=4),
)
optim_wrapper = dict(constructor='mmdms.DMSOptimWrapperConstructor')
custom_hooks = [dict(type='mmdms.BudgetHook')]
