"""Tries a loss on made-up data: whether it runs, and gives a finite value and a gradient to train with."""

from __future__ import annotations

import contextlib
import itertools
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from losskit.constants import VECTOR
from losskit.diagnostics import printable
from losskit.modules.batches import (
    BOUNDED_ROLES,
    USUAL,
    Batch,
    Sizes,
    candidates,
    changed,
    describe,
    generator_of,
    leaves,
    optional_forms,
    takes_sizes,
    tensors_of,
)
from losskit.registry import LossEntry
from losskit.schema.base import FeatureContext

# More classes than a config could list would only fill the memory.
MAX_CLASSES = 1 << 19
# As many numbers as a layer of a loss may have. One of a language model would take gigabytes, and its size proves
# nothing that a narrower one does not.
MAX_LAYER = 1 << 22
# Settings whose length, or number of rows, is the number of classes, in losses that do not say so themselves.
_PER_CLASS = ("alpha", "class_similarities", "class_weights", "pos_weight")
# Settings that hold ids of classes that there must be.
_IDS = ("blank", "classes", "cutoffs")
_MAX_GUESSES = 24
# Of larger images
_MAX_CHANNELS = 32
_MAX_ELEMENTS = 1 << 20
_LONGEST = 300

# How far a loss came before something was wrong.
_RAISED, _NO_SCALAR, _NOT_FINITE, _NO_GRADIENT, _FLAT = range(5)


class Finding(NamedTuple):
    """What is wrong, as the rest of a sentence that begins with the loss's name; how far it came, and with what."""

    message: str
    stage: int = _RAISED
    tried: str = ""


