"""Weights that change: their values, what a config may say about them, and that nothing is said twice or lost."""

import json
import math

import marshmallow
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import losskit
from losskit import first_pass, register_loss
from losskit.config import read
from losskit.fixing import fix
from losskit.registry import registry
from losskit.schema import BaseLossConfig, dataclass
from losskit.schema import fields as schema_utils
from losskit.schema.describe import describe
from losskit.schema.quick import compiled
from losskit.schema.schedules import ATTRIBUTES, KINDS, Schedule, schedule_of
from losskit.settings import validator
from losskit.validation import Validation

# Values


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # One step before, at and after each place where something begins or ends.
        (Schedule("linear", steps=4), [0, 0.25, 0.5, 0.75, 1, 1, 1]),
        (Schedule("linear", steps=4, warmup=2), [0, 0, 0, 0.25, 0.5, 0.75, 1]),
        (Schedule("linear", 1.0, 0.5, steps=2), [1, 0.75, 0.5, 0.5]),
        (Schedule("cosine", steps=4), [(1 - math.cos(math.pi * t / 4)) / 2 for t in range(5)] + [1]),
        (Schedule("cosine", 2.0, 1.0, steps=2, warmup=1), [2, 2, 1.5, 1, 1]),
        (Schedule("step", steps=3), [0, 0, 0, 1, 1]),
        (Schedule("step", 0.2, 0.7, steps=1, warmup=2), [0.2, 0.2, 0.2, 0.7]),
        (Schedule("cyclical", steps=4), [0, 0.5, 1, 1, 0, 0.5, 1, 1, 0]),
        (Schedule("cyclical", steps=4, ratio=1.0), [0, 0.25, 0.5, 0.75, 0, 0.25]),
        (Schedule("cyclical", 0.5, 1.0, steps=4, warmup=2, ratio=0.25), [0.5, 0.5, 0.5, 1, 1, 1, 0.5, 1]),
        # Shorter than the first step of a rise: there is the start, and then the end.
        (Schedule("cyclical", steps=2, ratio=0.1), [0, 1, 0, 1]),
        (Schedule("linear", steps=1), [0, 1, 1]),
    ],
    ids=str,
)
def test_the_values_are_those_of_the_closed_form(schedule, expected):
    assert [schedule.at(step) for step in range(len(expected))] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("ratio", [0.5, 0.25, 0.8, 1.0])
