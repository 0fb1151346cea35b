"""`validate --smoke`: what validates runs forward and backward; what does not is told where the config names it."""

import io
import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from losskit import register_loss
from losskit.building import require_torch
from losskit.cli import main
from losskit.config import Document, read
from losskit.constants import FEATURE_TYPES
from losskit.diagnostics import has_errors
from losskit.modules import LogitsInputsMixin, MultiTaskLoss, from_mmf
from losskit.modules.contract import alternatives
from losskit.registry import registry
from losskit.smoke import smoke_test
from losskit.validation import Validation

ROOT = Path(__file__).parent.parent
CONFIGS = [*(ROOT / "tests" / "configs" / "valid").iterdir(), *(ROOT / "examples").glob("*.yaml")]
NAMES = registry.names()


def tried(text):
    """What the smoke test says of a config that is right otherwise."""
    validation = Validation(read(text.encode(), "c.yaml"))
    assert not has_errors(validation.diagnostics), validation.diagnostics
    return smoke_test(validation)


def tried_loss(loss, feature_type="number", **feature):
    """What it says of a single loss."""
    config = {"output_features": [{"name": "f", "type": feature_type, "loss": loss, **feature}]}
    return tried(json.dumps(config))


def the_message(loss, feature_type="number", **feature):
    (problem,) = tried_loss(loss, feature_type, **feature)
    assert problem.code == "LK501"
    assert problem.severity == "error"
    return problem.message


# What is built in


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_valid_config_runs(path):
    assert smoke_test(Validation(read(path.read_bytes(), path.name))) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_runs_with_each_of_its_settings_and_any_number_of_classes(name):
    entry = registry.get(name)
    needed = dict(entry.config.load().example_settings)
    losses = [{}, needed]
    for setting, schema in entry.schema["properties"].items():
        if setting not in ("type", "name", "inputs", "weight"):
            losses += [{**needed, setting: value} for value in alternatives(schema)]
    # One setting has no effect without the other.
    if "class_similarities" in entry.schema["properties"]:
        similarities = {"class_similarities": [[1.0, 0.5], [0.5, 1.0]], "class_similarities_temperature": 0.5}
        losses.append({**needed, **similarities})
    features = [
        {"name": "f", "type": feature_type, "loss": {"type": name, **loss}, **({"num_classes": n} if n else {})}
        for feature_type in entry.feature_types
        for loss in losses
        for n in (None, 2, 5, 10)
        if n is None or "num_classes" not in loss or loss["num_classes"] == n
    ]
    checked = 0
    for feature in features:
        validation = Validation(Document({"output_features": [feature]}))
        # Such as three weights for five classes, or no size for a layer.
        if not has_errors(validation.diagnostics):
            # A single class, as in `num_classes: 1`, is no choice to learn.
            problems = [] if feature["loss"].get("num_classes") == 1 else smoke_test(validation)
            assert problems == [], feature
            checked += 1
    assert checked >= len(entry.feature_types)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_runs_in_a_list_without_features(name):
    loss = {"type": name, **registry.get(name).config.load().example_settings}
    assert tried(json.dumps({"losses": [loss, {"type": "mse"}]})) == []


@pytest.mark.parametrize("name", [name for name in NAMES if registry.get(name).optional_inputs])
def test_optional_inputs_that_the_config_names_are_there(name):
    entry = registry.get(name)
    for role in entry.optional_inputs:
        if (name, role) == ("linear_cross_entropy", "bias"):
            continue  # belongs to a weight
        loss = {"type": name, "inputs": {role: f"other.{role}"}}
        for feature_type in entry.feature_types:
            assert tried_loss(loss, feature_type) == [], (feature_type, role)


@pytest.mark.parametrize("name", [name for name in NAMES if registry.get(name).optional_targets])
def test_optional_targets_that_the_config_names_are_there(name):
    entry = registry.get(name)
    for role in entry.optional_targets:
        for feature_type in entry.feature_types:
            assert tried_loss({"type": name, "inputs": {role: "elsewhere"}}, feature_type) == [], (feature_type, role)


