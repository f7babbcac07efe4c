# YOLOv8-s on `make_digits_coco.py`'s digits at 128 pixels: the zoo's config with other data, sizes and workers.
_base_ = 'mmyolo::yolov8/yolov8_s_syncbn_fast_8xb16-500e_coco.py'
custom_imports = dict(imports=['mmdms'])

data_root = 'data/digits_coco/'
img_scale = (128, 128)
num_classes = 10
metainfo = dict(classes=tuple('0123456789'))

# No flips, because mirrored digits are none; no Albu, because its four rare effects need one more package.
last_transform = [dict(type='YOLOv5HSVRandomAug'), _base_.last_transform[-1]]
mosaic, affine, letter, affine_stage2 = _base_.train_pipeline[2:4] + _base_.train_pipeline_stage2[3:5]
mosaic.img_scale = letter.scale = img_scale
affine.border = (-64, -64)
resize = dict(type='YOLOv5KeepRatioResize', scale=img_scale)
train_pipeline = [*_base_.pre_transform, mosaic, affine, *last_transform]
train_pipeline_stage2 = [*_base_.pre_transform, resize, letter, affine_stage2, *last_transform]
test_letter = {**_base_.test_pipeline[2], 'scale': img_scale}
test_pipeline = [_base_.test_pipeline[0], resize, test_letter, *_base_.test_pipeline[3:]]

model = dict(
    bbox_head=dict(head_module=dict(num_classes=num_classes)),
    train_cfg=dict(assigner=dict(num_classes=num_classes)),
)
# The images are small: passing them between processes costs more than it saves on two cores.
loader = dict(num_workers=0, persistent_workers=False, pin_memory=False)
data = dict(data_root=data_root, metainfo=metainfo)
train = dict(**data, ann_file='annotations/instances_train.json', data_prefix=dict(img='train/'))
val = dict(**data, ann_file='annotations/instances_val.json', data_prefix=dict(img='val/'))
train_dataloader = dict(**loader, batch_size=16, dataset=dict(**train, pipeline=train_pipeline))
val_dataloader = dict(**loader, batch_size=20, dataset=dict(**val, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val['ann_file'])
test_evaluator = val_evaluator
