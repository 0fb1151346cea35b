"""The contract of a loss, point by point; `losskit.testing` is where users find it.

PYTEST_DONT_REWRITE: as losskit brings a plugin, pytest would add what it knows about each assert to the messages.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losskit.modules.base import AdditiveLoss, for_feature
from losskit.modules.batches import BOUNDED_ROLES, Batch, candidates, cast, describe, fitted, generator_of, leaves
from losskit.modules.lookup import Term
from losskit.modules.multi_task import MultiTaskLoss
from losskit.registry import LossEntry, Registry, registry
from losskit.schema.base import BaseLossConfig
from losskit.schema.quick import compiled
from losskit.strategies import strategies

MakeBatch = Callable[[str, torch.Generator], "Batch"]


class ContractError(AssertionError):
    """A loss breaks its contract; the message says each point and how."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A loss under test, with a way to make it and batches to feed it."""

    entry: LossEntry
    make_batch: MakeBatch | None = None

    def build(self, feature_type: str | None = None, **settings: Any) -> nn.Module:
        """The module; for a feature type, as building from a config does it.

        Its parameters are always the same, so that two modules differ by their settings alone.
        """
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            module: nn.Module = self.entry.module.load()(**{**self.config.example_settings, **settings})
        return for_feature(module, feature_type)

    @property
    def group_size(self) -> int:
        """How many samples in a row belong together, such as two views of one image."""
        size: int = getattr(self.entry.module.load(), "group_size", 1)
        return size

    @property
    def is_unbounded(self) -> bool:
        """Whether its inputs may be any numbers."""
        return not any(role in BOUNDED_ROLES for role in self.entry.inputs)

    @property
    def config(self) -> type[BaseLossConfig]:
        config: type[BaseLossConfig] = self.entry.config.load()
        return config

    def batch(self, feature_type: str, seed: int = 0) -> Batch:
        """A batch for a feature type, the first of the usual forms that the loss accepts."""
        if self.make_batch is not None:
            return self.make_batch(feature_type, generator_of(seed))
        refusals = []
        for candidate in candidates(self.entry, feature_type, seed):
            try:
                self.build(feature_type)(*candidate.inputs, *candidate.targets)
            except (TypeError, ValueError, RuntimeError, IndexError) as error:
                refusals.append(f"{describe(candidate)}: {error}")
            else:
                return candidate
        raise AssertionError(f"for {feature_type} it accepts none of the usual batches: " + "; ".join(refusals))

    def cases(self) -> Iterator[tuple[str, Batch]]:
        """A batch for each feature type that the loss declares."""
        for feature_type in self.entry.feature_types:
            yield feature_type, self.batch(feature_type)


def subject_of(
    loss: str | type[nn.Module] | Callable[..., Any],
    feature_types: Sequence[str] | None = None,
    make_batch: MakeBatch | None = None,
) -> Subject:
    """The subject for a registered name, or for a class or function, which need not be registered."""
    entry = registry.get(loss) if isinstance(loss, str) else None
    for known in registry.entries() if entry is None else ():
        if known.module.path == f"{loss.__module__}:{loss.__qualname__}":  # type: ignore[union-attr]
            entry = known
    if entry is None:
        from losskit.registry import register_loss

        private = Registry()
        register_loss("loss_under_test", feature_types, registry=private)(loss)  # type: ignore[type-var]
        entry = private.get("loss_under_test")
    if feature_types is not None:
        entry = dataclasses.replace(entry, feature_types=tuple(feature_types))
    return Subject(entry, make_batch)


def check_loss(
    loss: str | type[nn.Module] | Callable[..., Any],
    *,
    feature_types: Sequence[str] | None = None,
    make_batch: MakeBatch | None = None,
    skip: Sequence[str] = (),
) -> None:
    """Checks every point of the contract.

    Args:
        loss: the name of a registered loss, or a module class or function, registered or not.
        feature_types: for which to check it; without them, those for which it is registered.
        make_batch: makes a `Batch` from a feature type and a generator, for losses that take unusual inputs; a class
            may have it as a static method `example_batch`.
        skip: names of points, as in `CHECKS`, that do not apply.

    Raises:
        ContractError: it breaks some points; the message has all of them.
    """
    subject = subject_of(loss, feature_types, make_batch)
    broken = []
    for name, check in CHECKS.items():
        if name not in skip:
            try:
                check(subject)
            except Exception as error:  # Whatever a loss under test raises is a finding.
                broken.append(
                    f"{name}: {type(error).__name__}: {error}" if not _is_plain(error) else f"{name}: {error}"
                )
    if broken:
        raise ContractError(f"{subject.entry.module.path} breaks {len(broken)} points:\n  " + "\n  ".join(broken))


