# CIFAR-10 as mmpretrain has it (crops of 32 after padding by 4, flips), 128 images a batch.
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=500)
test_dataloader = dict(batch_size=500)