@pytest.mark.parametrize("cycles", [1, 4, 10])
def test_cyclical_is_the_schedule_of_the_paper(cycles, ratio):
    """Fu et al. 2019, equations 6 and 7, with its linear f; t counts from 1 there."""
    iterations = 400

    def beta(t):
        tau = ((t - 1) % math.ceil(iterations / cycles)) / (iterations / cycles)
        return tau / ratio if tau <= ratio else 1.0

    ours = Schedule("cyclical", steps=iterations // cycles, ratio=ratio)
    assert [ours.at(t - 1) for t in range(1, iterations + 1)] == pytest.approx(
        [beta(t) for t in range(1, iterations + 1)]
    )


weights = st.floats(0, 1e6)
schedules = st.builds(
    Schedule,
    st.sampled_from(KINDS),
    weights,
    weights,
    steps=st.integers(1, 50),
    warmup=st.integers(0, 20),
    ratio=st.floats(0.01, 1),
)


@given(schedules, st.integers(0, 10**9))
def test_a_weight_stays_between_its_ends(schedule, step):
    low, high = sorted((schedule.start, schedule.end))
    assert low * (1 - 1e-12) <= schedule.at(step) <= high * (1 + 1e-12)
    assert schedule.largest == high


@given(schedules, st.integers(0, 200))
def test_a_weight_is_at_its_start_during_the_warmup_and_later_exactly_at_its_end(schedule, step):
    assert {schedule.at(before) for before in range(schedule.warmup + 1)} == {schedule.start}
    if schedule.kind == "cyclical":
        assert schedule.at(schedule.warmup + step) == schedule.at(schedule.warmup + step + 7 * schedule.steps)
    else:
        assert schedule.at(schedule.warmup + schedule.steps + step) == schedule.end


def test_a_schedule_is_made_of_what_the_config_says():
    assert schedule_of(0.5) is None
    assert schedule_of({"schedule": "linear", "steps": 7}) == Schedule("linear", 0.0, 1.0, steps=7, warmup=0, ratio=0.5)
    every = {"schedule": "cyclical", "from": 0.2, "to": 0.4, "steps": 9, "warmup": 3, "ratio": 0.1}
    assert schedule_of(every) == Schedule("cyclical", 0.2, 0.4, steps=9, warmup=3, ratio=0.1)


def test_a_schedule_is_no_number_to_change_and_can_be_a_key():
    schedule = Schedule("step", steps=3)
    with pytest.raises(AttributeError):
        schedule.steps = 4
    assert {schedule: 1}[Schedule("step", steps=3)] == 1


# What may be written


def huber(weight):
    return {"output_features": [{"name": "a", "type": "number", "loss": {"type": "huber", "weight": weight}}]}


odd = [0, 1, 2, 0.5, -1, 1.5, 2.0, 2.5, 10**15, 10**400, 1e300, True, None, "", "x", "1", math.inf, math.nan, [], {}]
mappings = st.fixed_dictionaries(
    {},
    optional={
        "schedule": st.sampled_from([*KINDS, *KINDS, "linaer", 1, None]),
        "steps": st.sampled_from([1, 10, 100.0, 7]) | st.sampled_from(odd),
        "from": st.sampled_from([0, 0.5, 1.0]) | st.sampled_from(odd),
        "to": st.sampled_from([0, 0.5, 1.0]) | st.sampled_from(odd),
        "warmup": st.sampled_from([0, 5, 3.0]) | st.sampled_from(odd),
        "ratio": st.sampled_from([0.1, 0.5, 1]) | st.sampled_from(odd),
        "stpes": st.just(1),
    },
) | st.builds(
    lambda kind, steps, rest: {"schedule": kind, "steps": steps, **rest},
    st.sampled_from(KINDS),
    st.sampled_from([1, 10, 100.0]),
    st.dictionaries(
        st.sampled_from(["from", "to", "warmup", "ratio"]), st.sampled_from([0, 1, 0.5, 0.25, 3]), max_size=3
    ),
)


@settings(max_examples=500, deadline=None)
@given(mappings)
@example({"schedule": "linear", "steps": 10**400})
def test_all_readers_of_a_schedule_have_one_verdict(weight):
    """jsonschema, the quick check, marshmallow, `validate`; and the first look is never content with what is wrong."""
    entry = registry.get("huber")
    values = {"type": "huber", "weight": weight}
    accepted = validator(entry).is_valid(values)
    assert compiled(entry.schema)(values) == accepted
    try:
        loaded = entry.config.load().schema().load(values)
    except marshmallow.ValidationError:
        assert not accepted
    else:
        assert accepted
        assert loaded.weight == weight
        assert schedule_of(loaded.weight).at(0) == weight.get("from", 0.0)
    diagnostics = losskit.validate(huber(weight))
    of_rules = {d.code for d in diagnostics} & {"LK207", "LK303"}
    assert accepted == (not diagnostics or bool(of_rules)), diagnostics
    if not any(isinstance(value, float) and not math.isfinite(value) for value in weight.values()):
        text = json.dumps(huber(weight))
        assert not (first_pass.is_right(read(text)) and Validation(read(text)).diagnostics)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_look_is_sure_of_right_schedules(kind):
    ratio = ", ratio: 0.3" if kind == "cyclical" else ""
    for more in ("", ", to: 0.1", ", from: 1, to: 0, warmup: 5", ratio):
        text = f"losses: [{{type: huber, weight: {{schedule: {kind}, steps: 10{more}}}}}]"
        assert first_pass.is_right(read(text)), text


# The invalid configs beside this file say what is told of each mistake; here is what they cannot say.


@pytest.mark.parametrize(
    ("weight", "help"),
    [
        ("{schedule: linear}", "`steps` is an integer at least 1"),
        ("{steps: 3}", "`schedule` is linear, cosine, step or cyclical"),
        ("{schedule: linear, steps: 3, form: 1}", "keys of a schedule: schedule, steps, from, to, warmup, ratio"),
        ("{schedule: linear, steps: 0}", "`weight.steps` is an integer at least 1"),
        ("{schedule: cyclical, steps: 3, ratio: 2}", "`weight.ratio` is a number greater than 0 and at most 1"),
        ("{schedule: linear, steps: '10_000'}", "write 10000"),
        ("{schedule: step, steps: 3, ratio: 1}", "leave it out, or write `schedule: cyclical`"),
        ("{schedule: linear, steps: 3, from: 0.5, to: 0.5}", "write `weight: 0.5`"),
        ("{schedule: linear, steps: 3, to: 0}", "write `weight: 0`"),
        ("{schedule: cyclical, steps: 1}", "write how many steps a cycle has"),
        ("{}", "a schedule is {schedule: linear, steps: 10000}"),
        ("[1, 2]", "a schedule is {schedule: linear, steps: 10000}"),
        ("{cat: 1, dog: 2}", "a schedule is {schedule: linear, steps: 10000}"),
        ("'0.5'", "write 0.5 without quotes"),
        ("-1", "`weight` is a number at least 0 or a schedule"),
    ],
)
def test_help(weight, help):
    (problem,) = losskit.validate(text=f"losses: [{{type: huber, weight: {weight}}}]")
    assert problem.help == help


@pytest.mark.parametrize("weight", ["{cat: 1, dog: 2}", "[1, 2]"])
def test_weights_of_classes_are_told_from_schedules(weight):
    (problem,) = losskit.validate(text=f"losses: [{{type: cross_entropy, weight: {weight}}}]")
    assert (problem.code, problem.help) == ("LK202", "weights of classes are `class_weights`")
    (problem,) = losskit.validate(text=f"losses: [{{type: cross_entropy, params: {{weight: {weight}}}}}]")
    assert problem.message == "`weight` is no setting: weights of classes are `class_weights`"
    (problem,) = losskit.validate(text="losses: [{type: cross_entropy, params: {weight: {schedule: step, steps: 1}}}]")
    assert problem.message == "`weight` is no setting: put it beside `params`, not into it"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("{shedule: linear, stpes: 10}", "{schedule: linear, steps: 10}"),
        ("{schedule: linaer, steps: 10}", "{schedule: linear, steps: 10}"),
        ("{schedule: cylical, steps: '10', form: 1, too: 0.5}", "{schedule: cyclical, steps: 10, from: 1, too: 0.5}"),
        ("{schedule: step, steps: 1e4}", "{schedule: step, steps: 1.0e+4}"),
        # What would stand there twice, or is no slip, is left to the user.
        ("{schedule: step, steps: 1, stpes: 2}", "{schedule: step, steps: 1, stpes: 2}"),
        ("{schedule: step, total_steps: 1}", "{schedule: step, total_steps: 1}"),
    ],
)
def test_cures_are_made_where_one_is_a_slip_away(wrong, right):
    assert fix(f"losses:\n- type: huber\n  weight: {wrong}\n", "a.yaml").text == (
        f"losses:\n- type: huber\n  weight: {right}\n"
    )


