"""What each rank does in the tests of several processes: `torchrun --nproc-per-node 2 distributed_worker.py all FILE`.

All cases run in one start. FILE gets what was wrong in each, of all ranks; the tests assert that this is nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import losskit
from losskit.constants import NUMBER
from losskit.modules.base import AdditiveLoss
from losskit.modules.contract import alternatives, subject_of
from losskit.registry import registry

# Features of a sample, and dimensions of its embedding.
FEATURES, DIMENSIONS = 4, 5
# For each number of ranks, how many groups of rows each has: uneven, and one without any.
SPLITS = {1: [(4,)], 2: [(3, 2), (4, 0), (1, 3)], 3: [(2, 1, 3), (3, 0, 2), (0, 2, 1)]}


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
    # What each rank makes of the value counts, though it is the same for all.
    num_ranks = dist.get_world_size()
    (loss(given, embedding) * (dist.get_rank() + 1)).backward()
    assert (given.grad is not None) == (dist.get_rank() == 0)
    if dist.get_rank() == 0:
        parts = [torch.randn(3, 2, generator=torch.Generator().manual_seed(rank)) for rank in range(num_ranks)]
        whole = torch.cat(parts).requires_grad_()
        losskit.create_loss("contrastive")(whole, torch.cat(parts)).backward()
        assert_near([given.grad], [whole.grad[:3] * num_ranks * (num_ranks + 1) / 2], "the gradient")


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


def check_absent_feature():
    """Only the first rank has features that are compared over ranks; the others take part all the same."""
    names = ["contrastive", "nt_xent", "ms", "refiner_ms", "in_batch_hinge"]
    vectors = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))

    def results(gather, has_some, has_counts):
        features = [{"name": n, "type": "vector", "loss": {"type": n, "gather": gather}} for n in names]
        features.append({"name": "price", "type": NUMBER, "loss": "huber"})
        criterion = losskit.build({"output_features": features})
        given = vectors.clone().requires_grad_()
        predictions, targets = {"price": torch.ones(2)}, {"price": torch.zeros(2)}
        if has_some:
            pair = {"embedding_1": given[0], "embedding_2": given[1]}
            predictions |= {name: pair if name in ("contrastive", "in_batch_hinge") else given[0] for name in names}
            targets |= {"ms": torch.arange(4) % 2, "refiner_ms": vectors[1]}
        counts, scale = None, 1
        if has_counts:
            counts, scale = losskit.distributed.counts(criterion, [targets], divided_by=2, others="average"), 2
        total, parts = criterion(predictions, targets, counts)
        (total / scale).backward()
        gradient = torch.zeros_like(given) if given.grad is None else given.grad
        return [value.detach() / scale for value in (total, *parts.values())], gradient

    expected, gradient = results(gather=False, has_some=True, has_counts=False)
    for has_counts in (False, True):
        found, own = results(gather=True, has_some=dist.get_rank() == 0, has_counts=has_counts)
        assert_near(found, expected, "a loss that only the first rank has")
        assert_near(means_of_ranks([own]), [gradient], "its gradient")


# Parts of a batch


class Shifted(nn.Module):
    """Scales and shifts all predictions, by 1 and 0 until it is trained, and calls the criterion."""

    def __init__(self, predictions, criterion):
        super().__init__()
        # Flat, for FSDP2 cuts along the first axis.
        self.scales = nn.ParameterList(torch.ones(_size(x)) for x in predictions.values())
        self.shifts = nn.ParameterList(torch.zeros(_size(x)) for x in predictions.values())
        self.criterion = criterion
        self.double()

    def forward(self, predictions, targets, normalizers=None):
        shifted = {
            role: x * scale.view(x.shape[1:]) + shift.view(x.shape[1:])
            for (role, x), scale, shift in zip(predictions.items(), self.scales, self.shifts, strict=True)
        }
        return self.criterion({"feature": shifted}, {"feature": targets}, normalizers).total


def _size(tensor):
    return tensor.shape[1:].numel()


def whole_batch(name, feature_type, settings):
    """Predictions by role, and targets with weights for some items, a mask, and all else that the loss takes."""
    subject = subject_of(name)
    parts = [subject.batch(feature_type, seed) for seed in range(4)]
    inputs, targets = ([torch.cat(tensors) for tensors in zip(*side)] for side in zip(*parts))
    predictions = {role: x.double() for role, x in zip(subject.entry.inputs, inputs, strict=True)}
    given = dict(zip(subject.entry.targets, targets, strict=True))
    given = {role: x.double() if x.is_floating_point() else x for role, x in given.items()}
    num_rows = len(inputs[0])
    if "lengths" in subject.entry.optional_targets:
        given["lengths"] = torch.arange(num_rows) % targets[0].shape[1] + 1
    if "target_lengths" in subject.entry.optional_targets:
        given["target_lengths"] = torch.arange(num_rows) % 2 + 1
    if "mask" in subject.entry.optional_targets:
        shape = inputs[0].shape[:-1]
        given["mask"] = (torch.arange(shape.numel()) % 3 > 0).view(shape)
    elif settings.get("ignore_index", -100) >= 0:
        given[subject.entry.targets[0]][::5] = settings["ignore_index"]
    else:
        given["mask"] = torch.arange(num_rows) % 4 > 0
    given["sample_weight"] = torch.arange(num_rows) % 3 + 0.5
    return predictions, given


def cut(num_rows, num_ranks, generator):
    """For each rank, the rows of each of its micro-batches, as many on each; the last rank has a part without any."""
    num_batches = int(torch.randint(1, 6, (), generator=generator))
    owner = torch.randint(num_ranks * num_batches, (num_rows,), generator=generator)
    rows = [(owner == number).nonzero().flatten() for number in range(num_ranks * num_batches)]
    if len(rows) > 1:
        rows[0], rows[-1] = torch.cat([rows[0], rows[-1]]), rows[-1][:0]
    return [rows[rank * num_batches : (rank + 1) * num_batches] for rank in range(num_ranks)]


def check_parts(name, feature_type, wrapper, settings):
    """The gradient of all parts, on all ranks, is that of the whole batch in one process."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {feature_type} {wrapper}".encode()))
    predictions, targets = whole_batch(name, feature_type, settings)
    of_ranks = cut(len(targets["sample_weight"]), dist.get_world_size(), generator)
    if wrapper != "DDP" and dist.get_world_size() > 1:
        # On the last rank, nothing counts.
        targets["sample_weight"][torch.cat(of_ranks[-1])] = 0.0

    def made():
        torch.manual_seed(0)
        return Shifted(predictions, losskit.build(config_of(name, feature_type, settings)))

    alone = made()
    alone(predictions, targets).backward()
    expected = gradients_of("", alone)
    assert any(g.any() for g in expected), "the case shows nothing: its gradient is 0"

    module = made()
    wrapped = WRAPPERS[wrapper](module)
    parts = [
        tuple({role: x[rows] for role, x in side.items()} for side in (predictions, targets))
        for rows in of_ranks[dist.get_rank()]
    ]
    batches = [({"feature": p}, {"feature": t}) for p, t in parts]
    counts = losskit.distributed.counts(module.criterion, batches, divided_by=len(parts))
    assert counts.num_batches == len(parts)
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        if wrapper == "FSDP2":
            wrapped.set_requires_gradient_sync(is_last)
        with contextlib.nullcontext() if is_last or wrapper != "DDP" else wrapped.no_sync():
            (wrapped(*part, normalizers=counts) / len(parts)).backward()
    assert_near(gradients_of(wrapper, module), expected, "the gradient")