@pytest.mark.parametrize(
    "feature",
    [
        {"type": "image", "loss": {"type": "dice", "classes": [0, 7]}},
        {"type": "text", "loss": {"type": "ctc", "blank": 6}},
        {"type": "text", "loss": {"type": "ctc", "blank": 1}, "num_classes": 2},
        {"type": "text", "loss": {"type": "ctc", "zero_infinity": False}},
        {"type": "category", "loss": {"type": "focal", "alpha": [0.1] * 7}},
        {"type": "set", "loss": {"type": "bce_with_logits", "pos_weight": [1, 2, 3, 4]}},
        # Most labels of a small batch would weigh nothing.
        {"type": "category", "loss": {"type": "softmax_cross_entropy", "class_weights": [0] * 29 + [1]}},
        {"type": "text", "loss": {"type": "softmax_cross_entropy", "class_weights": [0] * 299 + [1]}},
        {"type": "vector", "loss": {"type": "softmax_cross_entropy", "class_weights": [1.0, 2.0]}},
        {"type": "category", "classes": ["a", "b"], "loss": {"type": "focal", "alpha": {"a": 0.1, "b": 1}}},
        {"type": "category", "loss": {"type": "softmax_cross_entropy", "ignore_index": 0}, "num_classes": 2},
        {"type": "sequence", "loss": {"type": "sequence_softmax_cross_entropy"}, "num_classes": 3},
        {"type": "category", "loss": {"type": "linear_cross_entropy", "in_features": 64}, "num_classes": 9},
        {"type": "vector", "loss": {"type": "triplet_margin", "margin": 1e-6}},
        {"type": "vector", "loss": {"type": "cosine_embedding", "margin": 0.9}},
    ],
    ids=lambda feature: json.dumps(feature["loss"]),
)
def test_tensors_fit_the_settings(feature):
    assert tried(json.dumps({"output_features": [{"name": "f", **feature}]})) == []


def test_a_layer_of_a_language_model_is_tried_with_fewer_inputs():
    # At its full size, weight and gradient would take 4 GB.
    loss = {"type": "linear_cross_entropy", "in_features": 4096, "num_classes": 128_256}
    start = time.perf_counter()
    assert tried_loss(loss, "text") == []
    assert tried_loss("softmax_cross_entropy", "category", num_classes=10**12) == []
    assert tried_loss("corn", "category", num_classes=10**12) == []
    assert time.perf_counter() - start < 20


def test_an_adaptive_softmax_keeps_the_width_that_its_clusters_need():
    sizes = {"in_features": 256, "num_classes": 30_000, "cutoffs": [2000, 10_000], "div_value": 16}
    assert tried_loss({"type": "adaptive_log_softmax", **sizes}, "text") == []


def test_one_class_is_no_choice_to_learn():
    message = the_message("sequence_softmax_cross_entropy", "sequence", num_classes=1)
    assert message == "`sequence_softmax_cross_entropy` has a gradient of 0 everywhere, so nothing is learned"


# The sum of all losses


def test_inputs_lead_to_other_features_that_need_not_be_in_the_config(monkeypatch):
    given = set()
    forward = MultiTaskLoss.forward

    def spy(self, predictions, targets=None):
        given.update((feature, key) for feature, keys in predictions.items() for key in keys)
        return forward(self, predictions, targets)

    monkeypatch.setattr(MultiTaskLoss, "forward", spy)
    text = """
output_features:
  - name: a.b
    type: vector
    loss:
      - {type: triplet_margin, inputs: {anchor: query, positive: caption.embedding, negative: c.d.key}}
      - {type: triplet_margin, inputs: {anchor: c.d.key, positive: a.b.query, negative: caption.other}}
  - {name: c.d, type: vector, loss: {type: cos_emb, inputs: {logits: key}}}
"""
    assert tried(text) == []
    assert given == {("a.b", "query"), ("caption", "embedding"), ("caption", "other"), ("c.d", "key")}


