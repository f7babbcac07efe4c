"""Steps of training and of a search, as a Runner would take them."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import FUNCTIONS
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from mmdms import DMSMutator
from mmdms.errors import SearchWarning
from mmdms.network.copying import copy_network
from mmdms.openmmlab.detection import is_detector
from mmdms.openmmlab.optim import CPUAmpOptimWrapper
from mmdms.space.search_space import SearchSpace

OBJECTS = ((0.1, 0.1, 0.6, 0.5), (0.3, 0.4, 0.9, 0.9))
"""Boxes of the objects on an image, as shares of its width and height."""


def training_step(
    model: BaseModel,
    config: Config,
    input_shape: tuple[int, int, int],
    seed: int = 0,
    batch: int = 2,
    wrapper: Callable[[SGD], OptimWrapper] = OptimWrapper,
) -> tuple[float, str]:
    """Preprocess random images and labels, run backward and the optimizer; the model is changed.

    mmpretrain refuses to train some heads (of distilled networks). These take the
    step in evaluation mode, on the cross entropy of their output.

    Args:
        model: a classifier or detector, with its data preprocessor.
        config: of the network; it says how samples become a batch.
        input_shape: ``(channels, height, width)`` of an image.
        seed: of images, labels and what the model draws.
        batch: number of images; at least 2, for the batch norms.
        wrapper: of the optimizer.

    Returns:
        The loss, and what mmpretrain said if it refused; empty otherwise.

    Raises:
        FloatingPointError: if a parameter is not finite after the step.
    """
    torch.manual_seed(seed)
    np.random.seed(seed)  # mixup and the like draw from it
    images = [torch.randint(0, 256, input_shape, dtype=torch.uint8) for _ in range(batch)]
    sample = detections if is_detector(model) else label
    samples = [dict(inputs=image, data_samples=sample(image, index)) for index, image in enumerate(images)]
    importlib.import_module(f'{config.default_scope}.datasets')  # registers the scope's ways to collate
    if is_detector(model) and "'with_mask': True" not in str(config.get('train_dataloader')):
        for row in samples:
            del row['data_samples'].gt_instances.masks
    collate = dict((config.get('train_dataloader') or {}).get('collate_fn') or dict(type='pseudo_collate'))
    data = FUNCTIONS.get(collate.pop('type'))(samples, **collate)
    hub = MessageHub.get_current_instance()  # some losses ask it how far the run is
    for key, value in dict(epoch=0, iter=0, max_epochs=1, max_iters=1).items():
        hub.update_info(key, value)
    optimizer = wrapper(SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3))
    try:
        loss, refusal = model.train().train_step(data, optimizer)['loss'].item(), ''
    except NotImplementedError as error:
        loss, refusal = _evaluation_step(model, data, optimizer), str(error)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise FloatingPointError(f'{name} is not finite after a step of training')
    return loss, refusal


def search_steps(
    model: BaseModel, space: SearchSpace, config: Config, input_shape: tuple[int, int, int]
) -> tuple[list[float], str]:
    """Two steps of a search in mixed precision: under soft masks, and with all blocks gone, as in the refine phase.

    Args:
        model: a classifier or detector, which is masked from then on.
        space: of the model.
        config, input_shape: see :func:`training_step`.

    Returns:
        The losses, and what the network without masks raised in mixed precision; empty if nothing. If something
        (some operations of mmcv know float32 only on a CPU), the steps are in float32.

    Raises:
        FloatingPointError: if a parameter is not finite after a step, or no mask has a gradient that is.
    """
    refusal = _refusal_of_mixed_precision(copy_network(model), config, input_shape)
    mutator = DMSMutator(budget=dict(metric='flops', target=1.0))
    mutator.prepare(model, space)

    def wrapper(optimizer: SGD) -> OptimWrapper:
        mutator.attach(optimizer)
        return OptimWrapper(optimizer) if refusal else CPUAmpOptimWrapper(optimizer)

    losses = []
    for progress, depth in ((0.0, 1.0), (0.6, 0.0)):
        mutator.set_progress(progress)
        mutator.keep_ratio[mutator.is_depth] = depth
        mutator.importance.zero_()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', SearchWarning)  # of a network that cannot train: its step is in evaluation
            loss, not_trained = training_step(model, config, input_shape, wrapper=wrapper)
        if not not_trained and not mutator.importance.any():
            raise FloatingPointError(f'no mask has a finite gradient at progress {progress}')
        losses.append(loss)
    return losses, refusal


def _refusal_of_mixed_precision(model: BaseModel, config: Config, input_shape: tuple[int, int, int]) -> str:
    try:
        training_step(model, config, input_shape, wrapper=CPUAmpOptimWrapper)
    except Exception as error:  # whatever it is, it is not of masks
        return f'{type(error).__name__}: {error}'.splitlines()[0]
    return ''


def label(image: Tensor, index: int) -> Any:
    """A sample of one class."""
    from mmpretrain.structures import DataSample

    return DataSample().set_gt_label(index)


def detections(image: Tensor, index: int) -> Any:
    """Two objects with boxes and masks, and a map of classes."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData, PixelData

    height, width = image.shape[1:]
    boxes = torch.tensor(OBJECTS) * torch.tensor([width, height, width, height])
    masks = np.zeros((len(boxes), height, width), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    known = dict(
        img_id=index, img_path='', img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0),
        flip=False, flip_direction=None,
    )  # fmt: skip
    objects = InstanceData(
        bboxes=HorizontalBoxes(boxes), labels=torch.arange(len(boxes)), masks=BitmapMasks(masks, height, width)
    )
    found = DetDataSample(metainfo=known, gt_instances=objects)
    found.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(masks.max(0, keepdims=True)).long())
    return found


def _evaluation_step(model: BaseModel, data: dict[str, Any], optimizer: OptimWrapper) -> float:
    images = model.data_preprocessor(data, training=False)['inputs']
    loss = cross_entropy(model.eval()(images, mode='tensor'), torch.arange(len(images)))
    optimizer.update_params(loss)
    return loss.item()
