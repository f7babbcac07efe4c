"""The hook that reads weights which are stored as mostly zeros."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook

from ...errors import CheckpointError
from ..export.sparse_storage import expand
from ..registries import HOOKS


@HOOKS.register_module()
class SparseCheckpointHook(Hook):
    """Lets a Runner load what ``tools/prune.py --sparse`` wrote; other checkpoints pass as they are."""

    priority = 'VERY_HIGH'

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Make the weights dense before the model takes them.

        Raises:
            CheckpointError: if they are damaged.
        """
        try:
            expand(checkpoint)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f'the sparse weights of the checkpoint cannot be read: {error}') from error
