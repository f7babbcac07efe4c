# The hand-made sibling: narrower by the factor that lies between YOLOv8-s and YOLOv8-n.
_base_ = './yolov8_s-narrow_b16-20e_digits-coco.py'

widen_factor = 0.125
model = dict(
    backbone=dict(widen_factor=widen_factor),
    neck=dict(widen_factor=widen_factor),
    bbox_head=dict(head_module=dict(widen_factor=widen_factor)),
)
