"""mmyolo imports beside the mmcv that is installed, and only mmyolo sees another version."""

import subprocess
import sys


def run(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def test_mmyolo_imports_and_mmcv_keeps_its_version():
    before, after, seen = run(
        'import mmcv, mmdms; before = mmcv.__version__\n'
        'import mmyolo\n'
        'print(before, mmcv.__version__, mmyolo.mmcv_version)'
    )[:3]
    assert before == after
    assert seen.startswith('(2,')


def test_without_mmdms_the_gate_is_there_or_not_needed():
    import mmcv
    from mmengine.utils import digit_version

    done = subprocess.run([sys.executable, '-c', 'import mmyolo'], capture_output=True, text=True)
    assert (done.returncode == 0) == (digit_version(mmcv.__version__) < digit_version('2.1.0'))


def test_neither_mmdet_nor_mmyolo_is_imported_by_mmdms():
    (found,) = run(
        'import sys, torch, mmdms\n'
        'from mmdms.api import build_search_space\n'
        'build_search_space(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 2, 1)), '
        'torch.rand(1, 3, 4, 4))\n'
        "print(any(name in sys.modules for name in ('mmdet', 'mmyolo', 'mmpretrain')))"
    )
    assert found == 'False'


def test_a_failed_import_leaves_the_version_as_it_is(tmp_path):
    (tmp_path / 'mmyolo').mkdir()
    (tmp_path / 'mmyolo' / '__init__.py').write_text('raise ImportError("broken")')
    said = run(
        f'import sys; sys.path.insert(0, {str(tmp_path)!r})\n'
        'import mmcv, mmdms; before = mmcv.__version__\n'
        'try:\n    import mmyolo\nexcept ImportError as error:\n    print(error, before == mmcv.__version__)'
    )
    assert said == ['broken', 'True']
