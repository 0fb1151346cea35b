"""What is wrong with a config is told: where, what and the cure, all at once."""

import re
from pathlib import Path

import pytest

import losskit
from losskit.diagnostics import INTERPOLATION_HELP
from losskit.validation import plain

CONFIGS = Path(__file__).parent / "configs"
EXPECTATION = re.compile(r"#\s*(error|warning)\[(LK\d+)\]:\s*(.*?)\s*(?=#\s*(?:error|warning)\[|$)")


def expectations(path):
    """What the comments of an invalid config say: severity, code, line and a part of the message."""
    return [
        (number, *match.groups())
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        for match in EXPECTATION.finditer(line)
    ]


@pytest.mark.parametrize("path", sorted((CONFIGS / "invalid").iterdir()), ids=lambda path: path.stem)
def test_each_mistake_is_told_on_its_line(path):
    found = losskit.validate(path)
    expected = expectations(path)
    wrong = [d for d in found if not any(_fits(d, e) for e in expected)]
    missing = [e for e in expected if not any(_fits(d, e) for d in found)]
    assert not wrong, "\n".join(map(str, wrong))
    assert not missing
    assert len(found) == len(expected)


def _fits(diagnostic, expectation):
    line, severity, code, text = expectation
    return (diagnostic.line, diagnostic.severity, diagnostic.code) == (line, severity, code) and text in diagnostic.text


@pytest.mark.parametrize("path", sorted((CONFIGS / "valid").iterdir()), ids=lambda path: path.name)
def test_a_right_config_has_no_problems(path):
    assert losskit.validate(path) == []
    assert losskit.load(path).features


def test_position_is_that_of_the_key_or_of_the_value():
    text = "output_features:\n  - name: p\n    type: number\n    loss: {type: huber, detla: 1, delta: -2}\n"
    unknown, negative = losskit.validate(text=text)
    assert (unknown.position, unknown.end) == ((4, 25), (4, 30))
    assert (negative.position, negative.end) == ((4, 42), (4, 44))
    assert unknown.path == "output_features[0].loss.detla"
    assert unknown.suggestion == "delta"
    assert "delta" in unknown.help


def test_columns_count_code_points():
    text = 'output_features: [{name: "größe 😀", type: number, loss: hubr}]'
    (problem,) = losskit.validate(text=text)
    assert problem.column == text.index("hubr") + 1


def test_diagnostics_come_in_the_order_of_the_file():
    found = losskit.validate(CONFIGS / "invalid" / "settings.yaml")
    assert [d.position for d in found] == sorted(d.position for d in found)
    assert str(found[0]).startswith(
        f"{CONFIGS / 'invalid' / 'settings.yaml'}:4:32: error[LK203] output_features[0].loss.delta: "
    )


def test_all_problems_are_in_one_error():
    with pytest.raises(losskit.ConfigError) as error:
        losskit.load(text="output_features: [{name: a, type: number, loss: {type: huber, delta: 0, x: 1}}]")
    assert [d.code for d in error.value.diagnostics] == ["LK203", "LK201"]
    assert "greater than 0" in str(error.value)
    assert "no setting `x`" in str(error.value)


def test_defaults_and_given_values_are_loaded():
    config = losskit.load(CONFIGS / "valid" / "design.yaml")
    price, species, mask, _, demand = config.features
    assert (price.name, price.losses[0].type, price.losses[0].delta, price.losses[0].weight) == (
        "price",
        "huber",
        1.0,
        1.0,
    )
    assert species.losses[0].class_weights == [1.0, 2.0, 3.0]
    assert [(loss.type, loss.weight, loss.name) for loss in mask.losses] == [("dice", 1.0, None), ("focal", 0.3, "fl")]
    assert [loss.type for loss in demand.losses] == ["huber"], "the default of timeseries"


def test_aliases_load_under_the_registered_name():
    config = losskit.load({"losses": ["mse", {"type": "cross_entropy", "params": {"ignore_index": 1}}]})
    (feature,) = config.features
    assert (feature.name, feature.type) == (None, None)
    assert [loss.type for loss in feature.losses] == ["mean_squared_error", "softmax_cross_entropy"]
    assert feature.losses[1].ignore_index == 1


def test_integers_may_be_written_as_fractions_of_zero():
    config = losskit.load({"losses": [{"type": "bi_tempered_logistic", "num_iters": 7.0}]})
    value = config.features[0].losses[0].num_iters
    assert value == 7
    assert isinstance(value, int)


