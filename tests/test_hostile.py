"""Input that is meant to break `losskit validate`: it is refused with its place, soon, and does nothing else."""

import collections
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import losskit
from losskit import first_pass
from losskit.cli import EXIT_BROKEN_PIPE, EXIT_CANNOT_RUN, EXIT_FINDINGS, EXIT_OK, main
from losskit.cli.checking import Options, check
from losskit.cli.colour import Colour
from losskit.cli.difference import print_difference
from losskit.cli.formats import FORMATS, Summary, reporter
from losskit.cli.spreading import usable_processors
from losskit.config import LINE_BREAK, MAX_BYTES, read
from losskit.diagnostics import has_errors
from losskit.fixing import fix
from losskit.validation import Validation
from tests.mutations import CONSTRUCTS, VALUES, corpus, mutated
from tests.test_config import BOMB, HAZARDS

ROOT = Path(__file__).parent.parent
RIGHT = "output_features: [{name: p, type: number, loss: huber}]\n"
WRONG = "output_features: [{name: p, type: number, loss: hubr}]\n"
CORPUS = corpus()
# Each takes less than 2 seconds where nothing else runs; what is quadratic takes minutes. CI shares its processors.
SECONDS, MEGABYTES = 6.0, 300
# How many kilobytes a process had at most. What `resource` says begins with what the process that started it had.
PEAK = 'int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])'

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def losskit_(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "losskit", *arguments],
        capture_output=True,
        check=False,
        timeout=60,
        **{"env": {**os.environ, "PYTHONPATH": str(ROOT)}, **options},
    )


# The hazards of YAML, through the whole command

# Runs the command once for each text, as one process would.
RUN_EACH = """
import io, json, sys
from losskit.cli import main
out, done = sys.stdout, []
for text in json.load(sys.stdin):
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode("latin-1")))
    sys.stdout = io.StringIO()
    code = main(["validate", "-", *sys.argv[1:], "--stdin-filename", "c.yaml", "-q"])
    done.append((code, sys.stdout.getvalue()))
json.dump(done, out)
"""