def test_a_misspelt_weight_is_told_by_its_schedule():
    (problem,) = losskit.validate(text="losses: [{type: huber, wieght: {schedule: step, steps: 3}}]")
    assert (problem.suggestion, problem.edits[0].text) == ("weight", "weight")


@pytest.mark.parametrize("written", ["total_steps", "num_steps", "period", "duration"])
def test_a_key_by_another_system_s_name_is_one_mistake(written):
    (problem,) = losskit.validate(text=f"losses: [{{type: huber, weight: {{schedule: step, {written}: 3}}}}]")
    assert (problem.code, problem.suggestion) == ("LK201", "steps")


def test_the_schema_describes_what_the_schedule_has():
    _, record = registry.get("huber").schema["properties"]["weight"]["anyOf"]
    assert list(record["properties"]) == list(ATTRIBUTES) == ["schedule", "steps", "from", "to", "warmup", "ratio"]
    assert all(inner["description"].endswith(".") for inner in record["properties"].values())
    defaults = {ATTRIBUTES[key]: inner["default"] for key, inner in record["properties"].items() if "default" in inner}
    given = Schedule("linear", steps=1)
    assert defaults == {name: getattr(given, name) for name in defaults}
    assert (
        set(record["then"]["required"])
        == {"schedule", "steps"}
        == ATTRIBUTES.keys() - {"from", "to", "warmup", "ratio"}
    )
    assert describe(record) == "a schedule"