@contextlib.contextmanager
def isolated_registry() -> Iterator[Registry]:
    """Within the `with` block, losses and ways to balance them may be registered; after it, they are forgotten."""
    saved = dict(registry._all()), dict(registry._names), dict(strategies._all())
    try:
        yield registry
    finally:
        registry._entries, registry._names, strategies._entries = saved


# The points of the contract


def check_result_is_scalar(subject: Subject) -> None:
    """`forward` gives a scalar tensor, or a dict of them, attached to the graph."""
    for feature_type, batch in subject.cases():
        result = subject.build(feature_type)(*leaves(batch).inputs, *batch.targets)
        for value in result.values() if isinstance(result, Mapping) else [result]:
            assert isinstance(value, Tensor), f"{feature_type}: it returned {type(value).__name__}, not a tensor"
            assert value.dim() == 0, f"{feature_type}: it returned shape {tuple(value.shape)}, not a scalar"
            assert value.requires_grad, f"{feature_type}: the result is cut off from the inputs"


def check_trains_by_default(subject: Subject) -> None:
    """Its defaults build, and give a finite value and a finite, non-zero gradient on each feature type."""
    for feature_type, batch in subject.cases():
        value, gradients = _run(subject.build(feature_type), batch)
        _assert_finite(feature_type, value, gradients)
        assert any(g.abs().sum() > 0 for g in gradients), f"{feature_type}: the gradient is 0 everywhere"


def check_config_defaults_match(subject: Subject) -> None:
    """The defaults of config and constructor are the same, and every setting is described."""
    loaded = subject.entry.module.loaded
    signature = inspect.signature(loaded if inspect.isfunction(loaded) else subject.entry.module.load())
    config = subject.config()
    for field in subject.config.setting_fields():
        parameter = signature.parameters.get(field.name)
        if parameter is not None and parameter.default is not parameter.empty:
            default = getattr(config, field.name)
            assert default == parameter.default, (
                f"{field.name} defaults to {default!r} in the config, to {parameter.default!r} in the constructor"
            )
        assert field.metadata.get("description"), f"the setting {field.name} has no description"


def check_every_setting_acts(subject: Subject) -> None:
    """Every setting changes the value or the gradient for some input, alone or beside one other setting."""
    properties = {
        field.name: subject.entry.schema["properties"][field.name] for field in subject.config.setting_fields()
    }
    other_values = {name: alternatives(schema) for name, schema in properties.items()}
    distributed = getattr(subject.entry.module.load(), "distributed_settings", ())
    for name, values in other_values.items():
        if name in (*subject.config.example_settings, *distributed):
            continue  # Other sizes do not fit the inputs, and what acts across processes does nothing in one.
        others = [{}, *({other: value} for other in other_values if other != name for value in other_values[other])]
        acts = any(_acts(subject, name, value, base) for base in others for value in values)
        assert acts, f"the setting {name} changes nothing; tried {values}"


def check_gradients(subject: Subject) -> None:
    """The gradient in float64 is that of the value, by finite differences."""
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type).double()
        doubles = leaves(cast(batch, torch.float64))
        assert torch.autograd.gradcheck(lambda *x, m=module, t=doubles.targets: total_of(m(*x, *t)), doubles.inputs), (
            feature_type
        )


def check_gradient_of_zero(subject: Subject) -> None:
    """Inputs of exactly 0, which fresh models give, have the gradient of inputs beside them."""
    for feature_type, given in subject.cases():
        if not subject.is_unbounded or not given.targets or given.targets[0].is_floating_point():
            continue  # Errors of exactly 0 may be a corner, as in absolute error.
        batch = cast(given, torch.float64)
        module = subject.build(feature_type).double()
        at_zero, beside = (
            _run(module, Batch(_floats(batch, functools.partial(torch.full_like, fill_value=value)), batch.targets))[1]
            for value in (0.0, 1e-9)
        )
        for gradient, other in zip(at_zero, beside, strict=True):
            message = f"{feature_type}: the gradient jumps at 0"
            torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-7, msg=message)


def check_large_inputs(subject: Subject) -> None:
    """Inputs of +-1e4 give a finite value and gradient."""
    for feature_type, batch in subject.cases() if subject.is_unbounded else ():
        for scale in (1e4, -1e4):
            inputs = _floats(batch, functools.partial(_extreme, scale=scale))
            _assert_finite(
                f"{feature_type}, inputs of {scale:g}", *_run(subject.build(feature_type), Batch(inputs, batch.targets))
            )


