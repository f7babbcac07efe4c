"""One step of training, as a Runner would take it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmpretrain.structures import DataSample
from torch.nn.functional import cross_entropy
from torch.optim import SGD


def training_step(
    model: BaseModel, input_shape: tuple[int, int, int], seed: int = 0, batch: int = 2
) -> tuple[float, str]:
    """Preprocess random images and labels, run backward and the optimizer; the model is changed.

    mmpretrain refuses to train some heads (of distilled networks). These take the
    step in evaluation mode, on the cross entropy of their output.

    Args:
        model: an mmpretrain classifier, with its data preprocessor.
        input_shape: ``(channels, height, width)`` of an image.
        seed: of images, labels and what the model draws.
        batch: number of images; at least 2, for the batch norms.

    Returns:
        The loss, and what mmpretrain said if it refused; empty otherwise.

    Raises:
        FloatingPointError: if a parameter is not finite after the step.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # mixup and the like draw from it
    data = dict(
        inputs=[torch.randint(0, 256, input_shape, dtype=torch.uint8) for _ in range(batch)],
        data_samples=[DataSample().set_gt_label(index) for index in range(batch)],
    )
    optimizer = OptimWrapper(SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3))
    try:
        loss, refusal = model.train().train_step(data, optimizer)['loss'].item(), ''
    except NotImplementedError as error:
        loss, refusal = _evaluation_step(model, data, optimizer), str(error)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise FloatingPointError(f'{name} is not finite after a step of training')
    return loss, refusal


def _evaluation_step(model: BaseModel, data: dict[str, Any], optimizer: OptimWrapper) -> float:
    images = model.data_preprocessor(data, training=False)['inputs']
    loss = cross_entropy(model.eval()(images, mode='tensor'), torch.arange(len(images)))
    optimizer.update_params(loss)
    return loss.item()