def test_losses_of_one_feature_that_need_different_tensors_are_added_up_apart():
    # Class ids and maps of numbers; a mask without a class axis.
    assert tried_loss(["dice", "mse", "lovasz_hinge", "bce"], "image") == []


def test_losses_of_weight_0_are_tried_unweighted(losses):
    @register_loss("cut_off", ["number"])
    def cut_off(predictions, targets):
        return (predictions.detach() - targets).abs().mean()

    assert tried_loss({"type": "huber", "weight": 0}) == []
    assert "no gradient" in the_message({"type": "cut_off", "weight": 0})


def test_a_weight_that_float32_cannot_hold_is_told_at_the_weight():
    text = "output_features:\n  - name: f\n    type: number\n    loss: [mse, {type: huber, weight: 1.0e+39}]\n"
    (problem,) = tried(text)
    assert problem.message == "the weight of `huber`, 1e+39, makes its value infinite"
    assert problem.path == "output_features[0].loss[1].weight"
    assert (problem.line, problem.column) == (4, 39)


@pytest.mark.parametrize("ends", ["from: 1.0e+39, to: 0", "to: 1.0e+39"])
def test_a_weight_that_changes_is_tried_where_it_is_largest(ends):
    schedule = f"{{schedule: linear, steps: 10, {ends}}}"
    (problem,) = tried(f"losses: [mse, {{type: huber, weight: {schedule}}}]")
    assert problem.message == "the weight of `huber`, 1e+39, makes its value infinite"
    assert problem.path == "losses[1].weight"


def test_a_weight_that_begins_at_0_is_right():
    assert tried_loss({"type": "huber", "weight": {"schedule": "cyclical", "steps": 10}}) == []


def test_any_valid_losses_make_a_sum():
    # The losses of a feature share its keys, and want different things of them.
    random_numbers = random.Random(0)
    for _ in range(60):
        features = []
        for index in range(random_numbers.randint(1, 3)):
            feature_type = random_numbers.choice(FEATURE_TYPES)
            names = random_numbers.choices(registry.names(feature_type), k=random_numbers.randint(1, 4))
            found = [{"type": name, **registry.get(name).config.load().example_settings} for name in names]
            features.append({"name": f"f{index}", "type": feature_type, "loss": found, "num_classes": 3})
        assert tried(json.dumps({"output_features": features})) == [], features


# Losses of plugins


def function_loss(body, name="mine", feature_types=("number",)):
    """Registers a loss of a function with two parameters."""

    def mine(predictions, targets):
        """A loss under test."""
        return body(predictions, targets)

    register_loss(name, list(feature_types))(mine)


def mean_error(predictions, targets):
    return (predictions - targets).abs().mean()


class Weird(Exception):
    """An error that cannot say what it is about."""

    def __str__(self):
        raise ValueError("no text")


def fail(error):
    raise error


def window(x):
    return x.unfold(-1, 33, 1).mean(-1)


class BadBackward(torch.autograd.Function):
    """A gradient that raises."""

    @staticmethod
    def forward(ctx, x):
        return x.sum()

    @staticmethod
    def backward(ctx, gradient):
        raise ZeroDivisionError("no way back")


