"""`losskit plot`: the curves are right, the pictures whole, and what cannot be drawn is told."""

import itertools
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

import losskit
from losskit.cli import main
from losskit.cli.colour import Colour
from losskit.cli.plotting import Line, Panel, Picture, picture_of, ticks
from losskit.cli.plotting.schedules import picture_of_schedules
from losskit.cli.plotting.svg import svg
from losskit.cli.plotting.terminal import FINE, PLAIN, draw, look_for
from losskit.modules.contract import Subject
from losskit.modules.curves import NoCurveError, common_sweeps, curve_of, sweep_of
from losskit.registry import registry
from losskit.schema.schedules import Schedule

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _terminal(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for variable in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")


def run(capsys, *arguments):
    code = main(["plot", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def curve(name, feature_type=None, **settings):
    entry = registry.get(name)
    sweep = sweep_of(entry, feature_type)
    return curve_of(entry, Subject(entry).build(sweep.feature_type, **settings), sweep)


# Curves


def test_the_curve_is_that_of_the_formula():
    places, values, gradients = curve("huber", delta=0.5)
    errors = torch.tensor(places, dtype=torch.float64) - 1  # the target is 1
    small = errors.abs() <= 0.5
    torch.testing.assert_close(values, torch.where(small, errors**2 / 2, 0.5 * (errors.abs() - 0.25)).tolist())
    torch.testing.assert_close(gradients, torch.where(small, errors, 0.5 * errors.sign()).tolist())


@pytest.mark.parametrize("name", ["bce_with_logits", "softmax_cross_entropy", "dice", "nll", "deep_sad", "huber"])
def test_the_gradient_is_the_slope_of_the_value(name):
    for feature_type in registry.get(name).feature_types:
        try:
            places, values, gradients = curve(name, feature_type)
        except NoCurveError:
            continue
        middle = [(a + b) / 2 for a, b in itertools.pairwise(gradients)]
        rises = [(b - a) / (places[1] - places[0]) for a, b in itertools.pairwise(values)]
        torch.testing.assert_close(rises, middle, atol=2e-3, rtol=0.02)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("triplet_margin", "no single number moves triplet_margin: it takes anchor, positive, negative"),
        ("deep_svdd", "compares the samples of a batch"),
        ("cos_emb", "only jumps"),  # the direction of a vector of one number is its sign
        ("linear_cross_entropy", "its batches have a form of their own"),
        ("nt_xent", "does not take the input that moves (prediction; the target is 1): embeddings (1, 1)"),
    ],
)
def test_where_no_number_moves_a_loss_the_reason_is_told(capsys, name, reason):
    code, out, err = run(capsys, name)
    assert (code, out) == (2, "")
    assert reason in err


def test_losses_are_compared_by_an_input_that_all_have():
    # By itself, focal is drawn for yes and no, which softmax cross-entropy is not for.
    alone = sweep_of(registry.get("focal"))
    sweeps = common_sweeps([registry.get("focal"), registry.get("softmax_cross_entropy")])
    assert alone.feature_type == "binary"
    assert {sweep.feature_type for sweep in sweeps} == {"category"}
    assert {sweep.feature_type for sweep in common_sweeps([registry.get("focal"), registry.get("dice")])} == {"image"}


def test_losses_of_different_inputs_do_not_fit_into_one_picture(capsys):
    code, out, err = run(capsys, "bce_with_logits", "huber")
    assert (code, out) == (2, "")
    assert "  bce_with_logits: logit; the label is yes\n  huber: prediction; the target is 1\n" in err


# What is asked for


@pytest.mark.parametrize(
    ("arguments", "legend"),
    [
        (["huber"], "value gradient"),
        (["huber", "--what", "value"], "huber"),
        (["huber(delta=0.5)", "huber(delta=2)"], "huber(delta=0.5) huber(delta=2)"),
        (["huber", "mse", "--set", "delta=2"], "huber(delta=2) mse"),
        (["huber", "smooth_l1", "--set", "huber.delta=2"], "huber(delta=2) smooth_l1"),
        (["huber(delta=3)", "--set", "delta=2"], "value gradient"),
        (["focal(alpha=[0.2, 0.3, 0.5], gamma=1e-1)", "--feature", "category", "--what", "value"], None),
    ],
)
def test_settings_reach_the_losses_that_have_them(capsys, arguments, legend):
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    labels = [word for word in out.splitlines()[-1].split("  ") if word.strip()]
    expected = legend.split() if legend else ["focal(alpha=[0.2, 0.3, 0.5], gamma=1e-1)"]
    assert [label.strip().split(" ", 1)[1].strip() for label in labels] == expected


def test_what_stands_at_a_loss_counts_more_than_what_is_set_for_all(capsys):
    assert "huber(delta=3)" in run(capsys, "huber(delta=3)", "--set", "delta=2")[1]


def test_a_setting_changes_the_curve(capsys):
    assert run(capsys, "huber")[1] != run(capsys, "huber", "--set", "delta=0.1")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hubr"], "no loss named 'hubr'; did you mean huber?"),
        (["huber", "--set", "detla=1"], "--set detla=1: huber has no setting `detla`, did you mean `delta`?"),
        (["huber", "mse", "--set", "gama=1"], "--set gama=1: none of the losses has a setting `gama`"),
        (["huber", "--set", "mse.delta=1"], "--set mse.delta=1: 'mse' is not among the losses that are plotted"),
        (["huber", "--set", "delta"], "cannot read the setting 'delta': write it as name=value"),
        (["huber", "--set", "delta="], "cannot read the setting 'delta=': write it as name=value"),
        (["huber", "--set", "weight=2"], "`weight` belongs to the sum of losses"),
        (["huber", "--set", "delta=1, 2"], "the value '1, 2' of `delta` cannot be read: write a list in brackets"),
        (["huber", "--set", "delta={"], "the value '{' of `delta` cannot be read: not valid YAML"),
        (["huber", "--set", "delta=!!float 1"], "the tag `!!float` is not allowed"),
        (["huber(delta=1"], "cannot read 'huber(delta=1'"),
        (["huber(1)"], "cannot read the setting '1'"),
        (["huber", "--set", "delta=-1"], "error[LK203]: `delta` of `huber` must be greater than 0, got -1\n"),
        (["huber(detla=1)"], "error[LK201]: `huber` has no setting `detla`, did you mean `delta`?"),
        (["huber", "--feature", "image"], "huber is a loss for number, timeseries, vector, not for image"),
        (["focal(alpha=[1, 2])", "--feature", "category"], "alpha has 2 values, but the logits (1, 3) have 3 classes"),
        (["huber", "-o", "h.pdf"], "cannot draw to 'h.pdf': the name of the file must end in .svg or .png"),
        (["huber", "-o", "no/h.svg"], "cannot write 'no/h.svg': No such file or directory"),
    ],
)
def test_what_cannot_be_drawn_exits_with_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_warnings_are_told_and_stop_nothing(capsys):
    code, out, err = run(capsys, "focal", "--set", "alpha=0.5", "--feature", "category")
    assert (code, bool(out)) == (0, True)
    assert err.startswith("warning[LK303]: `alpha` of `focal` ")


