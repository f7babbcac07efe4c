"""Every Python block of the documentation runs, and does what the text says."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest
import tomllib
import torch
from mmengine.config import Config

import mmdms
from mmdms.masks.channel_masks import mask_level
from mmdms.network.module_swap import has_level
from mmdms.openmmlab.commands.search_config import build_algorithm
from mmdms.openmmlab.export.export import retrain_config
from mmdms.registry import ADAPTERS, MUTABLES

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').glob('*.md')])
SEARCH = ROOT / 'configs' / 'digits' / 'dms-10_resnet18_b64_digits.py'


def blocks(page):
    return re.findall(r'^```python\n(.*?)^```', page.read_text(encoding='utf-8'), re.MULTILINE | re.DOTALL)


def is_program(block):
    return bool(re.search(r'^(import|from) ', block, re.MULTILINE))


CHECKED = ('plain_pytorch.md', 'adapters.md')
"""Pages with a test of their own."""

# A page is one program, or its blocks are configs.
PROGRAMS = [page for page in PAGES if any(map(is_program, blocks(page)))]
CONFIGS = [
    pytest.param(block, id=f'{page.name}-{index}')
    for page in PAGES
    if page not in PROGRAMS
    for index, block in enumerate(blocks(page))
]


@pytest.fixture(autouse=True)
def own_registrations():
    """What a page registers is gone after it: names of other tests are the same."""
    before = [(registry, dict(registry.module_dict)) for registry in (ADAPTERS, MUTABLES)]
    yield
    for registry, registered in before:
        registry._module_dict.clear()
        registry._module_dict.update(registered)


def with_outputs(page):
    """Python blocks of a page, each with the text block right after it, which says what it prints, or None."""
    text = page.read_text(encoding='utf-8')
    found = re.findall(r'^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?', text, re.MULTILINE | re.DOTALL)
    return [(block, output or None) for block, output in found]


def run_program(page, folder, monkeypatch):
    """Run the blocks of a page one after the other, as one program, in ``folder``; each prints what the page says."""
    monkeypatch.chdir(folder)
    names = {'__name__': '__main__'}
    for block, output in with_outputs(page):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, str(page), 'exec'), names)
        if output is not None:
            assert printed.getvalue() == output
    return names


@pytest.mark.parametrize('page', [p for p in PROGRAMS if p.name not in CHECKED], ids=lambda page: page.name)
def test_program_runs(page, tmp_path, monkeypatch):
    run_program(page, tmp_path, monkeypatch)


def test_adapters(tmp_path, monkeypatch):
    page = run_program(ROOT / 'docs' / 'adapters.md', tmp_path, monkeypatch)
    structure, subnet, model = page['mutator'].structure(), page['subnet'], page['forecast']
    taps = structure.kept['0.taps']
    assert taps == list(range(len(taps))) and 2 <= len(taps) < 12
    series = torch.rand(3, 20)
    torch.testing.assert_close(subnet(series), model.eval()(series))
    assert structure.budget.within
    assert mmdms.Structure.from_dict(structure.to_dict()).kept == structure.kept


def test_plain_pytorch(tmp_path, monkeypatch):
    page = run_program(ROOT / 'docs' / 'plain_pytorch.md', tmp_path, monkeypatch)
    model, subnet, space, structure = (page[name] for name in ('model', 'subnet', 'space', 'structure'))
    images = page['images'][1200:]

    share = space.cost('flops', space.mask(structure)) / space.cost('flops', torch.ones(space.num_elements))
    assert 0.97 * 0.3 <= share <= 0.3
    assert mmdms.Structure.load(tmp_path / 'subnet.json').to_dict() == structure.to_dict()
    assert page['accuracy'] > 0.9

    with torch.no_grad():
        masked = model.eval()(images)
        torch.testing.assert_close(subnet(images), masked, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(page['restored'](images), subnet(images))
    # Ordinary: nothing of the search is left in it, and the searched model still has its masks.
    assert {type(m).__module__.split('.')[0] for m in subnet.modules()} <= {'torch', '__main__', 'mmdms', 'builtins'}
    assert not any(has_level(m, mask_level) for m in subnet.modules())
    assert any(has_level(m, mask_level) for m in model.modules())
    assert sum(p.numel() for p in subnet.parameters()) == space.cost('params', space.mask(structure))
    # A step of training, as any network takes it.
    subnet.train()(images[:8]).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in subnet.parameters())


@pytest.mark.parametrize('text', CONFIGS)
def test_config(text, tmp_path):
    """A block with a base is a whole config, in the file that it may name; others add to the search of the demo."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    named = re.match(r'# (configs/\S+\.py)\n', text)
    path = tmp_path / (named.group(1) if named else 'configs/digits/addition.py')
    whole = re.search(r'^_base_ = ', text, re.MULTILINE)
    path.write_text(text if whole else f"_base_ = './{SEARCH.name}'\n{text}", encoding='utf-8')
    config = Config.fromfile(path)

    algorithm = build_algorithm(config)
    assert type(algorithm.mutator).__name__ == config.model.mutator.type.removeprefix('mmdms.')
    assert config.optim_wrapper.constructor == 'mmdms.DMSOptimWrapperConstructor'
    assert any(hook.type == 'mmdms.BudgetHook' for hook in config.custom_hooks)
    retrained = Config(retrain_config(config, {}, 'inherit'))
    for key, value in config.get('retrain', {}).items():
        for name, wanted in value.items():
            found = retrained[key][name]
            assert found == wanted or wanted.items() <= found.items()


def test_architecture_has_the_layers_that_the_linter_holds():
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))
    contracts = {contract['type']: contract for contract in project['tool']['importlinter']['contracts']}
    layers = [layer.split(' | ') for layer in contracts['layers']['layers']]
    table = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8').partition('| Package of `mmdms` |')[2]
    rows = re.findall(r'^\| (`.*?`) \|', table.partition('\n\n')[0], re.MULTILINE)
    assert [re.findall(r'`(\w+)`', row) for row in rows] == layers


def test_figures_are_drawn_from_their_sources():
    """Each word of a figure stands in its source, so a source that changed without its figure is noticed."""
    sources = list((ROOT / 'docs' / 'figures').glob('*.dot'))
    assert sources
    for source in sources:
        said = ' '.join(re.findall(r'label="(.*?)"', source.read_text(encoding='utf-8')))
        drawn = re.findall(r'>([^<>]+)</text>', source.with_suffix('.svg').read_text(encoding='utf-8'))
        words = [sorted(re.split(r'(?:\s|&#160;|\\[nl])+', text)) for text in (said, ' '.join(drawn))]
        assert [word for word in words[0] if word] == [word for word in words[1] if word]


def test_pages_link_to_files_that_exist():
    for page in [*PAGES, *(ROOT / 'configs').rglob('*.md')]:
        for target in re.findall(r'\]\((?!https?://|#|mailto:)([^)#\s]+)', page.read_text(encoding='utf-8')):
            assert (page.parent / target).exists(), f'{page.name} links to {target}'


def test_commands_name_files_that_exist():
    """What stands in a shell block and looks like a file of ours is one."""
    for page in [*PAGES, *(ROOT / 'configs').rglob('*.md')]:
        for block in re.findall(r'^```(?:shell|bash)\n(.*?)^```', page.read_text(encoding='utf-8'), re.M | re.S):
            for name in re.findall(r'(?<![\w/.])(?:tools|configs|benchmarks|tests)/[\w./-]+\.(?:py|sh)', block):
                assert (ROOT / name).exists(), f'{page.name} names {name}'
