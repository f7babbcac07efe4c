"""A wheel is laid out as those of OpenMMLab: configs, tools and the model index lie in ``mmdms/.mim``."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

import mmdms

ROOT = Path(__file__).parents[1]
CONFIG = 'configs/digits/dms-10_resnet18_b64_digits.py'
BUILD_SDIST = 'import setuptools.build_meta as build; build.build_sdist("dist")'


def run(*command, folder, **variables):
    environment = {**os.environ, **variables}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked(*folders):
    """Files of the repository, by their paths below its root; of a work tree those that git does not ignore."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', *folders]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def clean_copy(folder):
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel that a source distribution gives, unpacked: neither needs the repository."""
    source = clean_copy(tmp_path_factory.mktemp('repository'))
    run('-c', BUILD_SDIST, folder=source)
    (archive,) = (source / 'dist').glob('mmdms-*.tar.gz')
    options = ['--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir']
    run('-m', 'pip', 'wheel', *options, str(source / 'dist'), str(archive), folder=source)
    (found,) = (source / 'dist').glob('mmdms-*.whl')
    assert not (source / 'mmdms' / '.mim').exists()  # a build leaves the source tree as it is
    unpacked = tmp_path_factory.mktemp('wheel')
    zipfile.ZipFile(found).extractall(unpacked)
    return unpacked


def test_wheel_holds_every_file(wheel):
    files = {path.relative_to(wheel).as_posix() for path in wheel.rglob('*') if path.is_file()}
    packaged = {name for name in files if '.dist-info/' not in name}
    data = {f'mmdms/.mim/{name}' for name in tracked('configs', 'tools', 'model-index.yml')}
    assert packaged == {*tracked('mmdms'), *data}
    assert f'mmdms/.mim/{CONFIG}' in files and 'mmdms/.mim/tools/dist_train.sh' in files


def test_model_index_leads_to_configs(wheel):
    data = wheel / 'mmdms' / '.mim'
    for name in yaml.safe_load((data / 'model-index.yml').read_text(encoding='utf-8'))['Import']:
        metafile = yaml.safe_load((data / name).read_text(encoding='utf-8'))
        for named in [*(c['README'] for c in metafile['Collections']), *(m['Config'] for m in metafile['Models'])]:
            assert (data / named).is_file()


def test_tools_and_configs_run_from_the_wheel(wheel):
    data = wheel / 'mmdms' / '.mim'
    assert Config.fromfile(data / CONFIG).to_dict() == Config.fromfile(ROOT / CONFIG).to_dict()
    assert '--out-dir' in run(str(data / 'tools' / 'prune.py'), '--help', folder=data, PYTHONPATH=str(wheel))


def test_version_is_that_of_the_package(wheel):
    assert (wheel / f'mmdms-{mmdms.__version__}.dist-info').is_dir()
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
    assert citation['version'] == mmdms.__version__


def test_editable_install_links_to_the_source(tmp_path):
    """The build step of ``pip install -e .``, without an install."""
    source = clean_copy(tmp_path)
    options = ['--no-deps', '--no-build-isolation', '--no-index', '--target', str(tmp_path / 'site')]
    run('-m', 'pip', 'install', *options, '-e', '.', folder=source)
    data = source / 'mmdms' / '.mim'
    assert sorted(path.name for path in data.iterdir()) == ['configs', 'model-index.yml', 'tools']
    assert all(path.is_symlink() and path.resolve() == source / path.name for path in data.iterdir())