@pytest.mark.parametrize("command", ["plot", "list"])
def test_an_unknown_feature_type_is_told_with_the_nearest(capsys, command):
    with pytest.raises(SystemExit) as exit_:
        main([command, *(["huber"] if command == "plot" else []), "--feature", "imgae"])
    assert exit_.value.code == 2
    assert "no feature type 'imgae', did you mean image?" in capsys.readouterr().err


# Without torch, without matplotlib


@pytest.mark.parametrize(
    ("missing", "output", "cure"),
    [("torch", [], 'pip install "losskit[torch]"'), ("matplotlib", ["-o", "h.png"], 'pip install "losskit[plot]"')],
)
def test_what_is_not_installed_is_told_with_the_cure(capsys, monkeypatch, missing, output, cure):
    find_spec = plot_module().importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == missing else find_spec(name))
    code, out, err = run(capsys, "huber", *output)
    assert (code, out) == (2, "")
    assert cure in err


def plot_module():
    import losskit.cli.commands.plot

    return losskit.cli.commands.plot


def test_asking_for_help_imports_no_torch():
    code = """
import sys
from losskit.cli import main
try:
    main(["plot", "--help"])
except SystemExit:
    pass
assert not {"torch", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# The terminal


def test_the_picture_fits_the_terminal(capsys, monkeypatch):
    for columns, lines in ((80, 24), (60, 20), (200, 60)):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(lines))
        for arguments in (["huber"], ["huber", "mse"]):
            out = run(capsys, *arguments)[1].splitlines()
            # With one line for the prompt; a large terminal is not filled, for lines would be long to follow.
            assert len(out) <= min(lines - 1, 32)
            assert max(map(len, out)) <= min(columns, 100)
            assert out[-1].strip().endswith(("gradient", "mse"))


def straight_line(numbers, width=30, height=14, look=FINE):
    panel = Panel("line", [Line("it", numbers, 0)])
    return list(draw(Picture("", "x", [0.0, 1.0, 2.0], [panel]), width, height, Colour("never", sys.stdout), look))


def test_a_line_is_drawn_from_corner_to_corner_without_gaps():
    plot = [line for line in straight_line([2.0, 1.0, 0.0]) if "│" in line or "┤" in line]
    cells = [line[line.index("┤" if "┤" in line else "│") + 1 :] for line in plot]
    dots = {
        (4 * row + inner, 2 * column + side)
        for row, line in enumerate(cells)
        for column, char in enumerate(line)
        for inner, bits in enumerate(((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80)))
        for side, bit in enumerate(bits)
        if 0x2800 <= ord(char) < 0x2900 and (ord(char) - 0x2800) & bit
    }
    last_row, last_column = 4 * len(plot) - 1, max(column for _, column in dots)
    assert {(0, 0), (last_row, last_column)} <= dots
    assert {column for _, column in dots} == set(range(last_column + 1))
    # From each dot but the last, a neighbour to the right or below.
    for row, column in dots - {(last_row, last_column)}:
        assert {(row + 1, column), (row, column + 1), (row + 1, column + 1)} & dots


def test_a_jump_is_a_vertical_line():
    rows = straight_line([-1.0, -1.0, 1.0])
    assert sum(any(0x2800 <= ord(char) < 0x2900 for char in row) for row in rows) >= len(rows) - 5


def test_numbers_stand_at_the_axes():
    lines = straight_line([0.0, 1.0, 2.0], height=20)
    assert [line.split()[0] for line in lines if "┤" in line] == ["2.0", "1.5", "1.0", "0.5", "0.0"]
    assert lines[-3].split() == ["0", "1", "2"]


def test_terminals_without_braille_get_plain_characters(capsys):
    assert (look_for("utf-8"), look_for("ascii"), look_for("latin-1"), look_for("cp1252")) == (FINE, *[PLAIN] * 3)
    assert look_for(None) == PLAIN
    result = subprocess.run(
        [sys.executable, "-m", "losskit", "plot", "huber", "mae"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    text = result.stdout.decode("ascii")
    assert "\\u" not in text
    assert text.splitlines()[-1] == "  **** huber  oooo mae"


def test_colour_when_it_is_asked_for(capsys):
    assert "\x1b[" not in run(capsys, "huber")[1]
    out = run(capsys, "huber", "--color", "always")[1]
    assert "\x1b[36m" in out
    assert "\x1b[33m" in out


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (-2, 4, 7, "-2 -1 0 1 2 3 4"),
        (-0.5, 1.375, 6, "-0.5 0.0 0.5 1.0"),
        (0, 1e-5, 3, "0 5e-06 1e-05"),
        (-1e6, 1e6, 3, "-1e+06 0 1e+06"),
        (0, 0.3, 4, "0.0 0.1 0.2 0.3"),
        (0.05, 1, 5, "0.5 1.0"),
    ],
)
def test_ticks_are_round_numbers(low, high, most, expected):
    assert " ".join(ticks(low, high, most).values()) == expected


# Files


def test_svg_is_well_formed_and_whole(capsys):
    assert run(capsys, "focal(gamma=1)", "softmax_cross_entropy", "-o", "f.svg") == (0, "", "")
    root = ET.parse("f.svg").getroot()
    assert root.find(f"{SVG}title").text == "focal(gamma=1), softmax_cross_entropy: value and gradient"
    assert len(root.findall(f"{SVG}polyline")) == 4
    texts = [element.text for element in root.findall(f"{SVG}text")]
    assert {"value", "gradient", "focal(gamma=1)", "logit of the right class, beside two logits of 0"} <= set(texts)
    _, _, width, height = map(float, root.get("viewBox").split())
    for line in root.findall(f"{SVG}polyline"):
        points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_labels_are_text_in_svg():
    curves = {"a(b='<&>')": curve("huber")}
    assert "a(b=&#x27;&lt;&amp;&gt;&#x27;)" in svg(picture_of(curves, "x"))


@pytest.mark.parametrize("what", ["value", "gradient", "both"])
def test_png_is_a_picture(capsys, what):
    matplotlib_image = pytest.importorskip("matplotlib.image")
    assert run(capsys, "huber", "mse", "--what", what, "-o", "h.PNG") == (0, "", "")
    picture = matplotlib_image.imread("h.PNG")
    assert picture.shape[1] == 1008
    assert picture.std() > 0.05, "the picture is empty"


# Weights that change

SCHEDULES = """
output_features:
- name: z
  type: number
  loss:
  - mse
  - {type: huber, name: kl, weight: {schedule: cyclical, steps: 200, to: 0.8}}
