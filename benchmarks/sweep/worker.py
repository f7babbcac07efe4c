"""One network of a sweep in a process of its own: ``python -m sweep.worker RECORD ENTRY``, both see :func:`main`."""

import json
import logging
import os
import sys
import traceback
from typing import Any

import torch
from mmengine.logging import MMLogger

from .measure import measure, peak_mb
from .zoo import Entry


def main(path: str, entry: dict[str, Any], threads: int) -> None:
    """Measure a network; what went wrong is part of the record.

    Args:
        path: file of the record, written anew at every stage.
        entry: fields of an :class:`Entry`.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    MMLogger.get_instance('mmengine').setLevel(logging.ERROR)
    last: dict[str, Any] = {}

    def save(record: dict[str, Any]) -> None:
        last.update(record)
        with open(f'{path}.part', 'w', encoding='utf-8') as file:
            json.dump(record, file)
        os.replace(f'{path}.part', path)

    shape = entry.pop('input_shape')
    try:
        save(measure(Entry(**entry, input_shape=tuple(shape) if shape else None), save=save))
    except Exception as error:  # a row of the table, not the end of the sweep
        traceback.print_exc()
        what = (str(error).splitlines() or [''])[0]
        save({**last, 'error': f'{type(error).__name__}: {what}', 'peak_mb': peak_mb()})


if __name__ == '__main__':
    main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
