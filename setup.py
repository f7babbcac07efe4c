"""Install mmdms."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


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
    python_requires='>=3.10',
    # mmengine, mmcv and mmpretrain are left out on purpose: upstream and its
    # maintained fork (onedl-*) install the same modules under other names, and
    # naming one here would install it over the other. `import mmdms` checks
    # the modules that are really there.
    install_requires=read_requirements('runtime'),
    extras_require={name: read_requirements(name) for name in ('commands', 'demo', 'llm', 'tests', 'benchmark')},
    zip_safe=False,
)