def test_losses_may_stand_deeper():
    text = "model_config:\n  visual_bert:\n    losses:\n    - type: hubr\n"
    (problem,) = losskit.validate(text=text, at="model_config.visual_bert.losses")
    assert (problem.code, problem.line, problem.path) == ("LK103", 4, "model_config.visual_bert.losses[0].type")
    (problem,) = losskit.validate(text=text, at="model_config.visual_brt.losses")
    assert problem.code == "LK101"
    assert "visual_brt" in problem.message
    assert losskit.validate({"a": {"output_features": [{"name": "p", "type": "number"}]}}, at="a") == []
    assert losskit.validate({"a": {"output_features": [{"name": "p", "type": "x"}]}}, at="a.output_features")


def test_a_mapping_has_no_positions_but_paths():
    (problem,) = losskit.validate({"output_features": [{"name": "p", "type": "number", "loss": "hubr"}]})
    assert problem.position is None
    assert str(problem) == 'error[LK103] output_features[0].loss: no loss named "hubr", did you mean `huber`?'


def test_source_is_a_path_a_text_or_a_mapping(tmp_path):
    with pytest.raises(FileNotFoundError):
        losskit.validate(tmp_path / "missing.yaml")
    with pytest.raises(TypeError, match="text="):
        losskit.validate("output_features:\n- huber")
    with pytest.raises(TypeError, match="text="):
        losskit.validate("losses: [huber]")
    with pytest.raises(TypeError, match="one of the two"):
        losskit.validate()
    (tmp_path / "a.yaml").write_text("losses: [huber]")
    assert losskit.validate(str(tmp_path / "a.yaml")) == []


def test_arrays_and_tensors_are_read_as_lists():
    import numpy as np
    import torch

    loss = losskit.create_loss("cross_entropy", class_weights=np.array([1, 2]), label_smoothing=np.float32(0.5))
    assert loss.class_weights.tolist() == [1.0, 2.0]
    assert loss.label_smoothing == 0.5
    loss = losskit.create_loss("cross_entropy", class_weights=torch.tensor([0.5, 2.0]))
    assert loss.class_weights.tolist() == [0.5, 2.0]


def test_omegaconf_is_read_as_plain_data():
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"w": 2.0, "losses": [{"type": "huber", "weight": "${w}"}]})
    assert losskit.load(config).features[0].losses[0].weight == 2.0
    assert plain({"a": config.losses}) == {"a": [{"type": "huber", "weight": 2.0}]}


def test_references_of_omegaconf_matter_only_where_they_are_used():
    omegaconf = pytest.importorskip("omegaconf")
    config = omegaconf.OmegaConf.create({"home": "${oc.env:NO_SUCH_VARIABLE}", "must": "???", "losses": ["huber"]})
    assert losskit.validate(config) == []
    config.losses = [{"type": "huber", "delta": "${oc.env:NO_SUCH_VARIABLE}"}]
    (problem,) = losskit.validate(config)
    assert problem.code == "LK202"


@pytest.mark.parametrize("at", ["losses.²", "losses.9", "losses." + "9" * 5000, "losses.0.x", ""])
def test_places_that_are_not_there_are_told(at):
    (problem,) = losskit.validate({"losses": ["huber"]}, at=at)
    assert problem.code == "LK101"


def test_numbers_that_no_float_can_hold_are_refused():
    (problem,) = losskit.validate({"losses": [{"type": "huber", "delta": 10**6000}]})
    assert (problem.code, "got .inf" in problem.message) == ("LK202", True)


def test_messages_carry_no_control_characters():
    found = losskit.validate(text='losses: ["\\e[31mhubr\\r\\n", {type: huber, "a\\nb\\u202e": 1}]')
    assert [d.code for d in found] == ["LK103", "LK201"]
    assert all(char.isprintable() for d in found for char in str(d))