def check_averages():
    """Losses that are no means over items are averaged over the parts that have something."""
    config = {"output_features": [{"name": "mask", "type": "image", "loss": ["dice", "bce_with_logits"]}]}
    criterion = losskit.build(config)
    rank = dist.get_rank()
    masks = torch.randint(2, (4, 1, 3, 3), generator=torch.Generator().manual_seed(rank))
    try:
        losskit.distributed.counts(criterion, [{"mask": masks}])
    except TypeError as error:
        assert str(error).startswith("mask/dice: no mean over items"), str(error)
    else:
        raise AssertionError("dice was taken for a mean over items")
    # On the first rank, one of three micro-batches says nothing about the feature; the others have one.
    batches = [{"mask": masks}, {}, {"mask": masks[:1]}] if rank == 0 else [{"mask": masks}]
    counts = losskit.distributed.counts(criterion, batches, others="average")
    num_ranks = dist.get_world_size()
    assert counts["mask/dice"] == (1 + num_ranks) / num_ranks, counts
    assert counts["mask/bce_with_logits"] == 9 * (1 + 4 * num_ranks) / num_ranks, counts


def check_rank_without_batches():
    """It takes part, so that the others do not wait; here and in a group of some ranks."""
    criterion = losskit.build({"output_features": [{"name": "price", "type": NUMBER, "loss": "mae"}]})
    batches = [{"price": torch.zeros(3)}] * (dist.get_rank() + 1) if dist.get_rank() < 1 else []
    counts = losskit.distributed.counts(criterion, batches)
    assert counts["price/mean_absolute_error"] == 3 / dist.get_world_size()
    group = dist.new_group([0])
    if dist.get_rank() == 0:
        assert losskit.distributed.counts(criterion, batches, group)["price/mean_absolute_error"] == 3


