"""One step of training, as a Runner would take it."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from torch.optim import SGD


def training_step(model: BaseModel, input_shape: tuple[int, int, int], seed: int = 0, batch: int = 2) -> float:
    """Loss of a step on random images and labels: preprocessed, backward, optimizer; the model is changed.

    Args:
        model: an mmpretrain classifier, with its data preprocessor.
        input_shape: ``(channels, height, width)`` of an image.
        seed: of images, labels and what the model draws.
        batch: number of images; at least 2, for the batch norms.

    Raises:
        FloatingPointError: if a parameter is not finite after the step.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # mixup and the like draw from it
    data = dict(
        inputs=[torch.randint(0, 256, input_shape, dtype=torch.uint8) for _ in range(batch)],
        data_samples=[DataSample().set_gt_label(index) for index in range(batch)],
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    losses = model.train().train_step(data, OptimWrapper(SGD(trained, lr=1e-3)))
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise FloatingPointError(f'{name} is not finite after a step of training')
    return float(losses['loss'])