BREACHES = {
    "an error": (lambda p, t: fail(RuntimeError("first\nsecond")), "fails: RuntimeError: first"),
    "an error without text": (lambda p, t: fail(KeyError()), "fails: KeyError"),
    "an error that fails": (lambda p, t: fail(Weird()), "fails: Weird"),
    "an error that colours": (lambda p, t: fail(ValueError("\x1b[31mred")), r"fails: ValueError: \x1b[31mred"),
    "an exit": (lambda p, t: sys.exit(0), "fails: SystemExit: 0"),
    "NaN": (lambda p, t: (p - t).log().mean(), "is nan"),
    "infinity": (lambda p, t: (p - t).square().sum() / 0, "is inf"),
    "a float": (lambda p, t: mean_error(p, t).item(), "returns float, not a scalar tensor"),
    "nothing": (lambda p, t: None, "returns NoneType, not a scalar tensor"),
    "no reduction": (lambda p, t: (p - t).abs(), "returns a tensor of shape (6,), not a scalar tensor"),
    "broadcasting": (
        lambda p, t: (p.unsqueeze(1) - t).abs(),
        "returns a tensor of shape (6, 6), not a scalar tensor",
    ),
    "a mapping with nothing": (lambda p, t: {}, "returns an empty mapping, not a scalar tensor"),
    "a mapping with a float": (
        lambda p, t: {"a": mean_error(p, t), "b": 1.0},
        "returns float, not a scalar tensor",
    ),
    "a mapping with nothing in it": (lambda p, t: {"a": None}, "returns NoneType, not a scalar tensor"),
    "detached": (lambda p, t: mean_error(p.detach(), t), "has no gradient: its value is cut off from the inputs"),
    "of the targets alone": (
        lambda p, t: (t * nn.Parameter(torch.ones(()))).mean(),
        "has no gradient: its value does not depend on the inputs",
    ),
    "times 0": (lambda p, t: mean_error(p, t) * 0, "has a gradient of 0 everywhere, so nothing is learned"),
    "a gradient that is NaN": (
        lambda p, t: (p - p.detach()).abs().sqrt().sum() * 0 + mean_error(p, t),
        "has a gradient that is not finite",
    ),
    "a backward pass that fails": (
        lambda p, t: BadBackward.apply(p),
        "fails in the backward pass: ZeroDivisionError: no way back",
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_loss_that_does_not_train_is_told(losses, breach):
    body, message = BREACHES[breach]
    function_loss(body)
    assert the_message("mine") == f"`mine` {message}"


def test_the_place_is_that_of_the_type_and_the_help_says_what_was_tried(losses):
    function_loss(lambda p, t: mean_error(p, t) * 0)
    text = "output_features:\n  - name: f\n    type: number\n    loss:\n    - huber\n    - {weight: 2, type: mine}\n"
    (problem,) = tried(text)
    assert (problem.line, problem.column, problem.file) == (6, 25, "c.yaml")
    assert problem.path == "output_features[0].loss[1].type"
    assert problem.help == (
        "it was called with float32 (6,), float32 (6,); if it needs other tensors, give its class a static method "
        "`example_batch`"
    )


def test_each_loss_is_told_once_and_in_order(losses):
    function_loss(lambda p, t: None)
    text = """
shared: &shared {type: mine}
output_features:
  - {name: a, type: number, loss: [*shared, huber]}
  - {name: b, type: number, loss: *shared}
  - {name: c, type: number, loss: mine}
"""
    # The alias is one place in the file; the checker tells its problems where it stands first.
    assert [problem.path for problem in tried(text)] == [
        "output_features[0].loss[0].type",
        "output_features[2].loss",
    ]


def test_a_constructor_that_fails_is_told(losses):
    @register_loss("mine", ["number"])
    class Mine(nn.Module):
        def __init__(self, scale: float = 1.0):
            super().__init__()
            if scale > 2:
                raise ValueError("too much")

        def forward(self, predictions, targets):
            return mean_error(predictions, targets)

    assert tried_loss("mine") == []
    assert the_message({"type": "mine", "scale": 3}) == "`mine` cannot be built: ValueError: too much"


def test_a_config_class_that_fails_is_told(losses):
    from losskit.schema import BaseLossConfig, dataclass

    @dataclass
    class MineConfig(BaseLossConfig):
        def __post_init__(self):
            super().__post_init__()
            if self.weight == 3:
                raise ValueError("not three")

    @register_loss("mine", ["number"], schema=MineConfig)
    class Mine(nn.Module):
        def forward(self, predictions, targets):
            return mean_error(predictions, targets)

    assert the_message({"type": "mine", "weight": 3}) == "the loss cannot be built: ValueError: not three"


@pytest.mark.parametrize(
    ("feature_type", "body"),
    [
        # Labels as floats, one-hot labels, masks without a class axis, class ids of vectors, positive numbers
        ("binary", lambda p, t: nn.functional.binary_cross_entropy(p.sigmoid(), t)),
        ("category", lambda p, t: -(p.log_softmax(1) * t).sum(1).mean() if t.shape == p.shape else fail(ValueError())),
        ("image", lambda p, t: nn.functional.binary_cross_entropy_with_logits(p, t)),
        ("vector", lambda p, t: nn.functional.cross_entropy(p, t.long()) if t.dim() == 1 else fail(ValueError())),
        ("number", lambda p, t: (p - (t + 1e-3).log()).square().mean()),
        # Every error is below 1e3, so that only larger predictions leave the flat place.
        ("number", lambda p, t: ((p - t).abs() - 1e3).clamp_min(0).sum()),
        # Windows want larger images, series and sounds, and perhaps a single channel.
        ("image", lambda p, t: nn.functional.mse_loss(window(p[:, 0]), window(t[:, 0].float()))),
        ("image", lambda p, t: nn.functional.conv2d(p, torch.ones(1, 1, 3, 3)).square().mean()),
        ("timeseries", lambda p, t: (window(p) - window(t)).square().mean()),
        ("audio", lambda p, t: (torch.fft.rfft(p)[:, 1000] - torch.fft.rfft(t)[:, 1000]).abs().mean()),
        # A model's outputs are no leaves, so that they may be changed in place.
        ("number", lambda p, t: p.sub_(t).square().mean()),
        ("category", lambda p, t: nn.functional.cross_entropy(p, t.masked_fill_(t > 1, 0))),
        # All that counts is a rare class.
        ("category", lambda p, t: nn.functional.cross_entropy(p, t, reduction="none")[t == 2].sum()),
        ("number", lambda p, t: {"a": mean_error(p, t), "b": (p * 0).sum()}),
    ],
)
def test_losses_that_take_another_of_the_usual_forms_run(losses, feature_type, body):
    function_loss(body, feature_types=[feature_type])
    assert tried_loss("mine", feature_type) == []


def test_sizes_follow_from_what_a_loss_has(losses):
    class Centres(nn.Module):
        """Draws vectors to the centres of their classes."""

        def __init__(self, num_labels: int = 7, width: int = 11):
            super().__init__()
            self.centres = nn.Parameter(torch.randn(num_labels, width))

        def forward(self, logits, targets):
            return (logits - self.centres[targets]).square().mean()

    register_loss("centres", ["vector"])(Centres)
    assert tried_loss("centres", "vector") == []
    assert tried_loss({"type": "centres", "num_labels": 4, "width": 4}, "vector") == []


def test_a_loss_with_other_classes_than_its_feature_does_not_run(losses):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("class_weights", torch.ones(7))

        def forward(self, logits, targets):
            return nn.functional.cross_entropy(logits, targets, self.class_weights)

    register_loss("weighted", ["category"])(Weighted)
    assert tried_loss("weighted", "category") == [], "without a number of classes, that of its weights is meant"
    assert tried_loss("weighted", "category", num_classes=7) == []
    assert "weight tensor should be defined" in the_message("weighted", "category", num_classes=3)


class OwnBatch(nn.Module):
    """Takes triples of which no usual batch is one."""

    def forward(self, logits, targets):
        assert logits.shape[1:] == (2, 9)
        return (logits - targets).square().mean()


def test_a_class_may_make_its_own_batch(losses):
    class Mine(OwnBatch):
        @staticmethod
        def example_batch(feature_type, generator):
            return (torch.randn(4, 2, 9, generator=generator),), (torch.zeros(4, 2, 9),)

    register_loss("without", ["vector"])(OwnBatch)
    register_loss("mine", ["vector"])(Mine)
    assert tried_loss("mine", "vector") == []
    assert "AssertionError" in the_message("without", "vector")


def test_an_own_batch_may_follow_the_sizes(losses):
    class Mine(nn.Module):
        def __init__(self, num_classes: int = 3, in_features: int = 5):
            super().__init__()
            self.sizes = num_classes, in_features

        def forward(self, logits, targets):
            assert logits.shape[1:] == self.sizes
            return (logits * targets).sum()

        @staticmethod
        def example_batch(feature_type, generator, sizes):
            return (torch.randn(4, sizes.classes, sizes.dimensions, generator=generator),), (torch.ones(()),)

    register_loss("mine", ["vector"])(Mine)
    assert tried_loss("mine", "vector") == []
    assert tried_loss({"type": "mine", "num_classes": 8, "in_features": 2}, "vector") == []


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda *_: fail(OSError("no data")), "has an `example_batch` that fails: OSError: no data"),
        (lambda *_: sys.exit("bye"), "has an `example_batch` that fails: SystemExit: bye"),
        (
            lambda *_: (torch.ones(2), torch.ones(2)),
            "has an `example_batch` that fails: TypeError: `example_batch` must return a tuple of inputs and a tuple "
            "of targets",
        ),
    ],
)
def test_an_own_batch_that_fails_is_told(losses, batch, message):
    class Mine(OwnBatch):
        example_batch = staticmethod(batch)

    register_loss("mine", ["vector"])(Mine)
    assert the_message("mine", "vector") == f"`mine` {message}"


