# RTMDet-tiny on `make_digits_coco.py`'s digits at 128 pixels: MMDetection's config with other data, sizes and workers.
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['mmdms'])

data_root = 'data/digits_coco/'
size = (128, 128)
num_classes = 10
metainfo = dict(classes=tuple('0123456789'))

# Without flips, because mirrored digits are none.
load, labels, mosaic, resize, crop, colours, _, pad, mixup, pack = _base_.train_pipeline
mosaic.img_scale = crop.crop_size = pad.size = mixup.img_scale = size
resize.scale = (2 * size[0], 2 * size[1])
train_pipeline = [load, labels, mosaic, resize, crop, colours, pad, mixup, pack]
single = dict(type='RandomResize', scale=size, ratio_range=(0.5, 2.0), keep_ratio=True)
train_pipeline_stage2 = [load, labels, single, crop, colours, pad, pack]
test_resize = dict(type='Resize', scale=size, keep_ratio=True)
test_pipeline = [load, test_resize, pad, labels, _base_.test_pipeline[-1]]

model = dict(backbone=dict(init_cfg=None), bbox_head=dict(num_classes=num_classes))
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