def check_perfect_fit(subject: Subject) -> None:
    """Predictions that equal the targets, or are certain of them, give a finite value and gradient."""
    for feature_type, batch in subject.cases():
        if fit := fitted(batch):
            _assert_finite(f"{feature_type}, perfect fit", *_run(subject.build(feature_type), fit))


def check_half_precision(subject: Subject) -> None:
    """float16 and bfloat16 inputs, and autocast, give what float32 gives, up to the rounding of the inputs."""
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type)
        for dtype in (torch.float16, torch.bfloat16):
            rounded = Batch(cast(batch, dtype).inputs, batch.targets)
            expected, _ = _run(module, cast(rounded, torch.float32))
            value, gradients = _run(module, rounded)
            _assert_finite(f"{feature_type}, {dtype}", value, gradients)
            torch.testing.assert_close(
                value.float(), expected, rtol=1e-5, atol=1e-6, msg=f"{feature_type}: {dtype} differs"
            )
        with torch.autocast("cpu", torch.bfloat16):
            value, _ = _run(module, batch)
        expected, _ = _run(module, batch)
        torch.testing.assert_close(
            value.float(), expected, rtol=1e-5, atol=1e-6, msg=f"{feature_type}: autocast differs"
        )


def check_nothing_to_count(subject: Subject) -> None:
    """An empty batch, and one whose targets are all ignored, give 0 and a gradient of 0."""
    settings = {field.name for field in subject.config.setting_fields()}
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type)
        empty = Batch(*(tuple(x[:0] for x in part) for part in batch))
        cases = [("an empty batch", empty)]
        index: Any = getattr(module, "ignore_index", None)
        if "ignore_index" in settings and index is not None:
            ids = all(not t.is_floating_point() for t in batch.targets)
            if ids:
                ignored = tuple(torch.full_like(t, index) for t in batch.targets)
                cases.append(("all targets ignored", Batch(batch.inputs, ignored)))
        for what, case in cases:
            value, gradients = _run(module, case)
            assert value == 0, f"{feature_type}, {what}: the value is {value.item()}, not 0"
            assert all((g == 0).all() for g in gradients), f"{feature_type}, {what}: the gradient is not 0"


def check_few_items(subject: Subject) -> None:
    """A single sample, and targets that are all of one class, give a finite value and gradient."""
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type)
        single = Batch(*(tuple(x[: subject.group_size] for x in part) for part in batch))
        # Not every id is a label: 0 may be a blank.
        one_class = tuple(torch.full_like(t, 0 if t.is_floating_point() else t.min().item()) for t in batch.targets)
        _assert_finite(f"{feature_type}, a single sample", *_run(module, single))
        _assert_finite(f"{feature_type}, targets of one class", *_run(module, Batch(batch.inputs, one_class)))


def check_no_broadcasting(subject: Subject) -> None:
    """A prediction with an axis too many is refused, and the message has both shapes."""
    for feature_type, batch in subject.cases():
        others = [*batch.inputs[1:], *batch.targets]
        first = batch.inputs[0]
        if not others or any(x.shape != first.shape for x in others):
            continue
        try:
            subject.build(feature_type)(first.unsqueeze(-1), *others)
        except (TypeError, ValueError, RuntimeError) as error:
            shapes = str(tuple(first.unsqueeze(-1).shape)), str(tuple(first.shape))
            assert all(shape in str(error) for shape in shapes), (
                f"{feature_type}: the error has not both shapes: {error}"
            )
        else:
            raise AssertionError(
                f"{feature_type}: {tuple(first.shape)} was broadcast against {tuple(first.unsqueeze(-1).shape)}"
            )


def check_order_does_not_matter(subject: Subject) -> None:
    """Permuting the batch, or passing tensors that are not contiguous, leaves the value as it is."""
    for feature_type, given in subject.cases():
        module = subject.build(feature_type).double()
        batch = cast(given, torch.float64)
        expected, _ = _run(module, batch)
        num_groups = len(batch.inputs[0]) // subject.group_size
        groups = torch.randperm(num_groups, generator=generator_of(1)).unsqueeze(1) * subject.group_size
        order = (groups + torch.arange(subject.group_size)).flatten()
        permuted = Batch(*(tuple(x[order] for x in part) for part in batch))
        spread = Batch(*(tuple(x.repeat_interleave(2, -1)[..., ::2] for x in part) for part in batch))
        for what, case in (("permuted", permuted), ("not contiguous", spread)):
            torch.testing.assert_close(_run(module, case)[0], expected, msg=f"{feature_type}: {what} differs")