def test_losses_written_for_mmf_run(losses):
    class Mine(nn.Module):
        def forward(self, sample_list, model_output):
            return (model_output["scores"] - sample_list.targets).abs().mean().reshape(1)

    class Several(nn.Module):
        """Looks for what only its own batch has."""

        def forward(self, sample_list, model_output):
            return (model_output["attentions"] - sample_list["boxes"]).abs().mean()

        @staticmethod
        def example_batch(feature_type, generator):
            return ({"attentions": torch.rand(3, generator=generator)},), ({"boxes": torch.ones(3)},)

    register_loss("mine")(from_mmf(Mine))
    register_loss("several")(from_mmf(Several))
    assert tried("losses: [mine, several, {type: mse, weight: 0.5}]") == []
    assert tried_loss(["mine", "several", "huber"], "number") == []


def test_optional_inputs_of_unknown_form_are_guessed_or_left_out(losses):
    class Masked(nn.Module):
        @classmethod
        def get_optional_loss_targets(cls):
            return "mask", "riddle"

        def forward(self, predictions, targets, *, mask=None, riddle=None):
            assert riddle is None or riddle == "the sphinx"
            errors = (predictions - targets).abs()
            return errors.mean() if mask is None else errors[mask].mean()

    register_loss("masked", ["number", "vector"])(Masked)
    assert tried_loss({"type": "masked", "inputs": {"mask": "valid"}}, "vector") == []
    assert tried_loss({"type": "masked", "inputs": {"mask": "valid", "riddle": "r"}}, "number") == []