# In Python


@pytest.mark.usefixtures("losses")
@pytest.mark.parametrize("declared", ["as in Ludwig's guide", "by annotation alone", "from 1 on"])
def test_a_loss_that_declares_its_weight_takes_a_schedule_and_keeps_its_default(declared):
    @dataclass
    class LudwigLossConfig(BaseLossConfig):
        weight: float = schema_utils.NonNegativeFloat(default=0.25, description="Weight of the loss.")

    @dataclass
    class PlainLossConfig(BaseLossConfig):
        weight: float = 0.25

    @dataclass
    class HighLossConfig(BaseLossConfig):
        weight: float = schema_utils.FloatRange(default=1.25, min=1, description="Weight of the loss.")

    classes = {
        "as in Ludwig's guide": LudwigLossConfig,
        "by annotation alone": PlainLossConfig,
        "from 1 on": HighLossConfig,
    }

    @register_loss("mine", ["number"], schema=classes[declared])
    def mine(predictions, targets):
        return (predictions - targets).abs().mean()

    def loaded(**weight):
        feature = {"name": "a", "type": "number", "loss": {"type": "mine", **weight}}
        return losskit.load({"output_features": [feature]}).features[0].losses[0]

    assert loaded().weight == (1.25 if declared == "from 1 on" else 0.25)
    assert loaded(weight={"schedule": "linear", "steps": 10.0}).weight == {"schedule": "linear", "steps": 10}
    assert isinstance(loaded(weight={"schedule": "linear", "steps": 10.0}).weight["steps"], int)
    assert registry.get("mine").schema["properties"]["weight"]["default"] == loaded().weight
    # The limits of a number stay those that the class declares.
    if declared == "from 1 on":
        with pytest.raises(losskit.ConfigError, match="must be at least 1, got 0.5"):
            loaded(weight=0.5)
    with pytest.raises(losskit.ConfigError, match="has no key `stpes`"):
        loaded(weight={"schedule": "linear", "stpes": 10})


def test_create_loss_checks_a_schedule_and_drops_it():
    losskit.create_loss("huber", weight={"schedule": "linear", "steps": 3})
    config = registry.get("huber").config.load()(weight={"schedule": "step", "steps": 3})
    assert losskit.create_loss(config).delta == 1.0
    with pytest.raises(losskit.ConfigError, match="lacks `steps`"):
        losskit.create_loss("huber", weight={"schedule": "linear"})


def test_the_criterion_has_the_weights_of_the_config():
    import torch

    config = huber({"schedule": "cosine", "steps": 4, "from": 1, "to": 0.5})
    criterion = losskit.build(config)
    totals = []
    for _ in range(6):
        total, parts = criterion({"a": torch.tensor([3.0])}, {"a": torch.tensor([1.0])})
        totals.append(total.item() / parts["a/huber"].item())
        criterion.step()
    schedule = Schedule("cosine", 1.0, 0.5, steps=4)
    assert totals == pytest.approx([schedule.at(step) for step in range(6)])


def test_an_interpolated_schedule_is_read_from_a_dictconfig():
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"n": 8, **huber({"schedule": "step", "steps": "${n}"})})
    assert losskit.load(config).features[0].losses[0].weight == {"schedule": "step", "steps": 8}


# The names of losses in the results


# Names that are taken by those that a second loss of one type gets.
names = st.sampled_from([None, "huber", "mean_squared_error_2", "huber_2", "huber_2_2", "x"])
several = st.lists(st.tuples(st.sampled_from(["mse", "huber"]), names), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(several, st.booleans())
def test_the_keys_of_a_config_are_those_of_its_criterion(losses, is_bare):
    given = {name: {"type": kind, "name": name} if name else {"type": kind} for kind, name in losses}
    every = [*given.values(), *({"type": kind} for kind, name in losses if not name)]
    feature = {"name": "a", "type": "number", "loss": every}
    config = {"losses": every} if is_bare else {"output_features": [feature, {"name": "b", "type": "timeseries"}]}
    keys = losskit.load(config).keys
    assert keys == losskit.build(config).keys
    assert len(set(keys)) == len(keys)
