# Scikit-learn's 1,797 handwritten digits at 32x32: 1,200 to train, 597 to test.
data_preprocessor = dict(num_classes=10, mean=[78.0] * 3, std=[82.4] * 3, to_rgb=False)

train_dataloader = dict(
    batch_size=64,
    # The images lie in memory: passing them between processes costs more than cropping them.
    num_workers=0,
    # mmpretrain's own scripts would ask for persistent workers, which torch refuses where there are none.
    persistent_workers=False,
    dataset=dict(
        type='mmdms.DigitsDataset',
        split='train',
        pipeline=[dict(type='RandomCrop', crop_size=32, padding=3), dict(type='PackInputs')],
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type='mmdms.DigitsDataset', split='test', pipeline=[dict(type='PackInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
