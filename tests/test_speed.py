"""That losses with kernels stay fast: their time as a multiple of that of one of torch's functions, in this process.

The limits leave room for other machines and for noise. They catch what falls back to the plain form, or goes over its
input much more often than it should; how fast the losses are is what `make bench` says.
"""

import time

import pytest
import torch
import torch.nn.functional as F

import losskit


def seconds(function, *arguments):
    """The least time of the processor that a function takes, since whatever disturbs it adds to that."""
    times = []
    for _ in range(9):
        start = time.process_time()
        function(*arguments)
        times.append(time.process_time() - start)
    return min(times)


def trained(loss, inputs, targets):
    """The gradient of a loss."""
    leaf = inputs.detach().requires_grad_()
    return torch.autograd.grad(loss(leaf, targets), leaf)


def batch_of(kind):
    """A batch of four to six million numbers, and a loss of torch's that takes it; of pairs, two thousand vectors."""
    torch.manual_seed(0)
    return {
        "items": lambda: (torch.randn(1000, 4000), torch.randint(4000, (1000,)), F.cross_entropy),
        "pixels": lambda: (torch.randn(4, 21, 256, 256), torch.randint(21, (4, 256, 256)), F.cross_entropy),
        "labels": lambda: (torch.randn(40_000, 100), torch.randint(2, (40_000, 100)).float(), F.l1_loss),
        "pairs": lambda: (torch.randn(2000, 128), torch.arange(2000) // 8, lambda x, _: (x @ x.T).softmax(1)[0].sum()),
    }[kind]()


# For each loss: its settings, the kind of batch, and how many times as long as torch's loss it may take. That is about
# one and a half times what was measured, and less than the plain form takes.
LIMITS = [
    ("label_smoothing_cross_entropy", {}, "pixels", 1.4),
    ("poly", {}, "items", 1.2),
    ("focal", {}, "labels", 4.0),
    ("focal", {"activation": "sigmoid"}, "pixels", 6.0),
    ("mean_absolute_error", {}, "labels", 0.8),
    ("lovasz_softmax", {}, "pixels", 5.0),
    ("sparsemax", {}, "items", 5.0),
    ("entmax15", {}, "items", 5.0),
    ("tempered_softmax_cross_entropy", {}, "items", 7.0),
    ("nt_xent", {}, "pairs", 0.95),
    ("multi_similarity", {}, "pairs", 2.3),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "kind", "limit"), LIMITS)
def test_a_loss_takes_no_more_than_its_share(name, options, kind, limit):
    inputs, targets, beside = batch_of(kind)
    loss = losskit.create_loss(name, **options)
    ratio = seconds(trained, loss, inputs, targets) / seconds(trained, beside, inputs, targets)
    assert ratio <= limit
