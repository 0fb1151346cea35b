"""Makes a module class of a registered function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from losskit.modules.base import LogitsInputsMixin


@functools.cache
def module_of(function: Callable[..., Tensor]) -> type[nn.Module]:
    """An `nn.Module` class whose keyword arguments are the settings of `function(predictions, targets, **settings)`."""

    class FunctionLoss(nn.Module, LogitsInputsMixin):
        def __init__(self, **settings: Any) -> None:
            super().__init__()
            inspect.signature(function).bind(None, None, **settings)
            self.settings = settings

        def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
            return function(predictions, targets, **self.settings)

        def extra_repr(self) -> str:
            return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())

        def __reduce_ex__(self, protocol: Any) -> Any:
            # The class stands in no module, so it is found again through the function.
            return _restored, (function, self.__dict__)

    FunctionLoss.__name__ = FunctionLoss.__qualname__ = function.__name__
    FunctionLoss.__module__ = function.__module__
    FunctionLoss.__doc__ = function.__doc__
    return FunctionLoss


def _restored(function: Callable[..., Tensor], state: dict[str, Any]) -> nn.Module:
    module = module_of(function).__new__(module_of(function))
    module.__dict__.update(state)
    return module
