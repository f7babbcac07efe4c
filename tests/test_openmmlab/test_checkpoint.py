import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmdms.errors import CheckpointError
from mmdms.openmmlab.checkpoints import check_pretrained, check_state_dict, read_checkpoint


@pytest.mark.parametrize('wrap', [lambda state: state, lambda state: {'state_dict': state, 'meta': {}}])
def test_read(tmp_path, wrap):
    torch.save(wrap(nn.Linear(2, 3).state_dict()), tmp_path / 'a.pth')
    state_dict = read_checkpoint(tmp_path / 'a.pth')['state_dict']
    assert {key: tuple(value.shape) for key, value in state_dict.items()} == {'weight': (3, 2), 'bias': (3,)}


def test_missing(tmp_path):
    with pytest.raises(CheckpointError, match='no checkpoint at'):
        read_checkpoint(tmp_path / 'a.pth')


def test_corrupt(tmp_path):
    path = tmp_path / 'a.pth'
    torch.save(nn.Linear(64, 64).state_dict(), path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match='cannot be read, it may be truncated'):
        read_checkpoint(path)


def test_no_weights(tmp_path):
    torch.save({'epoch': 3}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='holds no state dict'):
        read_checkpoint(tmp_path / 'a.pth')


def test_state_dict_fits():
    model = nn.Linear(2, 3)
    state_dict = model.state_dict()
    check_state_dict(model, state_dict, 'a.pth')
    check_state_dict(model, {f'module.{key}': value for key, value in state_dict.items()}, 'a.pth')
    check_state_dict(model, {**state_dict, 'more': torch.zeros(1)}, 'a.pth')


def test_state_dict_of_another_architecture():
    with pytest.raises(CheckpointError, match=r"1 of 2 tensors do not fit \(it lacks 'bias'\)"):
        check_state_dict(nn.Linear(2, 3), nn.Linear(2, 3, bias=False).state_dict(), 'a.pth')
    with pytest.raises(CheckpointError, match=r"1 of 2 .*its 'weight' has shape \(3, 5\), the model wants \(3, 2\)"):
        check_state_dict(nn.Linear(2, 3), nn.Linear(5, 3).state_dict(), 'a.pth')


def test_pretrained_weights_that_are_not_to_be_had(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / 'a.pth')
    there, gone = (dict(type='Pretrained', checkpoint=str(tmp_path / name)) for name in ('a.pth', 'b.pth'))
    check_pretrained(
        Config(dict(model=dict(backbone=dict(init_cfg=there), neck=[dict(init_cfg=dict(type='Xavier'))])))
    )
    torch.save(dict(model=nn.Linear(2, 3).state_dict()), tmp_path / 'other.pth')  # a form that Swin Transformers load
    other = dict(type='Pretrained', checkpoint=str(tmp_path / 'other.pth'))
    check_pretrained(Config(dict(model=dict(backbone=dict(init_cfg=other)))))
    architecture = dict(backbone=dict(init_cfg=[dict(type='Kaiming'), gone]))
    message = (
        r'model\.architecture\.backbone\.init_cfg starts from .* not to be had: no checkpoint at .*b\.pth.*'
        r'--cfg-options model\.architecture\.backbone\.init_cfg=None'
    )
    with pytest.raises(CheckpointError, match=message):
        check_pretrained(Config(dict(model=dict(architecture=architecture))))
