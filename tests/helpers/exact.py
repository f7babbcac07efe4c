"""A search that does not depend on how its batches are split: its norms look at one image at a time."""

from mmengine.config import Config

from mmdms.openmmlab.algorithm import DMSAlgorithm
from mmdms.registry import MODELS

NORM = dict(type='GN', num_groups=4, requires_grad=True)


@MODELS.register_module()
class ExactSearch(DMSAlgorithm):
    """In float64: rounding, which grows twentyfold per step in the first steps, stays out of sight."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.double()

    def forward(self, inputs, *args, **kwargs):
        return super().forward(inputs.double(), *args, **kwargs)


def exact_config(root, batch_size, epochs=5, images=160, mutator=None, lr=0.02):
    """Search of a small ResNet on digits: ``images / batch_size`` iterations per epoch, every run with the same.

    ``mutator``: config of another mutator than that of the search. At a learning rate of 0.02 rounding (1e-15) grows
    to 1e-2 within 50 steps of hard masks; at 0.002 it stays.
    """
    config = Config.fromfile(root / 'configs/digits/dms-10_resnet18_b64_digits.py')
    config.model.type = 'mmdms.ExactSearch'
    backbone = dict(stem_channels=8, base_channels=8, norm_cfg=NORM)
    config.merge_from_dict({
        'model.architecture.backbone': backbone, 'model.architecture.head.in_channels': 64,
        'model.mutator.budget.target': 0.4, 'model.mutator.check_ranks_every': 10,
        'train_dataloader.batch_size': batch_size, 'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False, 'train_dataloader.dataset.indices': images,
        'train_cfg': dict(max_epochs=epochs, val_interval=1000),
        'optim_wrapper.optimizer': dict(lr=lr), 'log_level': 'WARNING',
    })  # fmt: skip
    if mutator is not None:
        config.model.mutator = mutator
    config.param_scheduler = []
    config.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]  # no chance
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    return config
