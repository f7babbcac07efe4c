"""Compare the config that a checkpoint records with another, without running either."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

COMPARED = (
    'model.type',
    'model.architecture',
    'model.mutator',
    'model.input_shape',
    'model.include',
    'model.exclude',
    'model.freeze_weights',
    'train_cfg.max_epochs',
    'train_cfg.max_iters',
)
"""What a search that resumes must share with the one that was interrupted; the rest may change."""

ABSENT = '(not set)'


def search_differences(recorded: str, wanted: str) -> list[tuple[str, Any, Any]]:
    """Where two configs of searches differ: ``(key, recorded value, wanted value)``.

    Args:
        recorded, wanted: texts as ``Config.pretty_text`` gives them.
    """
    before, after = read_settings(recorded), read_settings(wanted)
    return [found for key in COMPARED for found in _differences(key, _get(before, key), _get(after, key))]


def read_settings(text: str) -> dict[str, Any]:
    """Values of the assignments of a config's text; nothing in it is run. What is no plain value stays text.

    Raises:
        SyntaxError, ValueError: if it is no Python.
    """
    found = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = _value(statement.value)
    return found


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_value(k): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {word.arg: _value(word.value) for word in node.keywords if word.arg is not None}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        return -value if isinstance(value, (int, float)) else ast.unparse(node)
    return ast.unparse(node)


def _get(settings: Any, key: str) -> Any:
    for part in key.split('.'):
        if not isinstance(settings, Mapping) or part not in settings:
            return ABSENT
        settings = settings[part]
    return settings


def _differences(key: str, before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            if name != 'init_cfg':  # weights come from the checkpoint
                yield from _differences(f'{key}.{name}', before.get(name, ABSENT), after.get(name, ABSENT))
    elif before != after:
        yield key, before, after
