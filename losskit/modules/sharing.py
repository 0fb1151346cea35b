"""What several losses of one feature need, such as the softmax of its logits, is computed once.

A criterion says when it goes on to another feature, or is done; in between, results are remembered. A compiler finds
what is computed twice by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class _Memory(threading.local):
    """Of each thread, since data parallelism within a process calls criteria in several."""

    feature: Any = None
    results: dict[Any, tuple[tuple[Tensor, ...], Any]] | None = None


_memory = _Memory()


def remember(feature: Any) -> None:
    """From now on, results are those of a feature's losses."""
    if torch.compiler.is_compiling():
        return
    if _memory.results is None or _memory.feature != feature:
        _memory.feature, _memory.results = feature, {}


def forget() -> None:
    """Nothing is shared any more."""
    if not torch.compiler.is_compiling():
        _memory.results = None


def is_sharing() -> bool:
    """Whether another loss of the same feature may need the same."""
    return _memory.results is not None and not torch.compiler.is_compiling()


def once(compute: Callable[..., Any], tensors: tuple[Tensor, ...], *arguments: Any) -> Any:
    """`compute(*tensors, *arguments)`, or what came of it before."""
    results = None if torch.compiler.is_compiling() else _memory.results
    if results is None:
        return compute(*tensors, *arguments)
    # A tensor that has been changed in place is another one.
    versions = (tensor._version for tensor in tensors if isinstance(tensor, Tensor) and not tensor.is_inference())
    key = (compute, *map(id, tensors), *versions, *arguments, torch.is_grad_enabled())
    if key not in results:
        # With the tensors, so that no other one gets the id of one.
        results[key] = tensors, compute(*tensors, *arguments)
    return results[key][1]


def log_softmax(logits: Tensor, axis: int) -> Tensor:
    """The logarithm of the softmax along `axis`."""
    found: Tensor = once(torch.log_softmax, (logits,), axis % logits.ndim)
    return found


def softmax(logits: Tensor, axis: int) -> Tensor:
    """The softmax along `axis`."""
    found: Tensor = once(torch.softmax, (logits,), axis % logits.ndim)
    return found
