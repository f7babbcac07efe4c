"""Which module runs, and what the blocks of a row take and hand on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten

from ..network.call_sites import Occurrences
from .context import RuleContext
from .residual_branches import BranchFinder
from .tensor_records import Record
from .trace import BlockCall


class Watcher:
    """Hooks on every module of a network that is traced."""

    def __init__(self, model: nn.Module, tracer: RuleContext, branches: BranchFinder) -> None:
        self._model = model
        self._tracer = tracer
        self._branches = branches
        self._path: list[str] = []
        self._lines: list[Occurrences] = []  # of every module that runs
        self._calls: Counter[str] = Counter()

    @property
    def module(self) -> str:
        """Dotted name of the module that is running."""
        return self._path[-1] if self._path else ''

    def numbered(self, line: str) -> str:
        """A line that calls something, numbered within this call of the module that is running."""
        return self._lines[-1].name(line) if self._lines else line

    @contextmanager
    def inside(self, module: str) -> Iterator[None]:
        """As if a module were running."""
        self._path.append(module)
        try:
            yield
        finally:
            self._path.pop()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep hooks on every module of the network."""
        with ExitStack() as stack:
            for name, module in self._model.named_modules():
                for handle in self._watch(name, module):
                    stack.callback(handle.remove)
            yield

    def finish(self) -> None:
        """Note what shows only once the network has run."""
        self._tracer.trace.ran |= set(self._calls)
        for name, block in self._tracer.trace.blocks.items():
            if self._calls[name] > 1:
                block.problem = f'is called {self._calls[name]} times'

    def _watch(self, name: str, module: nn.Module) -> list[Any]:
        parent = self._model.get_submodule(name.rpartition('.')[0]) if '.' in name else self._model
        # Blocks stand in a container, or side by side with a number in their name (``layer1``, ``layer2``).
        in_row = name != '' and (isinstance(parent, (nn.Sequential, nn.ModuleList)) or name[-1].isdigit())
        entered: list[list[tuple[Tensor, Record, int] | None]] = []  # per argument its record and version

        def enter(_: nn.Module, args: tuple[Any, ...]) -> None:
            self._path.append(name)
            self._lines.append(Occurrences())
            self._calls[name] += 1
            entries: list[tuple[Tensor, Record, int] | None] = []
            for place, given in enumerate(args if in_row else ()):
                record = self._tracer.records.get(given)
                if record is not None:
                    record.identities |= {_stream(name, place)}
                entries.append(None if record is None else (given, record, given._version))
            entered.append(entries)
            if in_row and args and isinstance(args[0], Tensor):
                self._branches.enter(name, args[0])

        def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                with _disable_current_modes():
                    self._tracer.notice(output)  # an invisible operation is reported under the module that ran it
            self._path.pop()
            self._lines.pop()
            if in_row:
                self._branches.leave(name, output)
            entries = entered.pop()
            if entries:
                self._note_block(name, entries, args, output)

        return [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave),
        ]

    def _note_block(
        self, name: str, entries: list[tuple[Tensor, Record, int] | None], args: tuple[Any, ...], output: Any
    ) -> None:
        handed_on = output if isinstance(output, tuple) else (output,)
        streams, identity, problem = [], True, None
        for place, result in enumerate(handed_on[: len(args)]):
            entry = entries[place]
            if not isinstance(result, Tensor):
                if not _plain(args[place]) or not _plain(result) or args[place] != result:
                    return
                continue
            record = self._tracer.records.get(result)
            if entry is None or record is None or result.shape != entry[0].shape:
                return
            streams.append((entry[1].labels, record.labels))
            identity = identity and _stream(name, place) in record.identities
            if entry[0]._version != entry[2]:
                problem = 'writes into its own input'
        if not streams or len(handed_on) > len(args):
            return
        (before, after), *others = streams
        in_tuple = isinstance(output, tuple)
        block = BlockCall(name, before, after, identity, problem, tuple(others), len(handed_on), in_tuple)
        self._tracer.trace.blocks.setdefault(name, block)


def _plain(value: Any) -> bool:
    """Whether a value is of numbers alone (the shape of a map, say), and so can be compared."""
    return all(leaf is None or isinstance(leaf, (int, float, str)) for leaf in tree_flatten(value)[0])


def _stream(block: str, place: int) -> str:
    """Names what a block was given in some place; what it was given first bears its own name."""
    return f'{block}:{place}' if place else block