@pytest.mark.parametrize("role", ["mask", "lengths", "input_lengths", "target_lengths", "weight", "bias", "anything"])
def test_optional_inputs_are_made_up_beside_any_batch(losses, role):
    code = f"""
class Mine(torch.nn.Module, LogitsInputsMixin):
    @classmethod
    def get_loss_targets(cls):
        return ()

    @classmethod
    def get_optional_loss_inputs(cls):
        return ("{role}",)

    def forward(self, logits, *, {role}=None):
        assert {role} is not None
        return logits.square()

    @staticmethod
    def example_batch(feature_type, generator):
        return (torch.randn((), generator=generator),), ()
"""
    # The role is the name of a parameter; a single number has no axis to follow.
    namespace = {"torch": torch, "LogitsInputsMixin": LogitsInputsMixin, "__name__": __name__}
    exec(code, namespace)
    Mine = namespace["Mine"]
    register_loss("mine", ["number"])(Mine)
    assert tried_loss({"type": "mine", "inputs": {role: "there"}}) == []
    assert tried_loss("mine") == []


def test_a_loss_of_several_targets_runs(losses):
    class Two(nn.Module, LogitsInputsMixin):
        @classmethod
        def get_loss_targets(cls):
            return "targets", "weights"

        def forward(self, logits, targets, weights):
            return ((logits - targets) * weights).square().mean()

    register_loss("two", ["number"])(Two)
    assert tried_loss({"type": "two", "inputs": {"weights": "w"}}) == []


