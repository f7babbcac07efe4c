"""What an export meets: a full disk, a kill, a folder that may not be written, files that are not what they say."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

import mmdms
from mmdms.errors import CheckpointError, ConfigError, StructureError
from mmdms.openmmlab.checkpoints import read_checkpoint
from mmdms.openmmlab.commands.prune import prune
from mmdms.openmmlab.configs import load_config
from mmdms.openmmlab.export.write import FILES, check_output, write_export

ROOT = Path(__file__).parents[2]
SEARCH = ROOT / 'configs' / 'digits' / 'dms-10_resnet18_b64_digits.py'
V1 = ROOT / 'tests' / 'fixtures' / 'search_v1.pth'
NARROW = {
    'model.architecture.backbone.stem_channels': 2,
    'model.architecture.backbone.base_channels': 2,
    'model.architecture.head.in_channels': 16,
    'model.mutator.budget.target': 0.3,
}


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """An export of the checkpoint of search format 1, which every later mmdms must read."""
    folder = tmp_path_factory.mktemp('exported') / 'out'
    prune(load_config(str(SEARCH), NARROW), str(V1), str(folder))
    return folder


@pytest.fixture
def previous(exported, tmp_path):
    """A folder with an export in it, and a function that says whether it is as it was."""
    folder = tmp_path / 'place' / 'out'
    folder.mkdir(parents=True)
    before = {name: (exported / name).read_bytes() for name in FILES}
    for name, content in before.items():
        (folder / name).write_bytes(content)

    def intact():
        return {path.name: path.read_bytes() for path in folder.iterdir()} == before

    return folder, intact


def test_the_checkpoint_of_format_1_still_exports(exported):
    state = torch.load(exported / 'checkpoint.pth', weights_only=True)['state_dict']
    structure = mmdms.Structure.load(exported / 'subnet.json')
    saved = read_checkpoint(V1)['state_dict']
    assert int(saved['mutator.final_mask'].sum()) == sum(map(len, structure.kept.values()))
    assert len(state) > 20 and oct(exported.stat().st_mode)[-3:] == oct(0o777 & ~_umask())[-3:]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


PROGRAM = """
import sys
from mmdms.openmmlab.commands.prune import prune
from mmdms.openmmlab.cli import run_cli
from mmdms.openmmlab.configs import load_config
{before}
run_cli(lambda: prune(load_config(sys.argv[1], {options!r}), sys.argv[2], sys.argv[3], overwrite=True))
"""


def prune_elsewhere(folder, before=''):
    """Export over ``folder`` in a process of its own."""
    program = PROGRAM.format(before=before, options=NARROW)
    command = [sys.executable, '-c', program, str(SEARCH), str(V1), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize('size', [100, 20_000])
def test_a_full_disk(previous, size):
    """From the export on no file may grow beyond some size: the first one fails, or the checkpoint."""
    folder, intact = previous
    limit = f"""
