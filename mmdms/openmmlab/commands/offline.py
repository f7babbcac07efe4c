"""Build a network without a download: a survey needs no weights."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from unittest import mock

from ...errors import ConfigError

WEIGHTS = ('pretrained', 'ckpt', 'checkpoint', 'load_from')
"""Keys of a config that name weights contain one of these."""


class _Refused(BaseException):
    """Something wants the network. No ``Exception``, which downloads that are tried again and again would catch."""


@contextmanager
def no_downloads(model: Mapping[str, Any]) -> Iterator[None]:
    """While this is open, the first look-up of a host stops the build of a model.

    Args:
        model: its config, to name the part that wants a download.

    Raises:
        ConfigError: names the part, the host, and the option to set.
    """

    def refuse(host: Any, *args: Any, **kwargs: Any) -> Any:
        raise _Refused(host.decode() if isinstance(host, bytes) else str(host))

    try:
        with mock.patch.object(socket, 'getaddrinfo', refuse), _offline_hub():
            yield
    except _Refused as refused:
        raise ConfigError(_message(model, str(refused), refused.__traceback__)) from None


@contextmanager
def _offline_hub() -> Iterator[None]:
    """Have Hugging Face's libraries read what was downloaded before, and look for nothing newer."""
    with mock.patch.dict(os.environ, HF_HUB_OFFLINE='1'):
        constants = sys.modules.get('huggingface_hub.constants')
        if constants is None:
            yield
        else:
            with mock.patch.object(constants, 'HF_HUB_OFFLINE', True):
                yield


def _message(model: Mapping[str, Any], host: str, traceback: TracebackType | None) -> str:
    """One line: which part of a model wants a download, and the option that drops it."""
    part: Any = None
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == 'build_from_cfg':  # mmengine's; the innermost is last
            part = frame.f_locals.get('cfg')
        traceback = traceback.tb_next
    path = next((path for path, config in _parts('model', model) if part is not None and config == part), None)
    keys = [f'{path}.{key}=None' for key in part if _names_weights(key)] if path is not None else []
    remedy = (
        f'drop it with --cfg-options {" ".join(keys)}'
        if keys
        else 'download the file first, or set in the config that it is not wanted'
    )
    kind = f' ({part["type"]})' if isinstance(part, Mapping) and 'type' in part else ''
    return f'{path or "the model"}{kind} wants a download from {host}, and a survey makes none: {remedy}'


def _parts(path: str, config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dict of a config with its path, those inside it first."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _parts(f'{path}.{key}', value)
        yield path, config
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from _parts(f'{path}.{index}', value)


def _names_weights(key: Any) -> bool:
    return any(name in str(key).lower() for name in WEIGHTS)


def weights_named(path: str, config: Any) -> list[str]:
    """Paths of what a model config says of pretrained weights beside ``init_cfg``: ``pretrained``, of any part."""
    return [f'{part}.pretrained' for part, found in _parts(path, config) if found.get('pretrained')]
