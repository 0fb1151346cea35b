"""The benchmarks: what they measure, and that they run."""

import torch

from benchmarks.memory import peak_memory


def test_peak_memory_is_the_most_that_is_held_at_once():
    def function():
        first = torch.empty(1000)  # 4,000 bytes
        second = torch.empty(500)  # and 2,000, at the same time
        del first
        return second, torch.empty(250)  # 2,000 and 1,000

    assert peak_memory(function) == 6000


def test_peak_memory_counts_what_is_held_inside_an_operator():
    numbers = torch.randn(10, 100)
    # The result has ten numbers; on the way, exp(x - largest) has as many as the input.
    assert 4000 <= peak_memory(lambda: numbers.logsumexp(1)) <= 4500


def test_peak_memory_of_a_backward_pass_is_that_of_what_is_saved_and_the_gradient():
    numbers = torch.randn(1000, requires_grad=True)

    def function():
        # exp() saves its result, of 4,000 bytes. Backward makes one gradient of as many, from an expanded scalar.
        numbers.exp().sum().backward()

    assert 8000 <= peak_memory(function) <= 8000 + 64
    numbers.grad = None


def test_peak_memory_leaves_out_what_was_held_before():
    held = torch.randn(100_000)
    assert peak_memory(lambda: held.sum()) <= 64
    assert peak_memory(lambda: held.mul_(2)) <= 64