def check_reductions(subject: Subject) -> None:
    """The sum is the sum of the unreduced values, where the loss has reductions."""
    if "reduction" not in {field.name for field in subject.config.setting_fields()}:
        return
    for feature_type, given in subject.cases():
        batch = cast(given, torch.float64)
        total = subject.build(feature_type, reduction="sum")(*batch.inputs, *batch.targets)
        values = subject.build(feature_type, reduction="none")(*batch.inputs, *batch.targets)
        torch.testing.assert_close(values.sum(), total, msg=f"{feature_type}: sum is not the sum of none")


def check_counts(subject: Subject) -> None:
    """Parts of a batch, each divided by the count of the whole, add up to the mean, unless there is no count."""
    for feature_type, given in subject.cases():
        module = subject.build(feature_type)
        if not hasattr(module, "count") or not given.targets:
            continue
        batch = cast(given, torch.float64)
        try:
            count = module.count(*batch.targets)  # type: ignore[operator]
        except TypeError:
            continue
        expected = module(*batch.inputs, *batch.targets)
        parts = [Batch(*(tuple(x[half] for x in part) for part in batch)) for half in (slice(0, 2), slice(2, None))]
        total = sum(module(*part.inputs, *part.targets, normalizer=count) for part in parts)
        torch.testing.assert_close(total, expected, msg=f"{feature_type}: two parts do not add up to the whole")


def check_masks(subject: Subject) -> None:
    """A mask of all items changes nothing, and neither does what a mask leaves out, where the loss takes masks."""
    entry = subject.entry
    is_its_own = "mask" in entry.optional_targets
    for feature_type, given in subject.cases():
        module = subject.build(feature_type).double()
        if not is_its_own and not isinstance(module, AdditiveLoss):
            return
        roles = entry.inputs, entry.targets, entry.optional_inputs, entry.optional_targets
        criterion = MultiTaskLoss([Term("feature", "loss", module, *roles, feature_type=feature_type)])
        batch = cast(given, torch.float64)
        first = (*batch.targets, *batch.inputs)[0]
        # Without a mask, one is the same as its own whole; else the shape is the loss's own choice.
        shapes = [first.shape[:1]] if not is_its_own else [first.shape[:axes] for axes in range(1, first.ndim + 1)]
        refusals = []
        for shape in dict.fromkeys(shapes):
            mask = torch.ones(shape, dtype=torch.bool)
            try:
                whole = _masked(criterion, batch, mask)
            except (TypeError, ValueError, RuntimeError) as error:
                refusals.append(f"{tuple(shape)}: {error}")
                continue
            where = f"{feature_type}: a mask {tuple(shape)}"
            torch.testing.assert_close(whole, _masked(criterion, batch), msg=f"{where} of all items changes the loss")
            mask[1] = False
            others = Batch(*(tuple(_without_row(x, mask.shape[0]) for x in part) for part in batch))
            found, expected = _masked(criterion, others, mask), _masked(criterion, batch, mask)
            torch.testing.assert_close(found, expected, msg=f"{where} leaves something out that counts")
            break
        else:
            raise AssertionError(f"{feature_type}: it takes no mask: {'; '.join(refusals)}")


def _masked(criterion: MultiTaskLoss, batch: Batch, mask: Tensor | None = None) -> Tensor:
    (term,) = criterion.plans
    predictions = dict(zip(term.lookup.inputs, batch.inputs, strict=True))
    targets: dict[str, Any] = dict(zip(term.lookup.targets, batch.targets, strict=True))
    if mask is not None:
        targets["mask"] = mask
    total: Tensor = criterion({"feature": predictions}, {"feature": targets}).total
    return total.detach()


def _without_row(tensor: Tensor, num_samples: int) -> Tensor:
    """With something else in the second sample, which is what stands in the third."""
    if tensor.ndim == 0 or len(tensor) != num_samples:
        return tensor
    tensor = tensor.clone()
    tensor[1] = tensor[2]
    return tensor


