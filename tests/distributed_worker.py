"""What each rank does in the tests of several processes: `torchrun --nproc-per-node 2 distributed_worker.py RESULTS`.

All cases run in one start. RESULTS gets what was wrong in each, of all ranks; the tests assert that this is nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import losskit

# Features of a sample, and dimensions of its embedding.
FEATURES, DIMENSIONS = 4, 5
# For each number of ranks, how many groups of rows each has: uneven, and one without any.
SPLITS = {2: [(3, 2), (4, 0), (1, 3)], 3: [(2, 1, 3), (3, 0, 2), (0, 2, 1)]}


def assert_near(found, expected, what, tolerance=1e-6):
    """Asks that tensors be equal, relative to the largest number."""
    scale = max([1e-12, *(x.abs().max().item() for x in expected if x.numel())])
    for one, other in zip(found, expected, strict=True):
        error = (one - other).abs().max().item() / scale if one.numel() else 0.0
        assert error < tolerance, f"{what} is off by {error:.1e} relative to the largest"


def fsdp2(module):
    from torch.distributed.fsdp import fully_shard

    return fully_shard(module)


def by_hand(module):
    return module


WRAPPERS = {"by hand": by_hand, "DDP": DistributedDataParallel, "FSDP2": fsdp2}


def gradients_of(wrapper, module):
    """The gradients of the parameters, as one rank has them after a backward pass of all."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters()]
    if wrapper == "FSDP2":
        return [g.full_tensor() if hasattr(g, "full_tensor") else g for g in gradients]
    return means_of_ranks(gradients) if wrapper == "by hand" else gradients


def means_of_ranks(tensors):
    """What DistributedDataParallel makes of gradients."""
    for tensor in tensors:
        dist.all_reduce(tensor)
    return [tensor / dist.get_world_size() for tensor in tensors]


# Samples of all ranks compared with each other


class Encoder(nn.Module):
    """Makes embeddings of features, one per role of the loss, and calls the loss."""

    def __init__(self, loss, num_roles, learns_temperature):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(FEATURES, DIMENSIONS) for _ in range(num_roles))
        self.log_temperature = nn.Parameter(torch.zeros(1)) if learns_temperature else None
        self.loss = loss
        self.double()

    def forward(self, features, targets):
        options = {} if self.log_temperature is None else {"temperature": self.log_temperature.exp()}
        inputs = [layer(x) for layer, x in zip(self.layers, features, strict=True)]
        return self.loss(*inputs, *targets, **options)


class Gathering(NamedTuple):
    """A loss that gathers, and of what it is made."""

    loss: dict
    targets: str | None = None
    num_roles: int = 1
    # How many rows of the second embedding belong to one of the first.
    factor: int = 1
    learns_temperature: bool = False


GATHERING = {
    "nt_xent consecutive": Gathering({"type": "nt_xent", "temperature": 0.5}),
    "nt_xent halves": Gathering({"type": "nt_xent", "pairing": "halves", "reduction": "sum"}),
    "nt_xent labels": Gathering({"type": "nt_xent", "pairing": "labels"}, "ids"),
    "nt_xent labels, sum": Gathering({"type": "nt_xent", "pairing": "labels", "reduction": "sum"}, "bytes"),
    "contrastive": Gathering({"type": "contrastive", "normalize": True}, num_roles=2),
    "contrastive, one way": Gathering({"type": "contrastive", "symmetric": False}, num_roles=2),
    "contrastive, learned": Gathering({"type": "contrastive"}, num_roles=2, learns_temperature=True),
    "in_batch_hinge": Gathering({"type": "in_batch_hinge", "margin": 0.2}, num_roles=2),
    "in_batch_hinge, three each": Gathering({"type": "in_batch_hinge", "margin": 1.0}, num_roles=2, factor=3),
    "in_batch_hinge, hard": Gathering(
        {"type": "in_batch_hinge", "margin": 0.5, "hard": True, "reduction": "mean"}, num_roles=2, factor=2
    ),
    "ms by ids": Gathering({"type": "ms", "margin": 0.1}, "ids"),
    "ms by labels": Gathering({"type": "ms", "margin": 0.1, "hard_mining": False}, "labels"),
    "ms by any label": Gathering({"type": "ms", "is_multilabel": True, "reduction": "sum"}, "labels"),
    "multi_similarity": Gathering({"type": "multi_similarity"}, "ids"),
    "refiner_ms": Gathering({"type": "refiner_ms", "margin": 1.0}, "vectors"),
    "refiner_contrastive": Gathering({"type": "refiner_contrastive", "sim_thresh": 1.0}, "vectors"),
}