def run_each(sources, *options):
    """The exit code and the output for each of some texts on standard input."""
    texts = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass") for text in sources]
    result = subprocess.run(
        [sys.executable, "-c", RUN_EACH, *options],
        input=json.dumps([text.decode("latin-1") for text in texts]).encode(),
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.stderr == b""
    return json.loads(result.stdout)


def test_the_command_refuses_every_hazard_with_its_place():
    found = run_each([row[0] for row in HAZARDS.values()], "--output-format", "json")
    for (hazard, (_, code, line, column, message)), (exit_code, out) in zip(HAZARDS.items(), found, strict=True):
        # Half a surrogate is no UTF-8, so it is not even text here.
        expected = "LK008" if hazard == "lone surrogate" else code
        # What can be read in spite of it says nothing of losses either.
        problem = next(row for row in json.loads(out)["diagnostics"] if row["code"] == expected)
        assert exit_code == (EXIT_CANNOT_RUN if expected == "LK008" else EXIT_FINDINGS), hazard
        assert line in (None, problem["location"]["line"]), hazard
        assert column in (None, problem["location"]["column"]), hazard
        assert expected != code or message in problem["message"], hazard


def test_the_frame_of_every_hazard_is_narrow_and_points_at_its_column():
    for (hazard, row), (_, out) in zip(HAZARDS.items(), run_each([row[0] for row in HAZARDS.values()]), strict=True):
        assert max(map(len, out.splitlines())) < 300, hazard
        assert out.isprintable() or all(line.isprintable() or "\t" in line for line in out.splitlines()), hazard
        assert out.startswith("error[LK"), hazard
        if isinstance(row[0], str) and len(row[0]) < 100 and row[1] not in ("LK009",) and hazard != "lone surrogate":
            assert "^" in out, hazard


@pytest.mark.parametrize("hazard", ["too deep", "alias bomb", "merge bomb", "python object", "latin-1"])
def test_what_crashes_other_readers_ends_as_it_should(hazard):
    text, code, *_ = HAZARDS[hazard]
    source = text if isinstance(text, bytes) else text.encode()
    result = losskit_("validate", "-", input=source)
    assert result.returncode == (2 if code == "LK008" else 1)
    assert f"error[{code}]".encode() in result.stdout
    assert b"Traceback" not in result.stderr


SMALL_BOMB = "\n".join(BOMB.splitlines()[:5]) + "\n"
# Where a loss, a feature or a setting is expected, what an alias stands for is never written out.
BOMBED = {
    "a setting": "{name: a, type: number, loss: {type: huber, weight: *a4}}",
    "a list of numbers": "{name: a, type: category, loss: {type: cross_entropy, class_weights: *a4}}",
    "a loss": "{name: a, type: number, loss: *a4}",
    "a name": "{name: *a4, type: number}",
    "a type": "{name: a, type: *a4}",
    "classes": "{name: a, type: category, classes: *a4}",
    "a number of classes": "{name: a, type: category, num_classes: *a4}",
    "inputs": "{name: a, type: number, loss: {type: huber, inputs: *a4}}",
    "parameters": "{name: a, type: number, loss: {type: huber, params: *a4}}",
    "a feature": "*a4",
}


@pytest.mark.parametrize("place", BOMBED)
def test_a_bomb_in_any_place_is_told_shortly(place):
    started = time.process_time()
    problems = losskit.validate(text=f"{SMALL_BOMB}output_features: [{BOMBED[place]}]\n")
    assert time.process_time() - started < SECONDS
    assert problems
    assert all(len(str(problem)) < 400 for problem in problems)


def test_mappings_that_python_builds_may_be_hostile_too(monkeypatch):
    monkeypatch.setattr("losskit.validation._MAX_VALUES", 10_000)  # a million take a second
    twice = [1] * 10
    for _ in range(30):
        twice = [twice] * 10
    with pytest.raises(ValueError, match="more than 10,000 values"):
        losskit.validate({"output_features": twice})
    with pytest.raises(ValueError, match="more than 10,000 values"):
        losskit.validate({"output_features": range(10**12)})
    loop: dict[str, object] = {}
    loop["output_features"] = loop
    with pytest.raises(ValueError, match="contains itself"):
        losskit.validate(loop)


# Inputs that take long

LIMIT = MAX_BYTES - 1000


def filled(head, unit, tail="", *, most=10**9):
    """As many units as fit into a config between head and tail."""
    parts, size = [], LIMIT - len(head.encode()) - len(tail.encode())
    for index in itertools.islice(itertools.count(), most):
        part = unit.replace("$", str(index))
        size -= len(part.encode())
        if size < 0:
            break
        parts.append(part)
    return "".join([head, *parts, tail])


FEATURES = "output_features:\n"
CROSS_ENTROPY = f"{FEATURES}- {{name: a, type: category, loss: {{type: cross_entropy, class_weights: ["
MATRIX = f"{FEATURES}- {{name: a, type: category, loss: {{type: cross_entropy, class_similarities: ["
# What each stage would take longest for: reading, looking for what was meant, JSON Schema, cures, differences, frames.
COSTLY = {
    "many right features": filled(FEATURES, "- {name: a$, type: number}\n"),
    "one name many times": filled(FEATURES, "- {name: a, type: number}\n"),
    "many misspelt losses": filled(FEATURES, "- {name: a$, type: number, loss: 'sigmoid_cross_entropi$'}\n"),
    "everything misspelt": filled(FEATURES, "- {nam: a$, typ: number, los: hubr$}\n"),
    "long names of losses": filled("losses:\n", f"- {'sigmoid_cross_entropi' * 3000}$\n"),
    "long keys": filled("", f"? {'output_featres' * 4500}$\n: 1\n"),
    "keys of the same letters": filled("", "features_output$:\n", most=60_000),
    "unknown settings near known ones": filled("losses:\n- type: huber\n", "  detla$: 1\n"),
    "keys near those of a schedule": filled("losses:\n- type: huber\n  weight:\n    steps: 1\n", "    stpes$: 1\n"),
    "weights of classes for a weight": filled("losses:\n- type: huber\n  weight:\n", "    class$: 1\n"),
    "many schedules": filled(
        "losses:\n- type: huber\n", "- {type: huber, name: a$, weight: {schedule: linaer, stpes: 1}}\n"
    ),
    "keys near type": filled("losses:\n-\n", "  typ$: 1\n"),
    "classes that are no classes": filled(
        filled(FEATURES + "- {name: a, type: category, classes: [", "class_of_many$,", most=25_000)
        + "], loss: {type: cross_entropy, class_weights: {",
        "clas_of_many$: 1,",
        "}}}",
        most=20_000,
    ),
    "texts for weights": filled(CROSS_ENTROPY, "a,", "]}}", most=240_000),
    "the last weight is wrong": filled(CROSS_ENTROPY, "1,", "a]}}", most=240_000),
    "rows of texts": filled("w: &w [" + "a," * 200 + "]\n" + MATRIX, "*w,", "]}}", most=1000),
    "numbers in another notation": filled(CROSS_ENTROPY, "1e0,", "]}}", most=240_000),
    "rows of them": filled(MATRIX, "[1e0],", "]}}", most=80_000),
    "aliases of a list under many features": filled(
        "x: &x [" + "{type: huber, delta: 2}," * 90 + "]\n" + FEATURES,
        "- {name: a$, type: number, num_classes: 1$, loss: *x}\n",
        most=850,
    ),
    "settings under params": filled(
        FEATURES, "- name: a$\n  type: number\n  loss:\n    type: huber\n    params:\n      delta: 1.0  # half\n"
    ),
    "a few of them before much": filled(
        FEATURES + "- {name: a, type: number, loss: {type: huber, params: {delta: 1.0}}}\n" * 300,
        "- {name: b$, type: number}\n",
    ),
    "cures here and there": filled(
        FEATURES, "- name: a$\n  type: number\n  loss: {type: huber, delta: 1e-3}\n", most=16_000
    ),
    "comments on each line": filled(FEATURES, "- {name: a$, type: number}  # losskit: ignore[LK103]\n"),
    "a comment of many codes": FEATURES + "- {name: a, type: number} # losskit: ignore[" + "LK103," * 150_000 + "]\n",
    "one long line": filled("output_features: [", "{name: 😀$, type: number, loss: hubr},", "]"),
    "quotes in many lines": "losses:\n" + "- 'hubr'\n" * 990 + "- huber\n" * 120_000,
    "spaces where a colon is missing": f"b x{' ' * 65_000}y\n  c: 1\n",
    "a long word before a colon": f"{{a: 1, {'x' * 65_000} y: z: 2}}",
    "a line above far away": "a\n" + "#\n" * 500_000 + "b: c\n",
    "repeated keys": filled("{", "a,", "}"),
    "tags": filled("", "- !a\n"),
    "deep lists": filled("", f"- {'[' * 62}{']' * 62}\n"),
    "backslashes": '"' + "\\x41" * 260_000 + '"',
    "brackets": "[" * LIMIT,
    "question marks": "? " * (LIMIT // 2),
}
# Those that make the most of each format, so that all of them are tried with these.
TALKATIVE = ("many misspelt losses", "texts for weights")
# Those in which there is something to cure.
CURABLE = (
    "many misspelt losses",
    "everything misspelt",
    "numbers in another notation",
    "rows of them",
    "settings under params",
    "a few of them before much",
    "cures here and there",
    "comments on each line",
    "one long line",
    "quotes in many lines",
)

TIMED = """
import json, sys, time
from losskit.cli import main
started = time.process_time()
code = main(sys.argv[1:])
seconds = time.process_time() - started
print(json.dumps([code, seconds, PEAK]), file=sys.stderr)
""".replace("PEAK", PEAK)


def timed(folder, text, *options):
    """Exit code, seconds and kilobytes of checking a text in a process of its own, and the output."""
    (folder / "c.yaml").write_text(text, "utf-8", newline="")
    # Another process between, since the peak of a process starts with that of the one from which it is forked.
    command = ["sh", "-c", '"$@"', "sh", sys.executable, "-c", TIMED, "validate", "c.yaml", "-q", *options]
    result = subprocess.run(
        command, capture_output=True, check=False, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60
    )
    return *json.loads(result.stderr.splitlines()[-1]), result.stdout


def check_cost(folder, case, *options):
    # What else runs on the machine makes all slower, so the best of three counts.
    for _ in range(3):
        code, seconds, kilobytes, out = timed(folder, COSTLY[case], *options)
        if seconds < SECONDS:
            break
    assert code in (0, 1)
    assert seconds < SECONDS, f"{case} {options}: {seconds:.2f} s"
    assert kilobytes < MEGABYTES * 1024, f"{case} {options}: {kilobytes // 1024} MB"
    return out


@needs_linux
@pytest.mark.parametrize("case", ["many misspelt losses", "texts for weights", "a few of them before much"])
def test_costly_configs_are_checked_soon(case, tmp_path):
    check_cost(tmp_path, case)


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize("case", COSTLY)
def test_no_config_takes_long_or_much(case, tmp_path):
    formats = FORMATS if case in TALKATIVE else ["full"]
    for name in formats:
        out = check_cost(tmp_path, case, "--output-format", name)
        assert len(out) < 4 << 20
    if case in CURABLE:
        check_cost(tmp_path, case, "--diff")


@pytest.mark.slow
def test_a_path_to_losses_may_be_as_long_as_it_likes(tmp_path):
    (tmp_path / "c.yaml").write_text("a: [" * 60 + "1" + "]" * 60)
    started = time.process_time()
    assert main(["validate", str(tmp_path / "c.yaml"), "--at", ".".join(["a", "0"] * 30_000)]) == EXIT_FINDINGS
    assert time.process_time() - started < SECONDS


# Where only the beginning of much is looked at, what is said of it stays right


def test_wrong_items_of_a_long_list_keep_their_places():
    weights = [1.0] * 5000
    weights[1234], weights[4321] = -1.0, "x"
    feature = {"name": "a", "type": "category", "loss": {"type": "cross_entropy", "class_weights": weights}}
    found = losskit.validate({"output_features": [feature]})
    path = "output_features[0].loss.class_weights"
    assert {(problem.code, problem.path) for problem in found} == {
        ("LK203", f"{path}[1234]"),
        ("LK202", f"{path}[4321]"),
    }
    feature["loss"] = {"type": "cross_entropy", "class_similarities": [[1.0] * 300] * 9 + [[1.0] * 299 + [None], []]}
    found = losskit.validate({"output_features": [feature]})
    path = "output_features[0].loss.class_similarities"
    assert [(problem.code, problem.path) for problem in found] == [
        ("LK202", f"{path}[9][299]"),
        ("LK206", f"{path}[10]"),
    ]


@pytest.mark.parametrize("items", [3, 3000])
def test_a_list_in_place_of_a_number_is_told_as_a_whole(items):
    loss = {"type": "huber", "delta": [1] * items}
    (problem,) = losskit.validate({"output_features": [{"name": "a", "type": "number", "loss": loss}]})
    assert (problem.path, problem.message) == (
        "output_features[0].loss.delta",
        f"`delta` of `huber` must be a number greater than 0, got a list of {items}",
    )


@given(st.lists(st.sampled_from([1.0, 0, -1, "x", None, [1.0], [], {}, True]), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_what_is_said_of_a_long_list_is_what_is_said_of_a_short_one(items):
    def said(weights):
        loss = {"type": "cross_entropy", "class_weights": weights}
        found = losskit.validate({"output_features": [{"name": "a", "type": "category", "loss": loss}]})
        return [(problem.code, problem.path, problem.message) for problem in found if problem.code != "LK207"]

    assert said(items) == said(items + [1.0] * 2000)


def test_of_many_numbers_in_another_notation_a_thousand_are_named():
    weights = ", ".join(["1e0"] * 3000)
    text = f"output_features: [{{name: a, type: category, loss: {{type: cross_entropy, class_weights: [{weights}]}}}}]"
    found = losskit.validate(text=text)
    assert len(found) == 1001
    assert {(problem.code, problem.severity) for problem in found} == {("LK302", "warning")}
    assert "more than 1,000 numbers are written so" in found[-1].message
    assert not has_errors(Validation(read(text)).diagnostics)


def test_so_many_misspelt_names_are_looked_up_and_no_more():
    found = losskit.validate(text="losses: [" + ", ".join(f"hubr{index:03}" for index in range(300)) + "]")
    assert len(found) == 300
    assert all(problem.suggestion == "huber" for problem in found[:200])
    assert not any(problem.suggestion for problem in found[200:])
    # The same word again costs nothing.
    found = losskit.validate(text="losses: [" + "hubr, " * 300 + "]")
    assert all(problem.suggestion == "huber" for problem in found)


@pytest.mark.parametrize(
    "settings_",
    [
        {"in_features": 5, "num_classes": 10**7, "cutoffs": list(range(1, 3000))},
        {"in_features": 5, "num_classes": 9, "cutoffs": [1, 2], "div_value": 1e-300},
        {"in_features": 5, "num_classes": 9, "cutoffs": [1, 2], "div_value": 1e300},
    ],
)
def test_numbers_that_no_float_holds_break_no_rule(settings_):
    (problem,) = losskit.validate({"losses": [{"type": "adaptive_log_softmax", **settings_}]})
    assert problem.code == "LK207"
    assert problem.message.startswith("`div_value` of `adaptive_log_softmax` leaves nothing")


def test_a_layer_that_fits_into_no_memory_is_refused():
    for name, more in (("linear_cross_entropy", {}), ("adaptive_log_softmax", {"cutoffs": [1]})):
        for sizes in ({"in_features": 10**300, "num_classes": 3}, {"in_features": 2**20, "num_classes": 10**25}):
            (problem,) = losskit.validate({"losses": [{"type": name, **sizes, **more}]})
            assert (problem.code, problem.path) == ("LK207", "losses[0].in_features")


# Cures


def test_a_cure_that_would_uncover_errors_is_not_made():
    text = "output_features:\n- name: a\n  type: number\n  los: {type: huber, weight: x}\n"
    assert not has_errors(losskit.validate(text=text))
    assert fix(text, None).text == text
    text += "- name: b\n  type: number\n  los: {type: huber, delta: 1e1}\n"
    assert fix(text, None).text == text.replace("los: {type: huber, delta: 1e1}", "loss: {type: huber, delta: 1.0e+1}")


def test_cures_leave_anchors_where_they_are():
    text = "losses:\n- &a hubr\n- {&b delt: 1, type: huber, name: *a}\n- {type: smooth_l1, beta: &c '1'}\n"
    assert fix(text, None).text == text


def test_params_that_a_cure_has_named_are_lifted_too():
    start = "output_features:\n- name: a\n  type: number\n  loss:\n    type: huber\n"
    text = f"{start}    Params:\n      delta: 0.5  # half\n"
    assert fix(text, None).text == f"{start}    delta: 0.5  # half\n"


def test_all_params_are_lifted_but_those_that_cannot_be():
    start = "output_features:\n- name: a\n  type: number\n  loss:\n"
    good, lifted = "  - type: huber\n    params:\n      delta: 0.5\n", "  - type: huber\n    delta: 0.5\n"
    bad = "  - type: huber\n    params: &p {delta: 0.5}\n"
    fixed = fix(start + good * 50 + bad + good * 50, None)
    assert (fixed.cured, fixed.text) == (100, start + lifted * 50 + bad + lifted * 50)


@pytest.mark.skipif(not shutil.which("git"), reason="git is asked to apply the differences")
def test_differences_can_be_applied(tmp_path):
    random_ = random.Random(1)
    lines = ["a\n", "b\n", "- huber\n", "  params:\n", "\n", "c\r\n", "d\x85e\n", "f\u2028\n"]
    for case in range(150):
        before = random_.choices([*lines, f"{case}\n"], k=random_.randint(1, 60))
        after = list(before)
        for _ in range(random_.randint(1, 6)):
            place = random_.randrange(len(after) + 1)
            after[place : place + random_.choice((0, 1, 1, 2))] = [f"new {case}\n"] * random_.choice((0, 1, 1, 2, 40))
        texts = ["".join(before), "".join(after)]
        if random_.random() < 0.5:
            texts = [text[:-1] for text in texts]
        if not all(texts) or texts[0] == texts[1]:
            continue
        out = io.StringIO(newline="")
        print_difference(*texts, "c.yaml", out, Colour("never", out))
        (tmp_path / "c.yaml").write_text(texts[0], "utf-8", newline="")
        command = ["git", "apply", "--whitespace=nowarn", "-"]
        subprocess.run(command, input=out.getvalue().encode(), check=True, cwd=tmp_path)
        assert (tmp_path / "c.yaml").read_bytes().decode() == texts[1]


# Inputs that nobody thought of


def comments(text):
    """The comments of a text that PyYAML can split into tokens, counted."""
    found, done = [], 0
    try:
        for token in yaml.scan(text, Loader=yaml.CSafeLoader):
            found += re.findall("#[^\n\r\x85\u2028\u2029]*", text[done : token.start_mark.index])
            done = max(done, token.end_mark.index)
    except yaml.YAMLError:
        return None
    found += re.findall("#[^\n\r\x85\u2028\u2029]*", text[done:])
    return collections.Counter(comment.strip() for comment in found)


def check_everything(source):
    """Everything that must hold for any input; returns the problems."""
    document = read(source, "c.yaml")
    problems = Validation(document).diagnostics
    check_places(problems, document.text)
    assert not (problems and first_pass.is_right(read(source, "c.yaml")))
    if document.data is not None:
        check_cures(document.text, problems)
    data = source if isinstance(source, bytes) else source.encode("utf-8", "surrogatepass")
    for options in (Options(fixes="diff"), Options(only_configs=True), Options()):
        report = check(data, "c.yaml", options, is_named=not options.only_configs).report
    for name in FORMATS:
        check_format(name, report)
    return problems


def check_places(problems, text):
    lines = LINE_BREAK.split(text)
    for problem in problems:
        assert problem.end >= problem.position >= (1, 1)
        # Of what is no text at all, only the place is known.
        assert not text or problem.column <= len(lines[problem.line - 1]) + 1
        assert problem.message.isprintable()
        assert len(problem.message) < 1000


def check_cures(text, problems):
    fixed = fix(text, "c.yaml")
    again = read(fixed.text, "c.yaml")
    assert again.data is not None
    left = Validation(again).diagnostics
    assert left == fixed.validation.diagnostics
    assert has_errors(problems) or not has_errors(left)
    assert fix(fixed.text, "c.yaml").text == fixed.text
    before, after = comments(text), comments(fixed.text)
    assert before is None or after is None or not before - after
    print_difference(text, fixed.text, "c.yaml", io.StringIO(), Colour("always", sys.stdout))


def check_format(name, report):
    out = io.StringIO()
    made = reporter(name, out, Colour("never", out))
    made.start()
    made.file(report)
    made.finish(Summary(1))
    text = out.getvalue()
    text.encode()
    if name in ("json", "gitlab", "sarif"):
        json.loads(text)
    elif name == "junit":
        ET.fromstring(text)
    elif name in ("concise", "github"):
        assert len(text.splitlines()) == len(report.diagnostics)


@given(
    st.binary(max_size=300) | st.text(max_size=200) | st.text("[]{}:,&*!|>#-?'\"% \n\tab1é😀\r\x85\u2028", max_size=80)
)
@settings(max_examples=400, deadline=None)
def test_no_text_breaks_anything(source):
    check_everything(source)


@given(
    st.lists(st.sampled_from(CONSTRUCTS) | st.sampled_from(["output_features:", "losses:", "type: huber", "name: a"]))
)
@settings(max_examples=200, deadline=None)
def test_no_pieces_of_yaml_break_anything(pieces):
    check_everything("".join(pieces))


@given(st.integers(0, 2**64))
@settings(max_examples=300, deadline=None)
def test_no_changed_config_breaks_anything(seed):
    check_everything(mutated(random.Random(seed), CORPUS))


@given(
    seed=st.integers(0, 2**64), name=st.sampled_from(FORMATS), more=st.sampled_from(["", "--diff", "--strict", "-v"])
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_config_is_a_fault_of_the_command(seed, name, more, tmp_path, capsys):
    path = tmp_path / "c.yaml"
    path.write_bytes(mutated(random.Random(seed), CORPUS).encode("utf-8", "surrogatepass"))
    assert main(["validate", str(path), "--output-format", name, *filter(None, [more])]) in (0, 1, 2)
    assert "Traceback" not in "".join(capsys.readouterr())


@given(st.sampled_from(VALUES), st.sampled_from(VALUES))
@settings(max_examples=100, deadline=None)
def test_no_values_break_what_python_calls(value, other):
    feature = {"name": "a", "type": "category", "classes": other, "loss": {"type": "focal", "alpha": value}}
    for config in ({"output_features": value}, {"output_features": [feature]}, {"losses": [value, other]}, value):
        if config is not None and not isinstance(config, str):
            losskit.validate(config)


# Many changed configs in a process that tells what it does

MANY = """
import json, random, resource, sys, time
sys.path.insert(0, ROOT)
from tests.test_config import HAZARDS
from tests.test_hostile import CORPUS, check_everything
from tests.mutations import mutated
for text in (*CORPUS, *(row[0] for row in HAZARDS.values()), 'losses: ["\\\\0"]'):
    check_everything(text)  # so that all is imported that a config may ask for
done = []
WATCHED = ("open", "exec", "compile", "import", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.")
def watch(event, arguments):
    if event.startswith(WATCHED):
        done.append((event, str(arguments[:2])))
random_ = random.Random(20)
texts = [mutated(random_, CORPUS) for _ in range(5000)]
sys.addaudithook(watch)
slowest = 0
for text in texts:
    started = time.process_time()
    check_everything(text)
    slowest = max(slowest, time.process_time() - started)
found = list(done)
print(json.dumps({"done": found, "slowest": slowest, "kilobytes": PEAK}))
""".replace("PEAK", PEAK)


@needs_linux
@pytest.mark.slow
def test_five_thousand_changed_configs_take_little_and_touch_nothing():
    code = MANY.replace("ROOT", repr(str(ROOT)))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    # All that a config may ask for has been imported and read by then: nothing is left to open, and nothing to run.
    assert found["done"] == []
    assert found["slowest"] < SECONDS
    assert found["kilobytes"] < MEGABYTES * 1024


@pytest.mark.slow
def test_what_is_right_after_changes_can_be_built():
    right = [text for text in CORPUS if not has_errors(losskit.validate(text=text))]
    random_ = random.Random(21)
    built = 0
    while built < 400:
        text = mutated(random_, right)
        # A layer for 2^31 features has its rules fulfilled, and fits into no memory.
        if text not in right and not has_errors(losskit.validate(text=text)) and not re.search(r"\d{6}|e\+?\d", text):
            losskit.build(text=text)
            built += 1


# Files and folders


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    code = main(["validate", "--output-format", "concise", *arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, [line.split(":")[0] for line in out.splitlines()], err


def test_in_a_folder_only_its_own_files_are_read(capsys, folder):
    (folder / "outside").mkdir()
    (folder / "outside/bad.yaml").write_text(WRONG)
    inside = folder / "inside"
    (inside / "folder.yaml").mkdir(parents=True)
    (inside / "folder.yaml/bad.yaml").write_text(WRONG)
    (inside / "right.yaml").write_text(RIGHT)
    (inside / "empty.yaml").write_text("")
    for name, target in {
        "same.yaml": "right.yaml",
        "out.yaml": "../outside/bad.yaml",
        "out": "../outside",
        "loop": ".",
        "loop.yaml": "loop.yaml",
        "round.yaml": "round2.yaml",
        "round2.yaml": "round.yaml",
        "dangling.yaml": "nowhere",
        "passwords.json": "/etc/passwd",
        "zero.yaml": "/dev/zero",
    }.items():
        (inside / name).symlink_to(target)
    os.mkfifo(inside / "pipe.yaml")
    code, files, err = run(capsys, "inside")
    assert (code, files) == (EXIT_FINDINGS, ["inside/folder.yaml/bad.yaml"])
    assert err == "3 files checked, 1 error in 1 file\n"
    # Who names a link to a folder means what is in there.
    assert run(capsys, "inside/out")[1] == ["inside/out/bad.yaml"]


def test_patterns_meet_no_pipes_and_go_through_no_links(capsys, folder):
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/bad.yaml").write_text(WRONG)
    (folder / "a/.hidden.yaml").write_text(WRONG)
    for name in ("loop1", "loop2", "b/loop3"):
        (folder / "a" / name).symlink_to(folder / "a")
    os.mkfifo(folder / "a/pipe.yaml")
    (folder / "a/zero.yaml").symlink_to("/dev/zero")
    for pattern in (
        "a/**/*.yaml",
        "**/*.yaml",
        "**/b/*",
        "*/*/bad.yaml",
        "a/**",
        f"{folder}/a/*/b*.yaml",
        "a/**/**/b[a]d.yaml",
    ):
        started = time.process_time()
        code, files, _ = run(capsys, pattern)
        assert code == EXIT_FINDINGS
        assert "a/b/bad.yaml" in files
        # A part of a pattern other than `**` names links too, once each.
        assert len(set(files)) == len(files) <= 4
        assert time.process_time() - started < SECONDS
    assert run(capsys, "a/.*.yaml")[1] == ["a/.hidden.yaml"]
    assert run(capsys, "a/p*.yaml")[0] == EXIT_CANNOT_RUN


NAMES = [
    "a[1].yaml", "%s.yaml", "--fix.yaml", "new\nline.yaml", "tab\t.yaml", "escape\x1b[31m.yaml", "colon:,.yaml",
    "wide 値😀.yaml", os.fsdecode(b"bytes\xff\xfe.yaml"), "right\u202eleft.yaml", "&<>.yaml", "~.yaml", "$HOME.yaml",
]  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_names_of_files_may_be_anything(name, folder):
    (folder / "in").mkdir()
    for file in NAMES:
        (folder / "in" / file).write_text(WRONG)
    for encoding in ("utf-8", "ascii"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
        result = losskit_("validate", "-v", "--output-format", name, "in", env=environment)
        assert result.returncode == EXIT_FINDINGS
        assert b"Traceback" not in result.stderr
        assert b"\x1b" not in result.stdout + result.stderr
        text = result.stdout.decode(encoding)
        if name in ("json", "gitlab", "sarif"):
            assert json.loads(text)
        elif name == "junit":
            assert len(list(ET.fromstring(text).iter("testcase"))) == len(NAMES)
        elif name in ("concise", "github"):
            assert len(text.splitlines()) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_can_be_named(name, capsys, folder):
    (folder / name).write_text(WRONG)
    code, _, err = run(capsys, "--", name)
    assert (code, err) == (EXIT_FINDINGS, "1 file checked, 1 error in 1 file\n")
    assert run(capsys, "--fix", "--", name)[0] == EXIT_OK
    assert (folder / name).read_text() == RIGHT


def test_a_huge_file_is_refused_unread(capsys, folder):
    with open("huge.yaml", "wb") as file:
        file.truncate(5 << 30)  # takes no room
    started = time.process_time()
    assert run(capsys, "huge.yaml")[:2] == (EXIT_FINDINGS, ["huge.yaml"])
    assert run(capsys, "/dev/zero")[:2] == (EXIT_FINDINGS, ["/dev/zero"])
    assert losskit.validate("huge.yaml")[0].code == "LK005"
    assert losskit.validate("/dev/zero")[0].code == "LK005"
    assert time.process_time() - started < SECONDS


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_what_must_not_be_read_is_told(capsys, folder):
    (folder / "right.yaml").write_text(RIGHT)
    (folder / "closed.yaml").write_text(RIGHT)
    (folder / "closed").mkdir()
    for name in ("closed", "closed.yaml"):
        (folder / name).chmod(0)
    try:
        code, files, err = run(capsys, ".")
    finally:
        (folder / "closed").chmod(0o700)
    assert (code, files) == (EXIT_CANNOT_RUN, ["closed.yaml"])
    assert "cannot look into 'closed/'" in err


def test_what_cannot_be_read_is_told(capsys, folder, monkeypatch):
    (folder / "right.yaml").write_text(RIGHT)
    (folder / "gone.yaml").write_text(WRONG)
    (folder / "closed.yaml").write_text(WRONG)

    def open_(path, *arguments):
        # As when a file goes away, or is closed to us, after the folder was listed.
        if path == "gone.yaml":
            raise FileNotFoundError(path)
        if path == "closed.yaml":
            raise PermissionError(13, "Permission denied")
        return open(path, *arguments)

    monkeypatch.setattr("losskit.cli.checking.open", open_, raising=False)
    code, files, err = run(capsys, ".")
    assert (code, files) == (EXIT_CANNOT_RUN, ["closed.yaml"])
    assert "2 files checked" in err


@pytest.mark.slow
def test_a_hundred_thousand_other_files_are_passed_by(folder):
    (folder / "many").mkdir()
    for index in range(100_000):
        os.close(os.open(f"many/{index}.txt", os.O_CREAT))
    (folder / "many/right.yaml").write_text(RIGHT)
    result = subprocess.run(
        ["sh", "-c", '"$@"', "sh", sys.executable, "-c", TIMED, "validate", "many"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    code, seconds, kilobytes = json.loads(result.stderr.splitlines()[-1])
    assert code == EXIT_OK
    assert seconds < SECONDS
    assert kilobytes < 60 * 1024


# Ends from outside


@pytest.fixture
def many(folder, monkeypatch):
    """So many files that other processes check them, and take a while."""
    text = "losses:\n" + "- {type: huber, detla: 1}\n" * 300
    for index in range(1200):
        (folder / f"{index}.yaml").write_text(text)
    return folder


# Where the tests run in the background of a shell, Ctrl-C is ignored.
INTERRUPTIBLE = """
import signal, sys
from losskit.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""


def started():
    """The command in a group of its own, when other processes have begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "validate", ".", "--output-format", "concise"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 20
    while not (workers := children(process.pid)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    time.sleep(0.3)
    return process, workers


def children(pid):
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def all_ended(pids, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(_is_alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


needs_processors = pytest.mark.skipif(usable_processors() < 2, reason="one processor checks all by itself")


@needs_linux
@needs_processors
@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [
        (signal.SIGINT, True, 130),  # Ctrl-C in a terminal
        (signal.SIGINT, False, 130),
        (signal.SIGTERM, False, -signal.SIGTERM),
        (signal.SIGKILL, False, -signal.SIGKILL),
    ],
)
def test_nothing_is_left_of_a_command_that_is_ended(many, number, to_group, code):
    process, workers = started()
    begun = time.monotonic()
    if to_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - begun < SECONDS
    assert process.returncode == code
    assert "Traceback" not in err
    assert all_ended(workers)


@needs_linux
@needs_processors
def test_a_process_that_is_killed_is_told(many):
    process, workers = started()
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=20)
    assert process.returncode == EXIT_CANNOT_RUN
    assert "a process that checked files was ended from outside" in err
    assert "Traceback" not in err
    assert all_ended(workers)


@pytest.mark.parametrize("name", FORMATS)
def test_a_reader_that_has_had_enough_ends_every_format(name, folder):
    (folder / "c.yaml").write_text("losses:\n" + "- hubr\n" * 1000)
    process = subprocess.Popen(
        [sys.executable, "-m", "losskit", "validate", "c.yaml", "--output-format", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(20) == EXIT_BROKEN_PIPE
    assert b"Traceback" not in err
    assert b"Broken" not in err