def test_a_loss_that_remembers_may_fail_in_the_sum(losses):
    """Here the second module is another than the first."""
    built = []

    class Mine(nn.Module):
        """Is right once."""

        def __init__(self):
            super().__init__()
            built.append(self)
            self.scale = math.nan if len(built) > 1 else 1.0

        def forward(self, predictions, targets):
            return self.scale * mean_error(predictions, targets)

    register_loss("mine", ["number"])(Mine)
    assert the_message("mine") == "`mine` is nan as a part of the sum"


def test_a_loss_that_spoils_what_another_keeps_for_its_gradient_is_told(losses):
    function_loss(lambda p, t: p.sub_(t).abs().mean())
    assert tried_loss("mine") == []
    message = the_message(["mse", "mine", "huber"])
    assert message.startswith("`mine` fails as a part of the sum: RuntimeError: one of the variables needed for")
    assert "inplace" in message


def test_losses_that_one_batch_can_please_are_right_whoever_comes_first(losses):
    # Both take labels in integers; what is made up for one is too much for the other.
    class Wide(nn.Module, LogitsInputsMixin):
        """Takes any labels, and makes up large ones."""

        def forward(self, logits, targets):
            return mean_error(logits, targets)

        @staticmethod
        def example_batch(feature_type, generator):
            return (torch.randn(6, generator=generator),), (torch.full((6,), 7),)

    def strict(predictions, targets):
        return mean_error(predictions, targets) if targets.max() < 2 else fail(ValueError("labels"))

    register_loss("wide", ["binary"])(Wide)
    function_loss(strict, "strict", ["binary"])
    for both in (["wide", "strict"], ["strict", "wide"]):
        assert tried_loss(both, "binary") == []


def test_the_error_that_is_told_is_that_of_the_batch_with_which_the_loss_comes_furthest(losses):
    def choosy(predictions, targets):
        return (predictions - targets).log().mean() if targets.is_floating_point() else fail(TypeError("no ids"))

    function_loss(choosy, feature_types=["image"])
    (problem,) = tried_loss("mine", "image")
    assert problem.message == "`mine` is nan"
    assert problem.help.startswith("it was called with float32 (6, 3, 4, 4), float32 (6, 3, 4, 4)")


def test_a_loss_that_changes_its_inputs_changes_no_other_batch(losses):
    seen = []

    def greedy(predictions, targets):
        seen.append(targets.clone())
        targets.zero_()
        return mean_error(predictions, targets)

    function_loss(greedy)
    assert tried_loss(["mine", "huber"]) == []
    assert torch.equal(*seen)


# What a loss may not do to others


def test_nothing_is_printed_to_stdout_and_no_warning_shown(losses, capsys, recwarn):
    import warnings

    def talk(predictions, targets):
        print("looking")
        warnings.warn("deprecated", stacklevel=1)
        return mean_error(predictions, targets)

    function_loss(talk)
    assert tried_loss("mine") == []
    out, err = capsys.readouterr()
    assert out == ""
    assert "looking" in err
    assert len(recwarn) == 0


def test_nothing_global_is_touched(losses):
    def random_loss(predictions, targets):
        torch.manual_seed(3)
        return mean_error(predictions, targets) + torch.rand(())

    function_loss(random_loss)
    torch.manual_seed(17)
    expected = torch.rand(3)
    torch.manual_seed(17)
    threads = torch.get_num_threads()
    with torch.no_grad():
        assert tried_loss(["mine", {"type": "huber", "delta": 0.37}]) == []
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_a_default_device_and_dtype_do_not_matter():
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        assert tried_loss({"type": "huber", "delta": 0.38}) == []
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


