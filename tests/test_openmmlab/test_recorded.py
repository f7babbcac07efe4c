"""Configs that checkpoints record are compared without running them."""

from mmengine.config import Config

from mmdms.openmmlab.recorded_configs import ABSENT, read_settings, search_differences


def test_values_are_read_and_nothing_is_run(tmp_path):
    text = (
        f"a = dict(b=[1, -2.5, ('x', None)], c=dict(d=True), e={{'f g': 3}})\nb = open({str(tmp_path / 'x')!r}, 'w')\n"
    )
    settings = read_settings(text)
    assert settings['a'] == {'b': [1, -2.5, ['x', None]], 'c': {'d': True}, 'e': {'f g': 3}}
    assert settings['b'].startswith('open(') and not (tmp_path / 'x').exists()


def test_what_a_config_says_of_itself_is_no_difference():
    config = Config(dict(model=dict(type='A', architecture=dict(a=(1, 2), b=None, c={'x y': 1.5})), lr=1))
    assert search_differences(config.pretty_text, config.pretty_text) == []


def test_differences_name_their_keys():
    before = 'model = dict(architecture=dict(depth=18, init_cfg=1), mutator=dict(budget=dict(target=0.1)))\nlr = 1'
    after = 'model = dict(architecture=dict(depth=34, init_cfg=2), mutator=dict(divisor=4, budget=dict(target=0.1)))'
    assert search_differences(before, after) == [
        ('model.architecture.depth', 18, 34),
        ('model.mutator.divisor', ABSENT, 4),
    ]
