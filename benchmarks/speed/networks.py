"""The networks that are timed, each with a batch that it trains on."""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, init_default_scope
from sweep.training import detections, label
from torch import nn

from mmdms.openmmlab.architecture import build_architecture
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.detection import is_detector
from mmdms.openmmlab.export.subnet import without_pretrained


@dataclass(frozen=True)
class Network:
    """A config of a zoo, and what it trains on.

    Attributes:
        config: as ``tools/train.py`` takes it.
        options: what is changed in it, by dotted key; ``{size}`` stands for the input size.
    """

    config: str
    options: tuple[str, ...] = ()


NETWORKS = {
    'resnet50': Network('mmpretrain::resnet/resnet50_8xb32_in1k.py'),
    'mobilenetv2': Network('mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'),
    'efficientnet-b0': Network('mmpretrain::efficientnet/efficientnet-b0_8xb32_in1k.py'),
    'deit-tiny': Network('mmpretrain::deit/deit-tiny_4xb256_in1k.py', ('model.backbone.img_size',)),
    'resnet18-cifar': Network('mmpretrain::resnet/resnet18_8xb16_cifar10.py'),
    'yolov8-s': Network('mmyolo::yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco.py'),
    'yolov8-n': Network('mmyolo::yolov8/yolov8_n_syncbn_fast_8xb16-500e_coco.py'),
}


def load(name: str, size: int) -> Config:
    """Config of a network at an input size, without pretrained weights."""
    network = NETWORKS[name]
    config = load_config(network.config, dict.fromkeys(network.options, size))
    config.model = without_pretrained(config.model)
    if 'train_cfg' in config.model and 'augments' in (config.model.train_cfg or {}):
        config.model.train_cfg = None  # mixup costs the same whoever trains
    init_default_scope(config.default_scope)
    return config


def build(config: Config) -> nn.Module:
    """The plain network, in training mode; SyncBN becomes BN, which is what one process runs."""
    torch.manual_seed(0)
    model = build_architecture(copy.deepcopy(config.model), copy.deepcopy(config.get('data_preprocessor')))
    model.init_weights()
    return model.train()


def batch_of(config: Config, model: Any, size: int, batch: int, device: str = 'cpu') -> tuple[Any, Any]:
    """Preprocessed images and samples, ``(inputs, data_samples)``, for ``mode='loss'``."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=generator) for _ in range(batch)]
    sample = detections if is_detector(model) else label
    samples = [dict(inputs=image, data_samples=sample(image, index)) for index, image in enumerate(images)]
    for row in samples:
        if is_detector(model):
            del row['data_samples'].gt_instances.masks
    importlib.import_module(f'{config.default_scope}.datasets')
    collate = (config.train_dataloader.get('collate_fn') or dict(type='pseudo_collate'))['type']
    model.data_preprocessor.to(device)
    data = model.data_preprocessor(FUNCTIONS.get(collate)(samples), training=True)
    return data['inputs'].to(device), data['data_samples']