- {name: y, type: number, loss: {type: huber, weight: {schedule: linear, steps: 1000, from: 1, to: 0.5, warmup: 100}}}
- {name: x, type: timeseries, loss: {weight: {schedule: step, steps: 300}}}
"""


def legend(out):
    return [label.strip() for label in re.split("[\u2800-\u28ff][\u2800-\u28ff ]*", out.splitlines()[-1])[1:]]


@pytest.fixture
def config():
    Path("train.yaml").write_text(SCHEDULES)
    return "train.yaml"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ([], ["z/kl", "y/huber", "x/huber"]),
        (["y/huber"], ["y/huber"]),
        (["y"], ["y/huber"]),
        (["kl"], ["z/kl"]),
        (["huber"], ["y/huber", "x/huber"]),
        (["x", "kl"], ["x/huber", "z/kl"]),
    ],
)
def test_the_weights_of_a_config_that_change_are_drawn(capsys, config, chosen, expected):
    code, out, err = run(capsys, *chosen, "--schedule", config)
    assert (code, err) == (0, "")
    assert legend(out) == expected
    assert out.splitlines()[0].strip() == "weight"
    assert out.splitlines()[-2].strip() == "steps of the optimizer"
    assert len(out.splitlines()) <= 23


def test_the_line_of_a_schedule_has_its_values():
    schedules = {
        "a": Schedule("cyclical", 0.0, 0.8, steps=200, warmup=10),
        "b": Schedule("step", steps=400),
    }
    picture = picture_of_schedules(schedules)
    assert [line.label for line in picture.legend] == ["a", "b"]
    assert picture.places[0] == 0
    # Three cycles, which are more than the step and what comes after it.
    assert picture.places[-1] == 610
    for line, schedule in zip(picture.panels[0].lines, schedules.values(), strict=True):
        assert line.numbers == [schedule.at(place) for place in picture.places]
    gaps = {after - before for before, after in itertools.pairwise(picture.places)}
    assert gaps == {1, 2}, "the terminal takes them for evenly spread"


@pytest.mark.parametrize("kind", ["linear", "cosine", "step", "cyclical"])
@pytest.mark.parametrize("steps", [2, 3, 1000, 10**15])
def test_a_picture_shows_the_start_the_change_and_the_end(kind, steps):
    (line,) = picture_of_schedules({"a": Schedule(kind, 0.25, 1.0, steps=steps, ratio=0.1)}).legend
    assert line.numbers[0] == 0.25
    assert 1.0 in line.numbers


def test_losses_whose_weights_are_alike_share_a_line():
    same = Schedule("linear", steps=5)
    picture = picture_of_schedules({"a": same, "b": Schedule("step", steps=5), "c": same, "d": same, "e": same})
    assert [line.label for line in picture.legend] == ["a, c, d, …", "b"]


def test_names_cannot_move_the_cursor(capsys):
    feature = {
        "name": "\x1b[2Jz",
        "type": "number",
        "loss": {"type": "huber", "weight": {"schedule": "step", "steps": 3}},
    }
    Path("train.json").write_text(json.dumps({"output_features": [feature]}))
    assert "\x1b" not in run(capsys, "--schedule", "train.json")[1]
    run(capsys, "--schedule", "train.json", "-o", "s.svg")
    assert ET.parse("s.svg").getroot().find(f"{SVG}title").text == "\\x1b[2Jz/huber: weight"


@pytest.mark.parametrize("name", ["s.svg", "s.png"])
def test_schedules_are_drawn_to_files(capsys, config, name):
    if name.endswith(".png"):
        matplotlib_image = pytest.importorskip("matplotlib.image")
    assert run(capsys, "--schedule", config, "-o", name) == (0, "", "")
    if name.endswith(".png"):
        assert matplotlib_image.imread(name).std() > 0.05
    else:
        root = ET.parse(name).getroot()
        assert root.find(f"{SVG}title").text == "z/kl, y/huber, x/huber: weight"
        assert len(root.findall(f"{SVG}polyline")) == 3


def test_schedules_of_a_list_of_losses_without_a_feature(capsys):
    Path("mmf.yaml").write_text("a: {losses: [mse, {type: mse, weight: {schedule: step, steps: 3}}]}")
    code, out, err = run(capsys, "--schedule", "mmf.yaml", "--at", "a.losses")
    assert (code, err, legend(out)) == (0, "", ["mean_squared_error_2"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a loss to draw, or a config whose weights change: --schedule FILE"),
        (["huber", "--at", "a"], "--at says where the losses of a config stand: it needs --schedule"),
        (["--schedule", "train.yaml", "--set", "steps=3"], "--set is for the curves of losses, not for --schedule"),
        (["--schedule", "train.yaml", "--what", "value"], "--what is for the curves of losses, not for --schedule"),
        (["--schedule", "train.yaml", "--feature", "number"], "--feature is for the curves of losses"),
        (["--schedule", "none.yaml"], "cannot read 'none.yaml': No such file or directory"),
        (["--schedule", "."], "cannot read '.': Is a directory"),
        (
            ["--schedule", "still.yaml"],
            "no weight in still.yaml changes; one that does is written `weight: {schedule: linear, steps: 10000}`",
        ),
        (["--schedule", "wrong.yaml"], "wrong.yaml:1:49: error[LK201] losses[0].weight.stpes: `weight` of `huber` has"),
        (["--schedule", "wrong.yaml"], "\nlosskit: wrong.yaml is wrong, so that nothing is drawn"),
        (
            ["--schedule", "train.yaml", "mse"],
            "train.yaml has no weight that changes of 'mse'\n  it has: z/kl, y/huber,",
        ),
        (["--schedule", "train.yaml", "hubr"], "has no weight that changes of 'hubr', did you mean `huber`?\n"),
        (["--schedule", "train.yaml", "-o", "s.pdf"], "cannot draw to 's.pdf'"),
    ],
)
def test_schedules_that_cannot_be_drawn_exit_with_2(capsys, config, arguments, message):
    Path("still.yaml").write_text("losses: [{type: huber, weight: 0.5}]")
    Path("wrong.yaml").write_text("losses: [{type: huber, weight: {schedule: step, stpes: 3}}]")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_schedules_are_drawn_without_torch(config):
    code = (
        "import sys; sys.modules['torch'] = None; from losskit.cli import main; "
        f"sys.exit(main(['plot', '--schedule', '{config}']))"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout.decode()
    assert legend(out) == ["z/kl", "y/huber", "x/huber"]


def test_the_shell_completes_the_file_of_schedules():
    script = (Path(losskit.__file__).parent / "cli" / "completions" / "losskit.bash").read_text("utf-8")
    assert "_shtab_losskit_plot___schedule_COMPGEN=_shtab_compgen_files" in script
