"""Run the pages of docs/ that need torch and numpy alone where nothing else is installed: ``make test-core``.

scikit-learn's digits are replaced by random images, as scikit-learn is not there.
"""

import importlib.util
import re
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGES = ('plain_pytorch.md', 'architecture.md', 'adapters.md')
ABSENT = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmyolo', 'torchvision', 'scipy', 'tabulate', 'sklearn')


def random_digits() -> types.SimpleNamespace:
    """Stands in for ``sklearn.datasets.load_digits``: 1797 images of 8x8 in [0, 16], and labels."""
    random = np.random.default_rng(0)
    return types.SimpleNamespace(images=random.uniform(0, 16, (1797, 8, 8)), target=random.integers(0, 10, 1797))


def main() -> None:
    """Run every block of each page, as one program, in the current folder."""
    found = [name for name in ABSENT if importlib.util.find_spec(name) is not None]
    if found:
        sys.exit(f'this environment has {", ".join(found)}: make one with torch and numpy alone (make test-core)')
    for name in ('sklearn', 'sklearn.datasets'):  # with a spec each, as PyTorch asks for it
        sys.modules[name] = importlib.util.module_from_spec(ModuleSpec(name, None))
    sys.modules['sklearn.datasets'].load_digits = random_digits  # type: ignore[attr-defined]
    for page in PAGES:
        print(f'docs/{page}', flush=True)
        text = (ROOT / 'docs' / page).read_text(encoding='utf-8')
        names = {'__name__': '__main__'}
        for block in re.findall(r'^```python\n(.*?)^```', text, re.MULTILINE | re.DOTALL):
            exec(compile(block, page, 'exec'), names)
    import mmdms

    print('imported:', ', '.join(c.__name__ for c in (mmdms.DMSMutator, mmdms.DPFMutator, mmdms.StructuredDPFMutator)))
    print(f'{len(PAGES)} passed, 0 failed')


if __name__ == '__main__':
    main()
