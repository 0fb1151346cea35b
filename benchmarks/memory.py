"""How much memory a function takes at its peak, exact to the byte."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_memory(function: Callable[[], object], device: str | torch.device = "cpu") -> int:
    """The most bytes that torch holds on the device at one time while `function` runs, above those at the start.

    What the function returns is part of it, whether it is kept or not. On the CPU it is what torch's own allocator
    hands out, as its profiler records it, so that neither the state of malloc nor other programs change the number.
    Memory that a library beneath torch takes for itself is not seen, nor is what the function frees of the memory that
    was held before; so let it begin with nothing that it frees.

    >>> peak_memory(lambda: torch.zeros(1000) + torch.ones(1000))
    12000
    """
    device = torch.device(device)
    # Cycles that are collected while the function runs would lower its peak by what others have left.
    gc.collect()
    if device.type == "cuda":
        return _peak_of_cuda(function, device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    results = profiled.profiler.kineto_results
    held = peak = 0
    # One event for each allocation and, below zero, for each release; other events are of operators and have no bytes.
    for event in sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def _peak_of_cuda(function: Callable[[], object], device: torch.device) -> int:
    """By the counters of torch's caching allocator."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