def samples(case, num_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    features = [torch.randn(num_rows, FEATURES, generator=generator).double()]
    if case.num_roles == 2:
        features.append(torch.randn(num_rows * case.factor, FEATURES, generator=generator).double())
    targets = {
        None: lambda: [],
        "ids": lambda: [torch.randint(3, (num_rows,), generator=generator)],
        "bytes": lambda: [torch.randint(2, (num_rows,), generator=generator).to(torch.int16)],
        "labels": lambda: [torch.randint(2, (num_rows, 3), generator=generator)],
        "vectors": lambda: [torch.randn(num_rows, DIMENSIONS, generator=generator).double()],
    }[case.targets]()
    return features, targets


def together(parts, halves):
    """The rows of all ranks, as one process would have them."""
    if halves:
        return torch.cat([*(part[: len(part) // 2] for part in parts), *(part[len(part) // 2 :] for part in parts)])
    return torch.cat(parts)


def check_gathering(case, wrapper, split):
    # Two rows per group, for those that come in pairs.
    of_ranks = [samples(case, 2 * groups, seed) for seed, groups in enumerate(split)]
    halves = case.loss.get("pairing") == "halves"
    whole = [[together(parts, halves) for parts in zip(*kind)] for kind in zip(*of_ranks)]
    alone = Encoder(losskit.create_loss(case.loss), case.num_roles, case.learns_temperature)
    expected = alone(*whole)
    expected.backward()
    assert any(p.grad.any() for p in alone.parameters()), "the case shows nothing: its gradient is 0"

    module = Encoder(losskit.create_loss(case.loss, gather=True), case.num_roles, case.learns_temperature)
    wrapped = WRAPPERS[wrapper](module)  # DistributedDataParallel must live until the backward pass is over.
    value = wrapped(*of_ranks[dist.get_rank()])
    value.backward()
    assert_near([value.detach()], [expected.detach()], "the value")
    assert_near(gradients_of(wrapper, module), [p.grad for p in alone.parameters()], "the gradient")


def check_second_derivatives(split):
    """The gradient of a gradient's length, which GradNorm and penalties take."""
    case = GATHERING["nt_xent labels"]
    of_ranks = [samples(case, 2 * groups, seed) for seed, groups in enumerate(split)]
    found = []
    for settings, (features, targets) in (
        ({}, [[together(parts, False) for parts in zip(*kind)] for kind in zip(*of_ranks)]),
        ({"gather": True}, of_ranks[dist.get_rank()]),
    ):
        module = Encoder(losskit.create_loss(case.loss, **settings), 1, False)
        first = torch.autograd.grad(module(features, targets), module.layers.parameters(), create_graph=True)
        if settings:
            # The mean over ranks, with a gradient: each rank's length is that of the whole gradient.
            first = [_mean_of_ranks(gradient) for gradient in first]
        length = sum(gradient.square().sum() for gradient in first)
        length.backward()
        found.append((length.detach(), [p.grad for p in module.parameters()]))
    (length, expected), (other, gradients) = found
    assert_near([other], [length], "the length of the gradient")
    assert_near(means_of_ranks(gradients), expected, "its gradient")


def _mean_of_ranks(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dist.nn.functional.all_reduce(tensor) / dist.get_world_size()


def check_evaluation():
    """Only one rank evaluates: it would wait for ever if it gathered."""
    case = GATHERING["contrastive"]
    features, _ = samples(case, 4, dist.get_rank())
    loss = losskit.create_loss(case.loss, gather=True)
    if dist.get_rank() == 0:
        expected = losskit.create_loss(case.loss)(*(x[:, :4] for x in features))
        with torch.no_grad():
            assert loss(*features) == expected
        loss.eval()
        assert loss(*features) == expected
    dist.barrier()


def check_gradient_of_one_rank():
    """The other's embeddings are given; it must still take part in the backward pass."""
    embedding = torch.randn(3, 2, generator=torch.Generator().manual_seed(dist.get_rank()))
    loss = losskit.create_loss("contrastive", gather=True)
    given = embedding.clone().requires_grad_(dist.get_rank() == 0)
    value = loss(given, embedding)
    value.backward()
    assert (given.grad is not None) == (dist.get_rank() == 0)


def check_shapes_that_do_not_fit():
    """All ranks say so, rather than one, for which the others would wait."""
    width = 2 + dist.get_rank()
    try:
        losskit.create_loss("contrastive", gather=True)(torch.randn(3, width), torch.randn(3, width))
    except ValueError as error:
        assert "(3, 2) float32 on rank 0, (3, 3) float32 on rank 1" in str(error), str(error)
    else:
        raise AssertionError("nothing was said")


def check_compiled():
    """The graph breaks where rows are gathered, and only there."""
    case = GATHERING["contrastive"]
    features, _ = samples(case, 2 + 2 * dist.get_rank(), dist.get_rank())
    for gather in (False, True):
        found = []
        for is_compiled in (False, True):
            loss = losskit.create_loss(case.loss, gather=gather)
            if is_compiled:
                loss = torch.compile(loss, backend="aot_eager", fullgraph=not gather)
            inputs = [x.clone().requires_grad_() for x in features]
            value = loss(*inputs)
            value.backward()
            found.append([value.detach(), *(x.grad for x in inputs)])
        assert_near(found[1], found[0], "what is compiled")


def check_half_precision():
    """Rows travel in float32, whatever the model computes in."""
    embedding = torch.randn(4, 3, generator=torch.Generator().manual_seed(dist.get_rank()))
    loss = losskit.create_loss("multi_similarity", gather=True)
    ids = torch.arange(4) % 2
    given = embedding.bfloat16().requires_grad_()
    value = loss(given, ids == 0)
    value.backward()
    assert value.dtype == torch.float32
    assert given.grad.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert_near([loss(given, ids).detach()], [value.detach()], "with autocast")


# All cases


def cases(num_ranks):
    """Each check by name."""
    found: dict[str, Callable[[], None]] = {}
    for name, case in GATHERING.items():
        for wrapper in ("DDP", "FSDP2"):
            for split in SPLITS[num_ranks]:
                found[f"gather: {name}, {wrapper}, {split}"] = lambda c=case, w=wrapper, s=split: check_gathering(
                    c, w, s
                )
    found["gather: second derivatives"] = lambda: check_second_derivatives(SPLITS[num_ranks][0])
    found["gather: evaluation"] = check_evaluation
    found["gather: gradient of one rank"] = check_gradient_of_one_rank
    found["gather: shapes that do not fit"] = check_shapes_that_do_not_fit
    found["gather: compiled"] = check_compiled
    found["gather: half precision"] = check_half_precision
    return found


def main(path):
    # A rank that fails alone leaves the others waiting; they give up soon.
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    wrong = {}
    for name, check in cases(dist.get_world_size()).items():
        torch.manual_seed(0)
        said = None
        try:
            check()
        except Exception as error:
            said = f"rank {dist.get_rank()}: {type(error).__name__}: {error}"
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, said)
        wrong[name] = [message for message in everyone if message]
    if dist.get_rank() == 0:
        Path(path).write_text(json.dumps(wrong, indent=1), "utf-8")
    dist.barrier()
    sys.stdout.flush()
    # What torch leaves behind of FSDP2 over gloo aborts the process now and then when it ends.
    os._exit(0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1])
