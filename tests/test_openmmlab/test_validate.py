"""Settings mutated at random are accepted or refused with a message, never a traceback."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import ConfigDict

from mmdms.errors import ConfigError, MMDMSError
from mmdms.openmmlab.config_checks import check_model_section, check_training_sections
from mmdms.registry import MUTATORS

GOOD = dict(
    model=dict(
        type='mmdms.DMSAlgorithm',
        architecture=dict(type='ImageClassifier'),
        input_shape=(3, 32, 32),
        include=['*'],
        exclude=[],
        freeze_weights=False,
        mutator=dict(
            type='mmdms.DMSMutator',
            budget=dict(metric='flops', target=0.5),
            schedule=dict(shrink=0.5, settle=0.75),
            divisor='auto',
            structure_lr=1.5,
            structure_momentum=0.9,
            importance_decay=0.99,
            mutables=dict(channels=dict(minimum=2, divisor='auto', order='position'), depth=False),
        ),
    ),
    optim_wrapper=dict(constructor='mmdms.DMSOptimWrapperConstructor'),
    custom_hooks=[dict(type='mmdms.BudgetHook')],
    train_cfg=dict(by_epoch=True, max_epochs=3),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.sampled_from(['auto', 'flops', '', '*', 'mmdms.DMSMutator', 'x.y.z', '0.5', 'mmdms.BudgetHook']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['type', 'target', 'x']), inner),
    max_leaves=5,
)


def places(value, path=()):
    """Path of everything in a config."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, index))


def test_what_is_right_passes():
    check_model_section(GOOD['model'])
    check_training_sections(GOOD)
    MUTATORS.build({'_scope_': 'mmdms', **GOOD['model']['mutator']})


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_settings_are_accepted_or_refused(data):
    config = copy.deepcopy(GOOD)
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(places(config))))
        holder = config
        for key in path[:-1]:
            holder = holder[key]
        action = data.draw(st.sampled_from(['change', 'drop', 'add']))
        if action == 'change':
            holder[path[-1]] = data.draw(VALUES)
        elif action == 'drop':
            holder.pop(path[-1])
        elif isinstance(holder, dict):
            holder[data.draw(st.sampled_from(['targte', 'lr', 'extra']))] = data.draw(VALUES)
        if not config:
            return
    config = ConfigDict(config)
    try:
        check_model_section(config.get('model'))
        check_training_sections(config)
        MUTATORS.build({'_scope_': 'mmdms', **config['model']['mutator']})
    except MMDMSError as error:
        assert str(error)


@pytest.mark.parametrize('key', ['model', 'model.mutator', 'model.mutator.budget', 'model.mutator.schedule'])
def test_the_path_of_an_unknown_key_is_named(key):
    config = copy.deepcopy(GOOD)
    section = config
    for part in key.split('.'):
        section = section[part]
    section['surprise'] = 1
    with pytest.raises(ConfigError, match=f'^{key}.surprise is no setting of'):
        check_model_section(config['model'])
