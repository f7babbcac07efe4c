"""Load an export as its user would, in a process of its own.

``python reload.py FOLDER`` prints, as JSON, how far the output is from the one in ``FOLDER/sample.pth``.
"""

import json
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.utils._pytree import tree_flatten

from mmdms.openmmlab.architecture import tensor_forward


def main(folder: Path) -> None:
    """Build, load, run, compare."""
    config = Config.fromfile(folder / 'config.py')
    init_default_scope(config.default_scope)
    if config.get('data_preprocessor') is not None:  # as the Runner does
        config.model.setdefault('data_preprocessor', config.data_preprocessor)
    model = MODELS.build(config.model)
    checkpoint = torch.load(config.load_from, weights_only=True)
    sample = torch.load(folder / 'sample.pth', weights_only=True)
    keys = model.load_state_dict(checkpoint['state_dict'], strict=not sample['missing'])
    lacking = sorted(set(keys.missing_keys) - set(sample['missing']))
    if keys.unexpected_keys or lacking:
        raise RuntimeError(f'state and network differ: unexpected {keys.unexpected_keys}, missing {lacking}')
    torch.set_num_threads(1)
    with torch.no_grad():
        outputs = tensor_forward(model.eval())(*sample['inputs'])
    found = [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, torch.Tensor)]
    pairs = list(zip(found, sample['expected'], strict=True))
    print(
        json.dumps(
            dict(
                max_abs_diff=max(float((a - b).abs().max()) for a, b in pairs),
                max_abs_output=max(float(b.abs().max()) for _, b in pairs),
                missing=len(keys.missing_keys),
            )
        )
    )


if __name__ == '__main__':
    main(Path(sys.argv[1]))
