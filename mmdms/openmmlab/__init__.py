"""The wing for OpenMMLab: the only modules that import mmengine, mmcv and the zoos."""