class Trial(NamedTuple):
    """How a loss fared: what is wrong, or a batch on which it trains, with the optional inputs that it had."""

    finding: Finding | None
    batch: Batch | None = None
    options: Mapping[str, Any] = {}


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Within the `with` block, random numbers start from one seed and leave no trace, and nothing writes to stdout.

    What a loss prints would end up amid the report.
    """
    threads = torch.get_num_threads()
    # For tensors as small as these, threads only wait for each other, the longer the more the machine has to do.
    torch.set_num_threads(1)
    try:
        with (
            torch.random.fork_rng(devices=()),
            torch.enable_grad(),
            torch.device("cpu"),
            contextlib.redirect_stdout(sys.stderr),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            # Not torch.manual_seed, which seeds other devices too.
            torch.default_generator.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)


def told(error: BaseException) -> str:
    """The type and the first line of an error."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # A loss's own error may have a faulty __str__.
        lines = []
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    text = printable(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def try_loss(
    entry: LossEntry,
    module: nn.Module,
    settings: Mapping[str, Any],
    context: FeatureContext,
    named: Sequence[str] = (),
) -> Trial:
    """Tries a loss on batches that fit, until it trains on one of them.

    Args:
        entry: the loss.
        module: the loss, built.
        settings: the arguments that it was built with.
        context: the feature that it is for; without a type, those that the loss supports are tried in order.
        named: the optional inputs that it is to be given.
    """
    worst: Finding | None = None
    for feature_type in [context.type] if context.type else entry.feature_types:
        trial = _try_type(entry, module, settings, context, feature_type, named)
        if trial.finding is None:
            return trial
        worst = worst or trial.finding
    return Trial(worst)


def _try_type(
    entry: LossEntry,
    module: nn.Module,
    settings: Mapping[str, Any],
    context: FeatureContext,
    feature_type: str,
    named: Sequence[str],
) -> Trial:
    sizes = _sizes(entry, settings, context, feature_type)
    best: Finding | None = None

    def attempts() -> Iterator[tuple[Sizes, int, float]]:
        """Sizes, a seed and the scale of the inputs; what is behind the first depends on how it went."""
        yield sizes, 0, 1.0
        if best and best.stage == _FLAT:
            # Chance may have met a flat place, such as one where all margins are kept, or none of the items counts.
            many = sizes._replace(samples=max(sizes.samples, min(8 * sizes.classes, _MAX_ELEMENTS // sizes.classes)))
            yield from ((many, seed, 1.0) for seed in (1, 2, 3))
            yield from ((sizes, 0, scale) for scale in (10.0, 1e3, 1e5, 0.1, 1e-3))
        elif best and best.stage < _NOT_FINITE:
            example_batch: Any = getattr(entry.module.load(), "example_batch", None)
            if example_batch is None or takes_sizes(example_batch):
                others = _other_sizes(sizes, settings, context, module)
                yield from ((other, 0, 1.0) for other in itertools.islice(others, _MAX_GUESSES))

    for plan in attempts():
        try:
            for batch, options in _cases(entry, feature_type, *plan, named):
                finding = attempt(module, batch, options)
                if finding is None:
                    return Trial(None, batch, options)
                if best is None or finding.stage > best.stage:
                    best = finding._replace(tried=describe(batch))
        except (Exception, SystemExit) as error:  # `attempt` raises nothing.
            return Trial(Finding(f"has an `example_batch` that fails: {told(error)}"))
    return Trial(best)


def attempt(module: nn.Module, batch: Batch, options: Mapping[str, Any]) -> Finding | None:
    """Runs a loss forward and backward; returns what is wrong with its value or its gradient."""
    stage, what = _RAISED, "fails"
    try:
        given = leaves(batch)
        # Like a model's outputs, they are no leaves; a loss may change them in place as far as autograd lets it.
        inputs, targets = changed(given.inputs, torch.clone), changed(given.targets, torch.clone)
        result = module(*inputs, *targets, **options)
        parts = list(result.values()) if isinstance(result, Mapping) else [result]
        wrong = [_shown(part) for part in parts if not isinstance(part, Tensor) or part.dim()]
        if wrong or not parts:
            return Finding(f"returns {wrong[0] if wrong else 'an empty mapping'}, not a scalar tensor", _NO_SCALAR)
        value: Tensor = sum(parts[1:], parts[0])
        if not torch.isfinite(value):
            return Finding(f"is {value.item()}", _NOT_FINITE)
        stage, what = _NO_GRADIENT, "fails in the backward pass"
        return _wrong_gradient(module, value, [x for x in tensors_of(given.inputs) if x.requires_grad])
    except (Exception, SystemExit) as error:
        return Finding(f"{what}: {told(error)}", stage)


def _shown(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _wrong_gradient(module: nn.Module, value: Tensor, inputs: list[Tensor]) -> Finding | None:
    if not value.requires_grad:
        return Finding("has no gradient: its value is cut off from the inputs", _NO_GRADIENT)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(value, [*inputs, *parameters], allow_unused=True)
    if not all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None):
        return Finding("has a gradient that is not finite", _NO_GRADIENT)
    # A loss that takes no floating-point numbers can only train what is its own.
    judged = gradients[: len(inputs)] if inputs else gradients
    if all(gradient is None for gradient in judged):
        return Finding("has no gradient: its value does not depend on the inputs", _NO_GRADIENT)
    if not any(gradient.any() for gradient in judged if gradient is not None):
        return Finding("has a gradient of 0 everywhere, so nothing is learned", _FLAT)
    return None


# What to try it with


def _sizes(entry: LossEntry, settings: Mapping[str, Any], context: FeatureContext, feature_type: str) -> Sizes:
    """The sizes that the feature and the settings of a loss ask for."""
    per_class = [settings.get(name) for name in (*entry.config.load().class_settings(), *_PER_CLASS)]
    lengths = [len(values) for values in per_class if isinstance(values, list)]
    count = settings.get("num_classes")
    said = context.num_classes or (count if _is_size(count) else None) or max(lengths, default=None)
    ids = [value for name in _IDS for value in _numbers(settings.get(name)) if 0 <= value < MAX_CLASSES]
    classes = said or max(USUAL.classes, *(value + 1 for value in ids), 0)
    # The classes of a vector are its numbers.
    usual = classes if feature_type == VECTOR and (lengths or ids) else USUAL.dimensions
    dimensions = next((size for size in _numbers(settings.get("in_features")) if size > 0), usual)
    blank = next(iter(_numbers(settings.get("blank"))), USUAL.blank)
    return USUAL._replace(classes=classes, dimensions=dimensions, blank=min(blank, MAX_CLASSES))


def _other_sizes(
    sizes: Sizes, settings: Mapping[str, Any], context: FeatureContext, module: nn.Module
) -> Iterator[Sizes]:
    """Larger images and series, for losses with windows; images of one channel; then sizes for which there is a hint.

    That is a number or a list in the settings, or the shape of something that the loss has. The number of classes that
    the feature has is never another.
    """
    if sizes.classes <= _MAX_CHANNELS:
        sizes_of_windows = sizes._replace(steps=64, side=64, length=4096)
        yield sizes_of_windows
        if not context.num_classes:
            yield sizes_of_windows._replace(classes=1)
    numbers: dict[int, None] = {}
    for value in settings.values():
        found = [value] if _is_size(value) else [len(value)] if isinstance(value, list) else []
        numbers.update(dict.fromkeys(found))
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        numbers.update(dict.fromkeys(tensor.shape))
    hints = [number for number in numbers if 1 < number <= 1 << 14][:6]
    for number in hints:
        if not context.num_classes:
            yield sizes._replace(classes=number)
        yield sizes._replace(dimensions=number)
    if not context.num_classes:
        for classes, dimensions in itertools.product(hints, hints):
            yield sizes._replace(classes=classes, dimensions=dimensions)


def _cases(
    entry: LossEntry, feature_type: str, sizes: Sizes, seed: int, scale: float, named: Sequence[str]
) -> Iterator[tuple[Batch, dict[str, Any]]]:
    is_bounded = any(role in BOUNDED_ROLES for role in entry.inputs)
    if scale != 1 and is_bounded:
        return
    for usual in candidates(entry, feature_type, seed, sizes):
        batch = (
            usual
            if scale == 1
            else usual._replace(inputs=changed(usual.inputs, lambda x: x * scale if x.is_floating_point() else x))
        )
        for options in _option_sets(entry, batch, sizes, named):
            yield batch, options


def _option_sets(entry: LossEntry, batch: Batch, sizes: Sizes, named: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Sets of optional inputs: those that the config names, which may need the others, and without such, none first."""
    optional = (*entry.optional_inputs, *entry.optional_targets)
    sets = [tuple(named), optional, ()] if named else [(), optional]
    for roles in dict.fromkeys(sets):
        forms = {role: optional_forms(role, batch, sizes, generator_of(0)) for role in roles}
        for index in range(max(map(len, forms.values()), default=1)):
            yield {role: found[min(index, len(found) - 1)] for role, found in forms.items()}


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _numbers(value: Any) -> list[int]:
    values: list[Any] = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and not isinstance(item, bool)]
