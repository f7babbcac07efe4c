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
        # A head that masks positive boxes masks nothing without one, and then nobody would see a mistake in it.
        masks_boxes = hasattr(getattr(model, 'bbox_head', None), 'get_positive_infos')
        return model(images, samples_of(images, boxed=masks_boxes), mode='tensor')

    detector: Any = model  # its parts are modules and methods that nn.Module does not declare

    def two_stage(images: Tensor, proposals: Tensor) -> Any:
        from mmengine.structures import InstanceData

        features = detector.extract_feat(images)
        found = [InstanceData(bboxes=proposals.to(images))]
        first = detector.rpn_head(features) if getattr(detector, 'with_rpn', False) else ()
        return first, detector.roi_head.forward(features, found, samples_of(images))

    def refined(images: Tensor) -> Any:
        features = detector.extract_feat(images)
        queries = detector.rpn_head.init_proposal_features.weight
        # Its own boxes are parameters, with sides below 0 before they are initialised.
        boxes = spread_boxes(len(queries), images.shape[-2], images.shape[-1]).to(images)
        return _stages(detector.roi_head, features, boxes, queries, samples_of(images))

    if has_proposals(model):
        return two_stage
    return refined if _is_a(getattr(model, 'roi_head', None), 'mmdet', 'SparseRoIHead') else dense


def _stages(head: Any, features: Any, boxes: Tensor, queries: Tensor, samples: list[Any]) -> list[Any]:
    """Raw outputs of all stages of a RoI head that refines boxes by queries, as in a test.

    The ``forward`` of mmdet's ``SparseRoIHead`` computes losses, and so wants ground truth.

    Args:
        head: a ``SparseRoIHead``.
        features: of the neck, one map (B, C, H, W) per level.
        boxes: those of the first stage, (n, 4), of every image.
        queries: one per box, (n, width).
        samples: one per image.
    """
    from mmdet.structures.bbox import bbox2roi

    proposals, given = [boxes] * len(samples), queries.expand(len(samples), -1, -1)
    found: list[Any] = []
    for stage in range(head.num_stages):
        results = head._bbox_forward(stage, features, bbox2roi(proposals), given, [s.metainfo for s in samples])
        given, proposals = results['object_feats'], results['detached_proposals']
        found += [results['cls_score'], results['decoded_bboxes']]
        if head.with_mask:  # of all boxes; in a test, of those that are left after the last stage
            masked = head._mask_forward(stage, features, bbox2roi(proposals), results['attn_feats'].flatten(0, 1))
            found.append(masked['mask_preds'])
    return found


def samples_of(images: Tensor, boxed: bool = False) -> list[Any]:
    """What the data preprocessor knows of unpadded images (B, C, H, W): transformers ask for their sizes.

    Args:
        images: (B, C, H, W).
        boxed: whether the middle of every image is an object, of class 0; else there is none.
    """
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    shape = height, width = tuple(images.shape[-2:])
    boxes = images.new_tensor([[width, height, 3 * width, 3 * height]] if boxed else []).view(-1, 4) / 4
    objects = InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long, device=images.device))
    known = dict(
        img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0), img_id=0
    )
    return [DetDataSample(metainfo=known, gt_instances=objects) for _ in images]


def _is_a(model: Any, package: str, name: str) -> bool:
    return any(base.__name__ == name and base.__module__.split('.')[0] == package for base in type(model).__mro__)