def check_state(subject: Subject) -> None:
    """It survives deepcopy, pickle and a conversion to float64, and its saved state holds parameters alone."""
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type)
        expected, _ = _run(module, batch)
        for what, other in (("deepcopy", copy.deepcopy(module)), ("pickle", _pickled(module))):
            torch.testing.assert_close(_run(other, batch)[0], expected, msg=f"{feature_type}: {what} differs")
        value, _ = _run(copy.deepcopy(module).double(), cast(batch, torch.float64))
        torch.testing.assert_close(
            value.float(), expected, rtol=1e-4, atol=1e-5, msg=f"{feature_type}: float64 differs"
        )
        extra = set(module.state_dict()) - {name for name, _ in module.named_parameters()}
        assert not extra, f"{feature_type}: the saved state holds {sorted(extra)}, which the config says already"


def check_compiles(subject: Subject, backend: str = "aot_eager") -> None:
    """`torch.compile(fullgraph=True)` gives the same value and gradient."""
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type)
        torch._dynamo.reset()
        compiled = torch.compile(module, fullgraph=True, backend=backend)
        value, gradients = _run(compiled, batch)
        expected, expected_gradients = _run(module, batch)
        torch.testing.assert_close(value, expected, msg=f"{feature_type}: the compiled value differs")
        for gradient, other in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient, other, msg=f"{feature_type}: the compiled gradient differs")


def check_exports(subject: Subject) -> None:
    """`torch.export` gives a program with the same value."""
    for feature_type, batch in subject.cases():
        module = subject.build(feature_type)
        exported = torch.export.export(module, (*batch.inputs, *batch.targets)).module()
        value, expected = (
            total_of(exported(*batch.inputs, *batch.targets)),
            total_of(module(*batch.inputs, *batch.targets)),
        )
        torch.testing.assert_close(value, expected, msg=f"{feature_type}: the exported value differs")


def check_docstring(subject: Subject) -> None:
    """The docstring says in its first sentence what the loss does."""
    assert subject.entry.summary, "there is no docstring that says what the loss does"


CHECKS: dict[str, Callable[[Subject], None]] = {
    name.removeprefix("check_"): check
    for name, check in dict(globals()).items()
    if name.startswith("check_") and name != "check_loss"
}


# Running


def total_of(result: Any) -> Tensor:
    """What a loss returned, as one value."""
    total: Tensor = torch.stack(list(result.values())).sum() if isinstance(result, Mapping) else result
    return total


def _run(module: Any, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """The value, and its gradient with respect to each input."""
    batch = leaves(batch)
    value = total_of(module(*batch.inputs, *batch.targets))
    inputs = [x for x in batch.inputs if x.requires_grad]
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    return value.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)]


def _extreme(x: Tensor, scale: float) -> Tensor:
    return scale * torch.sign(x + 1e-3)


def _floats(batch: Batch, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    return tuple(change(x) if x.is_floating_point() else x for x in batch.inputs)


def _assert_finite(what: str, value: Tensor, gradients: list[Tensor]) -> None:
    assert torch.isfinite(value), f"{what}: the value is {value.item()}"
    assert all(torch.isfinite(g).all() for g in gradients), f"{what}: the gradient is not finite"


def alternatives(schema: Mapping[str, Any]) -> list[Any]:
    """Values of a setting other than its default: its examples, its other options, or numbers within its limits."""
    default = schema.get("default")
    found = list(schema.get("examples", ()))
    for option in [schema, *schema.get("anyOf", ())]:
        found += option.get("enum", ())
        kinds = [option["type"]] if isinstance(option.get("type"), str) else option.get("type", ())
        if "boolean" in kinds:
            found += [True, False]
        start = default if isinstance(default, (int, float)) else 0
        if "number" in kinds:
            found += [v for v in (start / 2, start + 0.5, start * 2 + 1, start - 0.5) if compiled(option)(v)]
        elif "integer" in kinds:
            found += [v for v in (start + 1, start - 1, 1, 2) if compiled(option)(v)]
    return [value for value in found if value != default]


def _acts(subject: Subject, name: str, value: Any, base: dict[str, Any]) -> bool:
    for feature_type, batch in subject.cases():
        one_class = Batch(batch.inputs, tuple(torch.zeros_like(t) for t in batch.targets))
        for case in (batch, one_class):
            try:
                results = [_run(subject.build(feature_type, **s), case) for s in (base, {**base, name: value})]
            except (TypeError, ValueError, RuntimeError):
                continue
            (before, gradients), (after, other_gradients) = results
            if not torch.equal(before, after) or any(
                not torch.equal(g, h) for g, h in zip(gradients, other_gradients, strict=True)
            ):
                return True
    return False


def _pickled(module: nn.Module) -> nn.Module:
    restored: nn.Module = pickle.load(io.BytesIO(pickle.dumps(module)))
    return restored


def _is_plain(error: Exception) -> bool:
    return type(error) is AssertionError
