"""Include and exclude patterns over module names."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ..errors import ConfigError


class Patterns:
    """Shell-style patterns; a pattern that names a module also names all below it.

    Args:
        include: a module is selected only if one of these matches it.
        exclude: and none of these does.
    """

    def __init__(self, include: Iterable[str] = ('*',), exclude: Iterable[str] = ()) -> None:
        self.include = _checked('include', include)
        self.exclude = _checked('exclude', exclude)
        self._used: set[str] = set()

    def selects(self, module: str) -> bool:
        """Whether a module may be searched."""
        wanted = self._matches(self.include, module)
        unwanted = self._matches(self.exclude, module)
        return wanted and not unwanted

    def check_used(self) -> None:
        """Raise ConfigError for a pattern that matched nothing."""
        for key, patterns in (('include', self.include), ('exclude', self.exclude)):
            for pattern in patterns:
                if pattern not in self._used and pattern != '*':
                    raise ConfigError(
                        f'{key} pattern {pattern!r} matches no searchable layer or block; '
                        'tools/search_space.py lists their names'
                    )

    def _matches(self, patterns: list[str], module: str) -> bool:
        found = [p for p in patterns if fnmatchcase(module, p) or fnmatchcase(module, f'{p}.*')]
        self._used.update(found)
        return bool(found)


def _checked(key: str, patterns: Iterable[str]) -> list[str]:
    listed = patterns if isinstance(patterns, str) else list(patterns)
    if isinstance(listed, str) or not all(isinstance(pattern, str) for pattern in listed):
        raise ConfigError(f'{key} must be a list of patterns over module names, but it is {listed!r}')
    return listed
