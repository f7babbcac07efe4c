"""What a kind of units says about its elements, and where kinds are looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import ConfigError
from ..registry import MUTABLES

ORDERS = ('importance', 'position')


class MutableUnit:
    """One kind of units; register a subclass under the name of the kind: ``@MUTABLES.register_module('channels')``.

    The class says how every unit of the kind behaves. An instance holds the options of one search; options that are
    not given are those of the class.

    Args:
        minimum: fewest elements that a unit keeps in this search, at least those of the class; a unit that has no
            more keeps all.
        sharpness: ``lambda`` of the soft top-k over the elements, above 0; 1 is the paper's for channels.
        order: ``'importance'``: the least important elements go first; ``'position'``: the last ones go first.
        divisor: a unit keeps a multiple of it, or everything; None: as :meth:`step` says.

    Attributes:
        minimum: of the class: fewest elements that a unit of any structure keeps.
        noun: one element, in messages; its plural takes an s.
        gates_modules: how masks act. True: an element is a module (or several), and its mask gates the output of the
            module. False: an element is a position along dimensions of tensors, and its mask multiplies the weights
            that read it, or acts inside a module whose adapter asks for it.
        prefix_only: whether only the first elements of a unit can stay, so that they are always ranked by position.
        counted_by_attribute: whether an attribute of a module counts the elements, and gives the unit its name;
            otherwise the layer that outputs them gives it.
        groups_channels: whether an element is a group of channels that lie side by side, as a head is.
        pruned_by_magnitude: whether structured pruning may score an element by the weights that read it.

    Raises:
        ConfigError: for an option out of range; the message begins with the name of the option.
    """

    minimum: int = 1
    sharpness: float = 1.0
    order: str = 'importance'
    divisor: int | str | None = None

    noun: ClassVar[str] = 'element'
    gates_modules: ClassVar[bool] = False
    prefix_only: ClassVar[bool] = False
    counted_by_attribute: ClassVar[bool] = True
    groups_channels: ClassVar[bool] = False
    pruned_by_magnitude: ClassVar[bool] = False

    def __init__(
        self,
        minimum: int | None = None,
        sharpness: float | None = None,
        order: str | None = None,
        divisor: int | str | None = None,
    ) -> None:
        if minimum is not None:
            if type(minimum) is not int or minimum < self.minimum:
                raise ConfigError(f'minimum must be a whole number from {self.minimum}, but it is {minimum!r}')
            self.minimum = minimum
        if sharpness is not None:
            number = isinstance(sharpness, (int, float)) and not isinstance(sharpness, bool)
            if not number or not 0 < sharpness < float('inf'):
                raise ConfigError(f'sharpness must be a finite number above 0, but it is {sharpness!r}')
            self.sharpness = float(sharpness)
        orders = ('position',) if self.prefix_only else ORDERS
        if order is not None:
            if order not in orders:
                raise ConfigError(f'order must be one of {list(orders)}, but it is {order!r}')
            self.order = order
        elif self.prefix_only:
            self.order = 'position'
        if divisor is not None:
            self.divisor = self.checked_divisor(divisor)

    @classmethod
    def checked_divisor(cls, divisor: Any) -> int | str:
        """The option ``divisor``, if it is a whole number from 1."""
        if type(divisor) is not int or divisor < 1:
            raise ConfigError(f'divisor must be a whole number from 1, but it is {divisor!r}')
        return divisor

    def step(self, total: int, divisor: int | str) -> int:
        """Step of the number of kept elements.

        Args:
            total: elements of the unit.
            divisor: that of the mutator, a whole number from 1 or ``'auto'``, for kinds that follow it.
        """
        return min(self.divisor, total) if isinstance(self.divisor, int) else 1

    def fewest(self, total: int) -> int:
        """Fewest elements that a unit of ``total`` elements keeps in this search."""
        return min(self.minimum, total)

    @classmethod
    def counted(cls, count: int) -> str:
        """A number of elements, for messages: ``'1 channel'``, ``'8 channels'``."""
        return f'{count} {cls.noun}{"" if count == 1 else "s"}'


def kinds() -> Mapping[str, type[MutableUnit]]:
    """Every registered kind by its name."""
    return MUTABLES.module_dict


def kind_of(name: str) -> type[MutableUnit]:
    """The class of a kind.

    Raises:
        ConfigError: for a name that is not registered.
    """
    found = kinds().get(name) if isinstance(name, str) else None
    if found is None:
        raise ConfigError(
            f'{name!r} is no kind of mutable unit: there are {sorted(kinds())}; import the module that registers it '
            'in MUTABLES'
        )
    return found