def check_nothing_counts():
    """Where all ranks together have no positive item, a sum over positives is divided by 1, as in one process."""
    loss = {"type": "focal", "normalize_by": "positives"}
    criterion = losskit.build({"output_features": [{"name": "spam", "type": "binary", "loss": loss}]})
    targets = {"spam": torch.zeros(3)}
    counts = losskit.distributed.counts(criterion, [targets, targets])
    assert counts["spam/focal"] == 1 / dist.get_world_size()


# All cases


# Settings that the usual batches do not fit: labels that are the blank, and rows that are not along the first axis.
UNFIT = {("ctc", "blank"), ("ctc", "layout")}


def settings_of(name):
    """Each other value that a setting may have, with the first feature type, and the other settings, that allow it."""
    entry = registry.get(name)
    config = entry.config.load()
    values = {
        field.name: alternatives(entry.schema["properties"][field.name])
        for field in config.setting_fields()
        if field.name not in config.example_settings
    }
    for setting, of_setting in values.items():
        others = [{}, *({other: v} for other in values if other != setting for v in values[other])]
        for value in of_setting if (name, setting) not in UNFIT else ():
            plans = ((t, {setting: value, **other}) for other in others for t in entry.feature_types)
            # The first; none of what does not go with 3 classes and 5 dimensions.
            yield from itertools.islice((p for p in plans if not losskit.validate(config_of(name, *p))), 1)


def config_of(name, feature_type, settings):
    loss = {"type": name, **registry.get(name).config.load().example_settings, **settings}
    return {"output_features": [{"name": "feature", "type": feature_type, "num_classes": 3, "loss": loss}]}


def cases(num_ranks, is_quick=False):
    """Each check by name; the quick ones leave out FSDP2, compiling, and all but the defaults of a loss."""
    found: dict[str, Callable[[], None]] = {}
    wrappers = ["DDP"] if is_quick else ["DDP", "FSDP2"]
    for name, case in GATHERING.items():
        for wrapper in wrappers:
            for split in SPLITS[num_ranks]:
                found[f"gather: {name}, {wrapper}, {split}"] = lambda c=case, w=wrapper, s=split: check_gathering(
                    c, w, s
                )
    found["gather: second derivatives"] = lambda: check_second_derivatives(SPLITS[num_ranks][0])
    found["gather: evaluation"] = check_evaluation
    found["gather: gradient of one rank"] = check_gradient_of_one_rank
    if num_ranks > 1:
        found["gather: shapes that do not fit"] = check_shapes_that_do_not_fit
    found["gather: half precision"] = check_half_precision
    found["gather: absent feature"] = check_absent_feature
    for entry in registry.entries():
        if not issubclass(entry.module.load(), AdditiveLoss):
            continue
        plans = [(wrapper, t, {}) for wrapper in wrappers for t in entry.feature_types]
        if not is_quick:
            plans += [("by hand", *plan) for plan in settings_of(entry.name)]
        for wrapper, feature_type, settings in plans:
            shown = ", ".join([wrapper, *(f"{name}: {value}" for name, value in settings.items())])
            found[f"counts: {entry.name} of {feature_type}, {shown}"] = (
                lambda n=entry.name, f=feature_type, w=wrapper, s=settings: check_parts(n, f, w, s)
            )
    found["counts: averages"] = check_averages
    found["counts: nothing counts"] = check_nothing_counts
    found["counts: rank without batches"] = check_rank_without_batches
    if not is_quick:
        found["gather: compiled"] = check_compiled
    return found


def main(mode, path):
    # A rank that fails alone leaves the others waiting; they give up soon.
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    wrong = {}
    for name, check in cases(dist.get_world_size(), mode == "quick").items():
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
        main(*sys.argv[1:])