HOSTILE = {
    "many classes": "output_features: [{name: a, type: category, classes: ["
    + ", ".join(f"c{i}" for i in range(60_000))
    + ", c1]}]",
    "many weights": "output_features: [{name: a, type: category, classes: &c ["
    + ", ".join(f"c{i}" for i in range(20_000))
    + "], loss: {type: cross_entropy, class_weights: {"
    + ", ".join(f"c{i}: 1" for i in range(20_000))
    + "}}}]",
    "repeated list": "x: &l ["
    + ", ".join(["{type: cross_entropy, class_weights: [1, 2]}"] * 200)
    + "]\noutput_features:\n"
    + "".join(f"- {{name: f{i}, type: category, loss: *l}}\n" for i in range(200)),
    "many unknown": "losses: [" + ", ".join(["hubr"] * 16_000) + "]",
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_configs_take_no_time(attack):
    # A quadratic loop would take minutes; the limit is far from what it takes, and far from that.
    import time

    start = time.process_time()
    losskit.validate(text=HOSTILE[attack])
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("loss", "help"),
    [
        ('{type: huber, delta: "0.5"}', "write 0.5 without quotes"),
        ('{type: huber, delta: "1e-3"}', "write 1.0e-3 without quotes"),
        ("{type: huber, delta: '12345678901234567890.5'}", "write 12345678901234567890.5 without quotes"),
        ("{type: huber, delta: 10%}", "write 0.1"),
        ("{type: huber, delta: '0,5'}", "write 0.5, with a point"),
        ("{type: huber, delta: 1/2}", "write 0.5"),
        ("{type: huber, delta: 5px}", "write a number without a unit"),
        ("{type: huber, delta: 0x1F}", None),
        (
            "{type: huber, delta: '${x}'}",
            INTERPOLATION_HELP,
        ),
        ("'${loss}'", INTERPOLATION_HELP),
        ("{type: cross_entropy, ignore_index: None}", "write null"),
        ("huber(delta=0.5)", "settings stand beside `type`: {type: huber, delta: 0.5}"),
        ("{'type:huber'}", "write `type: huber`, with a space"),
        ("{type: huber, delta: 1_000}", "write 1000"),
        ('{type: huber, delta: "-1"}', None),
        ('{type: huber, delta: "NaN"}', None),
        ('{type: bi_tempered_logistic, num_iters: "2.5"}', None),
        ("{type: triplet_margin, swap: off}", "write false"),
        ("{type: triplet_margin, swap: 'True'}", "write true"),
    ],
)
def test_help_leads_to_a_right_value(loss, help):
    (problem,) = losskit.validate(text=f"losses: [{loss}]")
    assert problem.help == help


def test_a_key_of_others_is_no_misspelt_one():
    text = "output_features: [{name: a, type: number}]\nloss: 3\ninput_features: []\n"
    assert losskit.validate(text=text) == []


def test_a_mapping_that_contains_itself_is_refused():
    config = {"losses": []}
    config["losses"].append(config)
    with pytest.raises(ValueError, match="contains itself"):
        losskit.validate(config)


def test_reduction_none_is_said_to_be_for_python():
    (problem,) = losskit.validate({"losses": [{"type": "mse", "reduction": "none"}]})
    assert problem.code == "LK204"
    assert problem.help == "`none` is for Python only: a config asks for one number to minimise"


def test_a_misspelt_class_is_one_mistake():
    loss = "{type: cross_entropy, class_weights: {cat: 1, dgo: 2}}"
    text = f"output_features: [{{name: a, type: category, classes: [cat, dog], loss: {loss}}}]"
    (problem,) = losskit.validate(text=text)
    assert (problem.code, problem.suggestion) == ("LK206", "dog")


def test_a_name_of_a_loss_in_place_of_its_type_is_told():
    (problem,) = losskit.validate(text="output_features: [{name: a, type: number, loss: {name: huber}}]")
    assert (problem.code, problem.severity, problem.suggestion) == ("LK107", "warning", "type")
    assert problem.message == "`name` only says what mean_squared_error is called in the results; `type` names the loss"


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("output_features: [{name: a, type: number, los: huber}]", "loss"),
        ("output_features: [{name: a, type: number, los: [{type: huber}, mse]}]", "loss"),
        ("output_features: [{name: a, type: number, los: 3}]", None),
        ("output_features: [{name: a, type: number, los: hubr}]", None),
        ("output_feature: [{name: a, type: number}]", "output_features"),
        ("output_feature: [{name: a, type: int}]", None),
        ("output_feature: 3", None),
        ("loses: [huber]", "losses"),
    ],
)
def test_a_near_miss_is_cured_where_what_stands_there_can_only_be_ours(text, cure):
    (problem,) = [d for d in losskit.validate(text=text) if d.code == "LK107"]
    assert [edit.text for edit in problem.edits] == ([cure] if cure else [])


