"""Describe one call of a network: its positional and its keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import ModelError
from .trees import map_tensors

Inputs = Any
"""What :meth:`ExampleCall.of` takes."""


class ExampleCall:
    """One call of a network, as an example of how it is called.

    ``ExampleCall(images, labels, mode='tensor')`` stands for ``model(images, labels, mode='tensor')``.

    Args:
        *args: positional arguments; tensors, and whatever else ``forward`` takes.
        **kwargs: keyword arguments.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    @classmethod
    def of(cls, inputs: Inputs) -> ExampleCall:
        """The call that ``inputs`` stand for.

        Args:
            inputs: a tensor, the only argument; a tuple or list of positional arguments; a mapping of keyword
                arguments (a dict, or what a tokenizer returns); or an :class:`ExampleCall`, which is returned as it
                is. A mapping that is itself the only argument goes into a tuple: ``(mapping,)``. So does a list.

        Raises:
            ModelError: for anything else, and for a mapping whose keys are not names.
        """
        if isinstance(inputs, ExampleCall):
            return inputs
        if isinstance(inputs, Tensor):
            return cls(inputs)
        if isinstance(inputs, Mapping):
            odd = [key for key in inputs if not isinstance(key, str)]
            if odd:
                raise ModelError(
                    f'inputs are a mapping, and so keyword arguments, but {odd[0]!r} is no name: to pass the mapping '
                    'as the only argument, give a tuple of it: (inputs,)'
                )
            return cls(**inputs)
        if isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes)):
            return cls(*inputs)
        raise ModelError(
            f'inputs must be a tensor, a tuple or list of positional arguments, a mapping of keyword arguments, or an '
            f'mmdms.ExampleCall, but they are a {type(inputs).__module__}.{type(inputs).__qualname__}: make a tensor '
            'of an array with torch.as_tensor, and a tuple of a single argument of another kind: (argument,)'
        )

    def check(self, function: Callable[..., Any]) -> None:
        """Raise ``ModelError`` if a function does not take these arguments, as far as its signature tells."""
        target = function.forward if isinstance(function, nn.Module) else function
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):  # compiled functions have none
            return
        try:
            signature.bind(*self.args, **self.kwargs)
        except TypeError as error:
            remedy = 'give a tuple of positional arguments, a mapping of keyword arguments, or an mmdms.ExampleCall'
            if self.kwargs and not self.args:
                remedy += '; to pass one mapping as the only argument, give a tuple of it: (inputs,)'
            raise ModelError(
                f'{name_of(function)} cannot be called on {self}: {error}. It takes {signature}; {remedy}'
            ) from error

    def run(self, function: Callable[..., Any]) -> Any:
        """Call a function on these arguments."""
        return function(*self.args, **self.kwargs)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> ExampleCall:
        """The call with every tensor replaced by what ``change`` makes of it; containers stay of their types."""
        args, kwargs = map_tensors((self.args, self.kwargs), change)
        return ExampleCall(*args, **kwargs)

    def __repr__(self) -> str:
        """Types of the arguments, as a call."""
        parts = [type(value).__name__ for value in self.args]
        parts += [f'{name}={type(value).__name__}' for name, value in self.kwargs.items()]
        return f'({", ".join(parts)})'


def name_of(function: Callable[..., Any]) -> str:
    """How a message names what is called: a module by its class."""
    if isinstance(function, nn.Module):
        return type(function).__name__
    return getattr(function, '__qualname__', repr(function))