def test_a_loss_with_random_numbers_has_the_same_fate_every_time(losses):
    def lucky(predictions, targets):
        seen.append(torch.rand(()).item())
        return mean_error(predictions, targets)

    seen = []
    for name in ("one", "two"):
        function_loss(lucky, name=name)
        assert tried_loss(name) == []
    assert seen[0] == seen[len(seen) // 2]


def test_losses_are_tried_once_for_any_number_of_configs(losses):
    calls = []

    def counted(predictions, targets):
        calls.append(1)
        return mean_error(predictions, targets)

    function_loss(counted)
    for _ in range(200):
        assert tried_loss(["mine", "huber"]) == []
    assert len(calls) == 2, "once alone, and once in the sum"
    # Other settings, features and registrations are other losses.
    assert tried_loss("mine", num_classes=2) == []
    assert len(calls) == 4


def test_a_class_that_was_registered_again_is_tried_again(losses):
    function_loss(mean_error)
    assert tried_loss("mine") == []
    function_loss(lambda p, t: None)
    assert tried_loss("mine") != []


def test_wrong_configs_are_not_tried(losses):
    function_loss(lambda p, t: None)
    text = "output_features: [{name: f, type: number, loss: mine}, {name: g, type: number, loss: hubr}]"
    assert smoke_test(Validation(read(text.encode(), "c.yaml"))) == []


def test_five_losses_take_little_time():
    # Once torch has been imported: 0.15 s of a processor on a slow machine; each loss anew would take as much again.
    code = """
import time, torch
from losskit.validation import Validation
from losskit.config import read
from losskit.smoke import smoke_test
text = '''
output_features:
  - {name: a, type: number, loss: [huber, mse]}
  - {name: b, type: category, loss: softmax_cross_entropy}
  - {name: c, type: image, loss: [dice, focal]}
'''
start = time.process_time()
assert smoke_test(Validation(read(text.encode(), "c.yaml"))) == []
print(time.process_time() - start)
"""
    assert float(subprocess.check_output([sys.executable, "-c", code])) < 0.5


# The command


def test_the_command_tells_it_and_fails(losses, tmp_path, monkeypatch, capsys):
    function_loss(lambda p, t: p.log().mean())
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("output_features:\n  - {name: f, type: number, loss: mine}\n")
    assert main(["validate", "c.yaml"]) == 0
    capsys.readouterr()
    assert main(["validate", "--smoke", "--output-format", "concise", "c.yaml"]) == 1
    assert capsys.readouterr().out.startswith("c.yaml:2:35: error[LK501] `mine` is nan")


def test_a_comment_silences_it(losses, tmp_path, monkeypatch, capsys):
    function_loss(lambda p, t: p.log().mean())
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("output_features:\n  - {name: f, type: number, loss: mine}  # losskit: ignore[LK501]\n")
    assert main(["validate", "--smoke", "c.yaml"]) == 0


def test_a_print_does_not_spoil_a_report_for_machines(losses, tmp_path, monkeypatch, capsys):
    def talk(predictions, targets):
        print("looking")

    function_loss(talk)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"losses: [mine]")))
    assert main(["validate", "--smoke", "--output-format", "json", "-"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["diagnostics"]
    assert problem["code"] == "LK501"


def test_without_torch_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("output_features:\n  - {name: f, type: number, loss: huber}\n")
    with pytest.raises(ImportError, match="losskit\\[torch\\]"):
        require_torch("a smoke test")
    assert main(["validate", "--smoke", "c.yaml"]) == 2
    assert capsys.readouterr().err == (
        'losskit: a smoke test needs torch, which is not installed: pip install "losskit[torch]"\n'
    )
    assert main(["validate", "c.yaml"]) == 0
