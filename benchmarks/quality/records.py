"""Results as JSON lines: each is written whole or not at all, so a run can stop anywhere and go on later."""

import json
import os

#: What names a result: a second run skips a result whose key is there.
KEY = ('network', 'target', 'seed', 'method', 'outcome', 'total_steps', 'search_steps', 'repeats')


def key_of(record, names=KEY):
    """The key of a record."""
    return tuple(record[name] for name in names)


def read_records(path, names=KEY):
    """All whole records of a file, the last one for each key (what ``names`` name); none if there is no file."""
    records = {}
    if os.path.exists(path):
        with open(path, encoding='utf-8') as file:
            for line in file:
                try:
                    record = json.loads(line)
                    records[key_of(record, names)] = record
                except (ValueError, KeyError, TypeError):
                    continue  # the torn end of an interrupted run
    return list(records.values())


def append_record(path, record):
    """Append a record in one write, on a line of its own."""
    line = (json.dumps(record) + '\n').encode()
    with open(path, 'ab+') as file:
        if file.seek(0, os.SEEK_END) and not _ends_with_newline(file):
            line = b'\n' + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _ends_with_newline(file):
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b'\n'
