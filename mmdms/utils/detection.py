"""Run mmdet's and mmyolo's detectors on images alone.

What is compared and traced is what a detector's layers give out, before boxes
are decoded, sorted and suppressed: the raw outputs of the dense head, or for a
two-stage detector those of the region proposal network and of the RoI head on
proposals that are given. Proposals of the detector's own would do too, but
their number depends on the weights, and a sliced network would have to agree
with its supernet on which of two equally good ones to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

FEW_PROPOSALS = 20
"""Proposals that a RoI head is traced on."""

PROPOSALS = 1000
"""Proposals that a RoI head is counted on where its config does not tell."""

SIDES = (40, 80, 160, 320, 640)
"""Sides of proposals, in pixels: each level of a feature pyramid gets some."""


def is_detector(model: nn.Module) -> bool:
    """Whether a model is one of mmdet's or mmyolo's; neither needs to be installed."""
    return _is_a(model, 'mmdet', 'BaseDetector')


def has_proposals(model: nn.Module) -> bool:
    """Whether a detector has a RoI head that can be run on given proposals."""
    if not is_detector(model) or getattr(model, 'roi_head', None) is None:
        return False
    return not getattr(model, 'with_rpn', False) or _is_a(model.rpn_head, 'mmdet', 'RPNHead')


def detector_inputs(model: nn.Module, images: Tensor, few: bool) -> tuple[Any, ...]:
    """Arguments for :func:`detector_forward`.

    Args:
        model: the detector.
        images: (1, channels, height, width).
        few: few proposals, to trace; else as many as the detector keeps in a test.
    """
    if not has_proposals(model):
        return (images,)
    settings = (getattr(model, 'test_cfg', None) or {}).get('rpn') or {}
    count = FEW_PROPOSALS if few else int(settings.get('max_per_img') or PROPOSALS)
    return images, spread_boxes(count, images.shape[-2], images.shape[-1])


def spread_boxes(count: int, height: int, width: int) -> Tensor:
    """Boxes ``x1, y1, x2, y2`` in pixels, shape (count, 4), of several sizes, spread over an image."""
    index = torch.arange(count)
    # Multiples of two irrational numbers fill the image evenly.
    x = width * (0.2 + 0.6 * (index * (sqrt(5) - 1) / 2 % 1))
    y = height * (0.2 + 0.6 * (index * (sqrt(2) - 1) % 1))
    half = torch.tensor(SIDES)[index % len(SIDES)] / 2
    return torch.stack([x - half, y - half, x + half, y + half], dim=1)


def detector_forward(model: nn.Module) -> Callable[..., Any]:
    """A function of the arguments of :func:`detector_inputs` that gives the raw outputs of all heads."""

    def dense(images: Tensor) -> Any:
        return model(images, samples_of(images), mode='tensor')

    detector: Any = model  # its parts are modules and methods that nn.Module does not declare

    def two_stage(images: Tensor, proposals: Tensor) -> Any:
        from mmengine.structures import InstanceData

        features = detector.extract_feat(images)
        found = [InstanceData(bboxes=proposals.to(images))]
        first = detector.rpn_head(features) if getattr(detector, 'with_rpn', False) else ()
        return first, detector.roi_head.forward(features, found, samples_of(images))

    return two_stage if has_proposals(model) else dense


def samples_of(images: Tensor) -> list[Any]:
    """What the data preprocessor knows of unpadded images (B, C, H, W): transformers ask for their sizes."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    empty = InstanceData(bboxes=images.new_zeros(0, 4), labels=images.new_zeros(0, dtype=torch.long))
    shape = tuple(images.shape[-2:])
    known = dict(
        img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0), img_id=0
    )
    return [DetDataSample(metainfo=known, gt_instances=empty) for _ in images]


def _is_a(model: Any, package: str, name: str) -> bool:
    return any(base.__name__ == name and base.__module__.split('.')[0] == package for base in type(model).__mro__)