@pytest.mark.parametrize("kind", ["category", "category_distribution"])
@pytest.mark.parametrize("classes", ["num_classes: 1", "classes: [a]"])
def test_a_single_class_is_nothing_to_learn(kind, classes):
    (problem,) = losskit.validate(text=f"output_features: [{{name: a, type: {kind}, {classes}}}]")
    assert (problem.code, problem.path.rpartition(".")[2]) == ("LK207", classes.partition(":")[0])
    # A mask has one channel.
    assert losskit.validate(text=f"output_features: [{{name: a, type: image, {classes}, loss: dice}}]") == []


@pytest.mark.parametrize(
    ("loss", "suggestion", "cure"),
    [
        ("hubr", "huber", "huber"),
        ("huberr", "huber", "huber"),
        # Losses that exist elsewhere; at most they may be suggested.
        ("msle", "mse", None),
        ("smape", "mape", None),
        ("gdice", "dice", None),
        ("nll_loss3d", "nll_loss2d", None),
        ("smooth_l2", "smooth_l1", None),
        # What takes the value is meant.
        ("{type: cross_entropy, weights: [1.0, 2.0]}", "class_weights", None),
        ("{type: cross_entropy, ignore_indx: 3}", "ignore_index", "ignore_index"),
        ("{type: cross_entropy, ignore_indx: abc}", "ignore_index", None),
        ("{type: huber, prams: {delta: 2}}", "params", "params"),
        ("{type: huber, parameters: {delta: 2}}", "params", "params"),
    ],
)
def test_cures_are_those_that_a_careful_person_would_make(loss, suggestion, cure):
    (problem,) = [d for d in losskit.validate(text=f"losses: [{loss}]") if d.suggestion]
    assert problem.suggestion == suggestion
    assert [edit.text for edit in problem.edits] == ([cure] if cure else [])


@pytest.mark.parametrize(
    ("feature", "code", "path", "suggestion"),
    [
        ("{name: a, tpye: number}", "LK102", "tpye", "type"),
        ("{nmae: a, type: number}", "LK102", "nmae", "name"),
        ("{name: a, type: number, lsos: huber}", "LK107", "lsos", "loss"),
        ("{name: a, type: number, olss: huber}", "LK107", "olss", "loss"),
        ("{name: a, type: number, criterion: huber}", "LK107", "criterion", "loss"),
        ("{name: a, type: number, loss_fn: huber}", "LK107", "loss_fn", "loss"),
        ("{name: a, type: number, loss: huber, delta: 0.5}", "LK303", "delta", None),
        ("{name: a, type: number, loss: [huber], weight: 3}", "LK303", "weight", None),
        ("{name: a, type: number, loss: huber, params: {delta: 1}}", "LK303", "params", None),
        ("{name: a, type: timeseries, delta: 2}", "LK303", "delta", None),
    ],
)
def test_what_a_feature_says_in_the_wrong_place_is_told_once(feature, code, path, suggestion):
    (problem,) = losskit.validate(text=f"output_features: [{feature}]")
    assert (problem.code, problem.suggestion) == (code, suggestion)
    assert problem.path.rpartition(".")[2] == path


def test_keys_of_others_on_a_feature_are_left_alone():
    # Ludwig's, and those of other losses.
    text = "{name: a, column: b, type: number, decoder: {type: regressor}, tied: null, gamma: 2, loss: huber}"
    assert losskit.validate(text=f"output_features: [{text}]") == []


def test_a_number_of_classes_in_quotes_is_cured():
    text = "output_features: [{name: a, type: category, num_classes: '3'}]"
    (problem,) = losskit.validate(text=text)
    assert (problem.help, [edit.text for edit in problem.edits]) == ("write 3 without quotes", ["3"])


def test_what_a_feature_says_of_missing_labels_is_loaded():
    text = "output_features: [{name: a, type: number, missing: mask}, {name: b, type: number}]"
    assert [feature.missing for feature in losskit.load(text=text).features] == ["mask", None]


@pytest.mark.parametrize("value", ["maks", "Mask", "true", "null", "[mask]", "{}", "0"])
def test_missing_labels_can_only_be_masked(value):
    (problem,) = losskit.validate(text=f"output_features: [{{name: a, type: number, missing: {value}}}]")
    assert (problem.code, problem.path) == ("LK204", "output_features[0].missing")
    assert problem.message.startswith("`missing` must be mask, got ")
    assert problem.help == "`mask` leaves out targets that are NaN; without `missing`, all targets count"
    assert [edit.text for edit in problem.edits] == (["mask"] if value in ("maks", "Mask") else [])
