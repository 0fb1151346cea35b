"""The pages of the codes: complete, true, and printed by `losskit explain`."""

import json
import re

import pytest

import losskit
from losskit.cli import explaining, main
from losskit.cli.checking import Options, check
from losskit.config import MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_SCALAR
from losskit.diagnostics import CODES, ERROR

# What no YAML text can show, and why.
WITHOUT_EXAMPLES = {
    "LK005": "an example would be huge",
    "LK008": "text that is not UTF-8 is no text",
    "LK011": "it is about the file, not about its content",
    "LK301": "no built-in loss has a deprecated name",
    "LK401": "it is about an installed package",
    "LK501": "all that validates should train, so there is no built-in loss that does not",
}
EXAMPLE = re.compile(r"## (Wrong|Right)\n\n```yaml\n(.*?)```\n", re.DOTALL)


def run(capsys, *arguments):
    code = main(["explain", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    for variable in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def test_each_code_has_a_page_and_each_page_a_code():
    assert {path.name for path in explaining.FOLDER.iterdir()} == {f"{number}.md" for number in CODES}


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.number)
def test_examples_are_as_wrong_and_as_right_as_the_page_says(code):
    examples = EXAMPLE.findall(explaining.body(code))
    assert [kind for kind, _ in examples] == ([] if code.number in WITHOUT_EXAMPLES else ["Wrong", "Right"])
    for kind, text in examples:
        # As the command does it, for comments count there.
        report = check(text.encode(), "train.yaml", Options()).report
        found = [(d.code, d.severity) for d in report.diagnostics]
        assert found == ([(code.number, code.severity)] if kind == "Wrong" else [])


@pytest.mark.parametrize("code", CODES.values(), ids=lambda code: code.number)
def test_warnings_and_only_they_say_how_to_be_silenced(code):
    text = explaining.page(code)
    is_error = code.severity == ERROR
    assert ("## How to silence it" in text) == (not is_error)
    assert "## Other causes\n\n- " in text
    assert f"This is {'an error' if is_error else 'a warning'}." in text


def test_the_limits_are_those_of_the_reader():
    text = explaining.body(CODES["LK005"])
    assert MAX_BYTES == 1 << 20
    assert "- 1 MiB " in text
    for limit in (MAX_DEPTH, MAX_NODES, MAX_SCALAR):
        assert f"- {limit:,} " in text


@pytest.mark.parametrize("asked", ["LK201", "lk201", "201", "unknown-setting", "Unknown_Setting"])
def test_a_code_may_be_written_in_several_ways(capsys, asked):
    code, out, err = run(capsys, asked)
    assert (code, err) == (0, "")
    assert out.startswith("error[LK201] unknown-setting\nthe loss has no such setting\n\nThe loss has no setting of ")


def test_text_fits_the_terminal_and_keeps_examples_as_they_are(capsys, monkeypatch):
    for number in CODES:
        out = run(capsys, number)[1]
        assert max(map(len, out.splitlines())) <= 80, number
    assert "Wrong:\n\n    output_features:\n      - name: price\n" in run(capsys, "LK302")[1]
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, run(capsys, "LK103")[1].split("\n\n")[1].splitlines())) <= 40


def test_json_and_markdown(capsys):
    fields = json.loads(run(capsys, "LK302", "--format", "json")[1])
    assert fields.keys() == {"code", "name", "severity", "summary", "explanation", "url"}
    assert (fields["code"], fields["severity"]) == ("LK302", "warning")
    assert fields["url"] == losskit.Diagnostic("LK302", "").url
    assert "# losskit: ignore[LK302]" in fields["explanation"]
    assert run(capsys, "LK302", "--format", "markdown")[1] == explaining.page(CODES["LK302"])


def test_all_codes_are_listed_without_one(capsys):
    assert run(capsys)[1] == run(capsys, "--all")[1]
    lines = run(capsys)[1].splitlines()
    assert [line[:5] for line in lines if line.startswith("LK")] == list(CODES)
    assert max(map(len, lines)) <= 80
    assert [row["code"] for row in json.loads(run(capsys, "--format", "json")[1])] == list(CODES)
    assert run(capsys, "--format", "markdown")[1].count("\n| [LK") == len(CODES)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("LK21", "no code 'LK21', did you mean LK201?"),
        ("unknow-seting", "no code 'unknow-seting', did you mean unknown-setting?"),
        ("zzz", "no code 'zzz'; `losskit explain` lists all codes"),
    ],
)
def test_an_unknown_code_is_told_with_the_nearest(capsys, asked, message):
    assert run(capsys, asked) == (2, "", f"losskit: {message}\n")


def test_one_code_or_all_of_them(capsys):
    assert run(capsys, "LK201", "--all")[0] == 2


def test_colour_when_it_is_asked_for(capsys):
    assert "\x1b[" not in run(capsys, "LK201")[1]
    assert "\x1b[1;31merror[LK201]\x1b[0m" in run(capsys, "LK201", "--color", "always")[1]