import resource, mmdms.openmmlab.export.export as module
write = module.write_export
def limited(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
    write(*arguments)
module.write_export = limited
"""
    done = prune_elsewhere(folder, limit)
    assert done.returncode == 2, done.stderr[-2000:]
    assert 'error: cannot write the export' in done.stderr and 'what was there is as it was' in done.stderr
    assert intact() and [path.name for path in folder.parent.iterdir()] == ['out']


KILLS = {
    'in the middle of the checkpoint': """
import os, signal, torch
def half(content, path):
    with open(path, 'wb') as file:
        file.write(b'PK' * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = half
""",
    'before the new files take their place': """
import os, signal, mmdms.openmmlab.export.write as write
write._put_in_place = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
""",
}


@pytest.mark.parametrize('when', KILLS)
def test_a_kill(previous, when):
    folder, intact = previous
    done = prune_elsewhere(folder, KILLS[when])
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert intact()


def test_a_kill_after_the_new_files_took_their_place(previous):
    folder, intact = previous
    program = """
import os, signal, mmdms.openmmlab.export.write as write
put = write._put_in_place
def put_and_die(*a):
    put(*a)
    os.kill(os.getpid(), signal.SIGKILL)
write._put_in_place = put_and_die
"""
    (folder / 'checkpoint.pth').write_bytes(b'old')
    assert prune_elsewhere(folder, program).returncode == -signal.SIGKILL
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert len((folder / 'checkpoint.pth').read_bytes()) > 1000


def small_export(folder):
    write_export(folder, dict(a=1), dict(w=torch.zeros(2)), 'structure', dict(x=1))


def test_files_of_others_stay(previous):
    folder, _ = previous
    (folder / 'notes.txt').write_text('mine')
    small_export(folder)
    assert {path.name for path in folder.iterdir()} == {*FILES, 'notes.txt'}
    assert (folder / 'subnet.json').read_text() == 'structure'


def test_nothing_of_an_overwritten_export_stays(previous):
    folder, _ = previous
    small_export(folder)
    assert (folder / 'subnet.json').read_text() == 'structure' and (
        folder / 'report.json'
    ).read_text() == '{\n  "x": 1\n}\n'
    assert [path.name for path in folder.parent.iterdir()] == ['out']


@pytest.fixture
def ordinary_user():
    """Root may write everywhere: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(65534)
    os.seteuid(65534)
    yield
    os.seteuid(0)
    os.setegid(0)


@pytest.fixture
def closed_folder():
    """A folder that an ordinary user can see and not write."""
    with tempfile.TemporaryDirectory() as temporary:
        os.chmod(temporary, 0o755)
        place = Path(temporary, 'place')
        place.mkdir()
        place.chmod(0o555)
        yield place


def test_a_folder_that_may_not_be_written(closed_folder, monkeypatch, request):
    place = closed_folder
    request.getfixturevalue('ordinary_user')
    # Real and effective user differ here: access() asks for the real one.
    monkeypatch.setattr(os, 'access', _effective_access(os.access))
    with pytest.raises(ConfigError, match='is no folder that may be written; name another'):
        check_output(place / 'out', overwrite=False)
    with pytest.raises(ConfigError, match='cannot write the export to .*Permission denied'):
        small_export(place / 'out')
    assert list(place.iterdir()) == []


def _effective_access(access):
    return lambda path, mode: access(path, mode, effective_ids=True)


@pytest.mark.parametrize('tenth', range(10))
def test_a_checkpoint_cut_at_a_tenth_of_its_length(previous, tmp_path, tenth):
    folder, intact = previous
    whole = V1.read_bytes()
    (tmp_path / 'cut.pth').write_bytes(whole[: len(whole) * tenth // 10])
    with pytest.raises(CheckpointError, match='cannot be read, it may be truncated'):
        prune(load_config(str(SEARCH), NARROW), str(tmp_path / 'cut.pth'), str(folder), overwrite=True)
    assert intact()


def test_a_checkpoint_of_another_model(previous):
    folder, intact = previous
    with pytest.raises(CheckpointError, match='is of another architecture than the config'):
        prune(load_config(str(SEARCH)), str(V1), str(folder), overwrite=True)
    assert intact()


def test_a_checkpoint_whose_training_diverged(previous, tmp_path):
    folder, intact = previous
    content = read_checkpoint(V1)
    content['state_dict']['architecture.backbone.conv1.weight'][0, 0, 0, 0] = float('nan')
    torch.save(content, tmp_path / 'diverged.pth')
    with pytest.raises(CheckpointError, match=r"in 1 parameters \('architecture.backbone.conv1.weight' is the first"):
        prune(load_config(str(SEARCH), NARROW), str(tmp_path / 'diverged.pth'), str(folder), overwrite=True)
    assert intact()


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (('"0"', '"9"'), "unit '9' is .* in the structure and absent in the network"),
        (('"total": 4', '"total": 8'), "unit '0' is .*total=8.* and .*total=4"),
        (('[0, 1, 2, 3]', '[0, 1, 2, 4]'), r'kept indices must be distinct and in \[0, 4\)'),
        (('[0, 1, 2, 3]', '[0, 1, 1]'), 'kept indices must be distinct'),
        (('"version": 1', '"version": 2'), 'format version 2; this mmdms reads version 1.*update mmdms'),
        (('{"format"', '"format"'), 'cannot read the structure'),
    ],
)
def test_a_structure_edited_by_hand(tmp_path, edit, message):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    space = mmdms.build_search_space(model, torch.rand(1, 3, 4, 4))
    text = space.structure(torch.ones(4, dtype=torch.bool)).to_json()
    assert edit[0] in text
    (tmp_path / 'subnet.json').write_text(text.replace(*edit))
    with pytest.raises(StructureError, match=message):
        mmdms.slim(model, space, mmdms.Structure.load(tmp_path / 'subnet.json'))


@pytest.mark.parametrize(
    ('edit', 'message'),
    [
        (("'backbone.conv1.weight'", "'backbone.conv9.weight'"), "no tensor 'backbone.conv9.weight' to resize"),
        (('removed=[', "removed=['backbone.layer9.0',"), "no block 'backbone.layer9.0' to remove"),
    ],
)
def test_a_config_edited_by_hand(exported, tmp_path, edit, message):
    text = (exported / 'config.py').read_text()
    if edit[0] not in text:
        pytest.skip(f'this structure has no {edit[0]}')
    (tmp_path / 'config.py').write_text(text.replace(*edit))
    command = [sys.executable, str(ROOT / 'tools' / 'test.py'), 'config.py', str(exported / 'checkpoint.pth')]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr, done.stderr[-2000:]
