"""Install mmdms."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
MIM = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Puts configs, tools and the model index into ``mmdms/.mim``, where OpenMMLab's packages have theirs.

    A wheel gets copies, and the source tree is not touched. An editable install gets links in the source tree, so that
    a change of a config is seen at once; where the system refuses links, it gets copies from the time of the install.
    """

    def run(self) -> None:
        """Build the package, then add the files."""
        super().run()
        target = Path('mmdms' if self.editable_mode else Path(self.build_lib) / 'mmdms') / '.mim'
        shutil.rmtree(target, ignore_errors=True)  # of an earlier build: a config may have been renamed since
        target.mkdir(parents=True)
        for name in MIM:
            if not self.editable_mode or not self._link(ROOT / name, target / name):
                self._copy(ROOT / name, target / name)

    def _link(self, source: Path, target: Path) -> bool:
        """Whether a relative link from ``target`` to ``source`` could be made."""
        try:
            target.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()), source.is_dir())
        except OSError as error:
            self.warn(f'{error}: {target} is a copy; install again after each change of {source.name}')
            return False
        return True

    def _copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copyfile(source, target)


def read_requirements(name: str) -> list[str]:
    """Requirements of ``requirements/<name>.txt``, without comments."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in lines if line and not line.startswith('#')]


def read_version() -> str:
    """The version, without importing the package (which needs torch)."""
    scope: dict = {}
    exec((ROOT / 'mmdms' / 'version.py').read_text(encoding='utf-8'), scope)
    return scope['__version__']


def read_readme() -> str:
    """The README, where there is one."""
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.exists() else ''


setup(
    name='mmdms',
    version=read_version(),
    description='Scale a network to a budget by differentiable top-k, for OpenMMLab',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmdms', 'mmdms.*']),
    cmdclass={'build_py': BuildWithMim},
    python_requires='>=3.10',
    # mmengine, mmcv and mmpretrain are left out on purpose: upstream and its
    # maintained fork (onedl-*) install the same modules under other names, and
    # naming one here would install it over the other. `import mmdms` checks
    # the modules that are really there.
    install_requires=read_requirements('runtime'),
    extras_require={name: read_requirements(name) for name in ('commands', 'demo', 'llm', 'tests', 'benchmark')},
    zip_safe=False,
)
