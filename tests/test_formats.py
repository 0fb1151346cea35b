"""The reports of `losskit validate`: what stands in each, and that its readers can read it whatever is in it."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET

import jsonschema
import pytest
import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as st

import losskit
from losskit.cli import main
from losskit.cli.colour import Colour
from losskit.cli.formats import FORMATS, FileReport, Summary, reporter
from losskit.cli.formats.places import fingerprint, repository_path, uri
from losskit.config import read
from losskit.diagnostics import CODES, ERROR, WARNING, Diagnostic, Edit, Position, Span
from losskit.validation import Validation

HERE = Path(__file__).parent
INVALID = sorted((HERE / "configs" / "invalid").iterdir())
SCHEMAS = HERE / "report_schemas"
JUNIT = xmlschema.XMLSchema(SCHEMAS / "jenkins-junit.xsd")
SARIF = jsonschema.Draft4Validator(json.loads((SCHEMAS / "sarif-schema-2.1.0.json").read_text("utf-8")))
GITLAB, REPORT = (
    jsonschema.Draft202012Validator(json.loads((SCHEMAS / name).read_text("utf-8")))
    for name in ("gitlab-code-quality.json", "report.json")
)
FOR_PROGRAMS = ("json", "github", "gitlab", "junit", "sarif")
UNKNOWN_SETTING = "output_features:\n  - name: price\n    type: number\n    loss: {type: huber, detla: 0.5}\n"
WARNED = "output_features:\n  - {name: price, type: number, loss: {type: huber, delta: 1e-3}}\n"
PLUGIN = Diagnostic("LK401", 'the plugin "x" failed: ValueError: ]]>\r\n::error::\x1b[31m %0A', severity=WARNING)
# What has a meaning in one of the formats: an escape, a separator, a scheme, the parent folder, bytes that are no text.
STRANGE_NAMES = [
    "a b.yaml",
    "50%.yaml",
    "a:b,c.yaml",
    "größe 値 😀.yaml",
    "a\nb.yaml",
    "a\udcff.yaml",
    '"<&>].yaml',
    "C:x",
]


@pytest.fixture(autouse=True)
def no_ci(monkeypatch):
    """The tests may run in a CI system, whose variables the formats read."""
    for variable in ("GITHUB_WORKSPACE", "CI_PROJECT_DIR"):
        monkeypatch.delenv(variable, raising=False)


def checked(text, name="train.yaml"):
    """The report of a config."""
    document = read(text, name)
    found = Validation(document).diagnostics
    return FileReport(name, found, document.lines if found else [])


def written(format, *reports):
    """What a format writes for these files."""
    out = io.StringIO()
    writer = reporter(format, out, Colour("never", out))
    writer.start()
    for report in reports:
        writer.file(report)
    found = [d.severity for report in reports for d in report.diagnostics]
    wrong = sum(bool(report.diagnostics) for report in reports)
    writer.finish(Summary(len(reports), wrong, found.count(ERROR), found.count(WARNING)))
    return out.getvalue()


def github_command(line):
    """A workflow command as the runner of GitHub Actions takes it apart: its name, its properties, its message."""
    head, message = re.fullmatch("::(.+?)::(.*)", line).groups()
    name, properties = head.split(" ", 1)
    pairs = dict(part.split("=", 1) for part in properties.split(","))
    return name, {key: unescaped(value, "%0D %0A %3A %2C %25") for key, value in pairs.items()}, unescaped(message)


def unescaped(text, escapes="%0D %0A %25"):
    for escape in escapes.split():
        text = text.replace(escape, chr(int(escape[1:], 16)))
    return text


def parsed(format, text):
    """The report as its reader would read it, checked against its schema; for `github`, a list of commands."""
    if format == "github":
        assert "\r" not in text
        return [github_command(line) for line in text.split("\n")[:-1]]
    assert text.isascii(), "no encoding of a stream may spoil it"
    if format == "junit":
        suites = ET.fromstring(text)
        JUNIT.validate(suites)
        return suites
    report = json.loads(text)
    json.dumps(report, ensure_ascii=False).encode("utf-8")  # strict readers refuse lone surrogates
    {"json": REPORT, "gitlab": GITLAB, "sarif": SARIF}[format].validate(report)
    return report


def sarif_results(text):
    return parsed("sarif", text)["runs"][0]["results"]


# All formats


@pytest.mark.parametrize("format", FOR_PROGRAMS)
def test_all_invalid_configs_make_a_valid_report(format):
    reports = [checked(path.read_bytes(), f"configs/{path.name}") for path in INVALID]
    report = parsed(format, written(format, *reports))
    count = sum(len(r.diagnostics) for r in reports)
    if format == "junit":
        assert len(report.findall("testsuite/testcase/failure")) == len(INVALID)
    else:
        rows = {"json": lambda: report["diagnostics"], "sarif": lambda: report["runs"][0]["results"]}
        assert len(rows.get(format, lambda: report)()) == count > 30


@pytest.mark.parametrize("format", FOR_PROGRAMS)
def test_a_report_without_problems_is_valid(format):
    for reports in ((), (FileReport("good.yaml", [], []),)):
        report = parsed(format, written(format, *reports))
        if format in ("github", "gitlab"):
            assert report == []
    if format == "json":
        assert report["summary"] == {"files": 1, "wrong_files": 0, "errors": 0, "warnings": 0}


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"junit"}))
def test_a_report_is_written_file_by_file(format):
    out = io.StringIO()
    writer = reporter(format, out, Colour("never", out))
    writer.start()
    for _ in range(2):
        before = len(out.getvalue())
        writer.file(checked(UNKNOWN_SETTING))
        assert "LK201" in out.getvalue()[before:]


@pytest.mark.parametrize("name", STRANGE_NAMES)
@pytest.mark.parametrize("format", FORMATS)
def test_files_with_strange_names(format, name):
    text = written(format, checked(UNKNOWN_SETTING, name))
    shown = name.replace("\udcff", "\ufffd")
    if format in ("full", "concise"):
        place = name.encode("unicode_escape").decode() if "\n" in name or "\udcff" in name else name
        assert f"{place}:4:25" in text
        return
    report = parsed(format, text)
    if format == "json":
        assert report["diagnostics"][0]["filename"] == shown
    elif format == "github":
        assert [properties["file"] for _, properties, _ in report] == [shown]
    elif format == "gitlab":
        assert report[0]["location"]["path"] == shown
    elif format == "junit":
        assert report.find("testsuite/testcase").get("name") == shown
    else:
        location = report["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
        assert unquote_to_bytes(location["uri"]) == name.encode("utf-8", "surrogateescape")
        assert re.fullmatch("[A-Za-z0-9_.~/%-]+", location["uri"])


@pytest.mark.parametrize("format", FORMATS)
def test_problems_without_a_place(format):
    text = written(format, FileReport("train.yaml", [PLUGIN], []))
    if format not in FOR_PROGRAMS:
        assert text.count("\n") == {"full": 3, "concise": 1}[format]
        assert "\x1b" not in text
        return
    report = parsed(format, text)
    if format == "json":
        row = report["diagnostics"][0]
        assert (row["message"], row["location"], row["end_location"]) == (PLUGIN.message, None, None)
    elif format == "github":
        properties = {"title": "losskit LK401 (plugin)", "file": "train.yaml"}
        assert report == [("warning", properties, f"{PLUGIN.message}\n--> train.yaml")]
    elif format == "gitlab":
        assert report[0]["location"] == {"path": "train.yaml", "lines": {"begin": 1, "end": 1}}
    elif format == "sarif":
        (location,) = report["runs"][0]["results"][0]["locations"]
        assert location == {"physicalLocation": {"artifactLocation": {"uri": "train.yaml", "uriBaseId": "%SRCROOT%"}}}


any_text = st.text(st.characters(exclude_categories=()), max_size=30)
positions = st.builds(Position, st.integers(1, 9), st.integers(1, 200))
diagnostics = st.builds(
    Diagnostic,
    st.sampled_from(sorted(CODES)),
    any_text.filter(bool),
    any_text,
    st.sampled_from([ERROR, WARNING]),
    position=st.none() | positions,
    end=st.none() | positions,
    file=st.none(),
    suggestion=st.none() | any_text,
    help=st.none() | any_text,
    edits=st.lists(st.builds(Edit, st.builds(Span, positions, positions), any_text), max_size=2).map(tuple),
)
file_reports = st.builds(
    FileReport, any_text.filter(bool), st.lists(diagnostics, max_size=3), st.lists(any_text, max_size=9)
)


@given(st.lists(file_reports, max_size=3))
@settings(deadline=None, max_examples=60)
def test_whatever_is_in_a_name_or_a_message_every_reader_can_read_it(reports):
    for format in FOR_PROGRAMS:
        report = parsed(format, written(format, *reports))
        if format == "github":
            problems = [(r, d) for r in reports for d in r.diagnostics]
            assert [command[0] for command in report] == [d.severity for _, d in problems]
            for (_, _, message), (_, problem) in zip(report, problems, strict=True):
                assert message.startswith(re.sub("[\ud800-\udfff]", "\ufffd", problem.text))
    for report in reports:
        concise = written("concise", report)
        assert concise.count("\n") == len(concise.splitlines()) == len(report.diagnostics)
        assert all(char.isprintable() or char in "\n\t" for char in written("full", report))


def test_every_format_is_reached_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(UNKNOWN_SETTING)
    for format in FOR_PROGRAMS:
        assert main(["validate", "--output-format", format]) == 1
        assert parsed(format, capsys.readouterr().out) is not None


def test_a_format_imports_only_what_it_needs():
    code = """
import sys
import losskit.cli.formats as formats, losskit.cli.colour
heavy = {"json", "hashlib", "xml.etree.ElementTree", "urllib.parse"} - set(sys.modules)
for name, needs in {"concise": set(), "full": set(), "github": set(), "json": {"json"}, "gitlab": {"json"},
                    "sarif": {"json"}, "junit": {"json", "xml.etree.ElementTree"}}.items():
    formats.reporter(name, sys.stdout, losskit.cli.colour.Colour("never", sys.stdout))
    assert heavy & set(sys.modules) <= needs, name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# JSON


def test_json_tells_all_that_is_known():
    assert parsed("json", written("json", checked(UNKNOWN_SETTING))) == {
        "version": 1,
        "tool": {"name": "losskit", "version": losskit.__version__},
        "summary": {"files": 1, "wrong_files": 1, "errors": 1, "warnings": 0},
        "diagnostics": [
            {
                "code": "LK201",
                "name": "unknown-setting",
                "severity": "error",
                "message": "`huber` has no setting `detla`",
                "path": "output_features[0].loss.detla",
                "filename": "train.yaml",
                "location": {"line": 4, "column": 25},
                "end_location": {"line": 4, "column": 30},
                "help": "settings of `huber`: delta, reduction, weight",
                "suggestion": "delta",
                "url": "https://losskit.readthedocs.io/en/stable/codes/LK201.html",
                "fix": {
                    "edits": [
                        {
                            "location": {"line": 4, "column": 25},
                            "end_location": {"line": 4, "column": 30},
                            "text": "delta",
                        }
                    ]
                },
            }
        ],
    }
    many = checked("losses: [{type: focal, reduction: none}]")
    assert parsed("json", written("json", many))["diagnostics"][0]["fix"] is None


# GitHub


def test_github_commands():
    assert written("github", checked(UNKNOWN_SETTING, "configs/train.yaml"), checked(WARNED, "5%, a:b.yaml")) == (
        "::error title=losskit LK201 (unknown-setting),file=configs/train.yaml,line=4,col=25,endLine=4,endColumn=30::"
        "`huber` has no setting `detla`, did you mean `delta`?%0A--> configs/train.yaml:4:25%0A"
        "help: settings of `huber`: delta, reduction, weight\n"
        "::warning title=losskit LK302 (number-notation),file=5%25%2C a%3Ab.yaml,line=2,col=60,endLine=2,endColumn=64::"
        "`1e-3` is a number here, but text for PyYAML's default reader%0A--> 5%25, a:b.yaml:2:60%0A"
        "help: write 1.0e-3\n"
    )


def test_github_takes_columns_only_within_a_line():
    problem = Diagnostic("LK001", "a", position=Position(2, 5), end=Position(4, 1))
    ((_, properties, _),) = parsed("github", written("github", FileReport("a", [problem], [])))
    assert properties == {"title": "losskit LK001 (syntax)", "file": "a", "line": "2", "endLine": "4"}


def test_a_job_in_a_folder_of_the_repository_names_files_from_its_root(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    for variable in ("GITHUB_WORKSPACE", "CI_PROJECT_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
        assert repository_path("a.yaml") == "models/a.yaml"
        assert repository_path("../a.yaml") == "a.yaml"
        assert repository_path(f"{tmp_path}/a.yaml") == "a.yaml"
        assert repository_path("../..a.yaml") == "..a.yaml"
        assert repository_path("../../a.yaml") == "../../a.yaml"
        monkeypatch.delenv(variable)
    assert repository_path("./a.yaml") == "a.yaml", "GitLab finds no file at ./a.yaml"
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    ((_, properties, message),) = parsed("github", written("github", checked(UNKNOWN_SETTING)))
    assert properties["file"] == "models/train.yaml"
    assert "--> train.yaml:4:25" in message, "who reads the log knows the file by the name that was given"
    assert parsed("gitlab", written("gitlab", checked(UNKNOWN_SETTING)))[0]["location"]["path"] == "models/train.yaml"


# GitLab and fingerprints


def test_gitlab_report():
    assert parsed("gitlab", written("gitlab", checked(UNKNOWN_SETTING), checked(WARNED, "b.yaml"))) == [
        {
            "description": "`huber` has no setting `detla`, did you mean `delta`?",
            "check_name": "LK201 (unknown-setting)",
            "fingerprint": fingerprint(checked(UNKNOWN_SETTING).diagnostics[0], "train.yaml"),
            "severity": "major",
            "location": {"path": "train.yaml", "lines": {"begin": 4, "end": 4}},
        },
        {
            "description": "`1e-3` is a number here, but text for PyYAML's default reader",
            "check_name": "LK302 (number-notation)",
            "fingerprint": fingerprint(checked(WARNED).diagnostics[0], "b.yaml"),
            "severity": "minor",
            "location": {"path": "b.yaml", "lines": {"begin": 2, "end": 2}},
        },
    ]


def fingerprints(*reports):
    """Of all problems; GitLab's are those of SARIF."""
    found = [row["fingerprint"] for row in parsed("gitlab", written("gitlab", *reports))]
    assert found == [row["partialFingerprints"]["losskit/v1"] for row in sarif_results(written("sarif", *reports))]
    return found


def test_fingerprints_stay_when_lines_are_added_above():
    # Messages of these name other lines: that of a repeated key, and that of the feature with the same name.
    repeated = "output_features:\n  - {name: a, type: number, loss: hubr, loss: hubr}\n  - {name: a, type: number}\n"
    before, after = checked(repeated), checked(f"# one\n# two\n{repeated}")
    assert {"LK002", "LK106"} <= {d.code for d in before.diagnostics}
    assert [d.message for d in before.diagnostics] != [d.message for d in after.diagnostics]
    assert fingerprints(before) == fingerprints(after)


def test_fingerprints_tell_apart_what_differs():
    problem = checked(UNKNOWN_SETTING).diagnostics[0]
    others = [problem._replace(code="LK202"), problem._replace(path="losses[0]"), problem._replace(message="b")]
    assert len({fingerprint(p, "a") for p in (problem, *others)} | {fingerprint(problem, "b")}) == 5


def test_fingerprints_are_unique_in_a_report():
    # Two losses of a list without positions, and one file that is reported twice.
    problem = Diagnostic("LK103", "no loss named hubr")
    report = FileReport("a.yaml", [problem, problem, problem._replace(position=Position(3, 1))], [])
    found = fingerprints(report, report)
    assert len(set(found)) == 6
    assert found[:3] == fingerprints(report)


# JUnit


def test_junit_has_a_test_for_each_file():
    both = UNKNOWN_SETTING.replace("0.5", "0.5, delta: 1e-3") + "  - {name: b, type: number, loss: hubr}\n"
    suites = parsed(
        "junit",
        written("junit", checked(both), checked(WARNED, "warned.yaml"), FileReport("good.yaml", [], [])),
    )
    for element in (suites, suites.find("testsuite")):
        assert {name: element.get(name) for name in ("tests", "failures", "errors")} == {
            "tests": "3",
            "failures": "1",
            "errors": "0",
        }
    cases = suites.findall("testsuite/testcase")
    assert [case.get("name") for case in cases] == ["train.yaml", "warned.yaml", "good.yaml"]
    assert [[child.tag for child in case] for case in cases] == [["failure", "system-out"], ["system-out"], []]
    for element in suites.iter():
        if element.get("time"):
            assert 0 <= float(element.get("time")) < 60
    failure, warnings = cases[0]
    assert failure.get("type") == "LK201"
    assert failure.get("message") == "`huber` has no setting `detla`, did you mean `delta`? (and 1 more)"
    assert "LK201" in failure.text
    assert "LK103" in failure.text
    assert "LK302" not in failure.text
    assert "LK302" in warnings.text
    assert cases[1].find("system-out").text == "\n" + written("full", checked(WARNED, "warned.yaml"))[:-1]


def test_junit_replaces_what_xml_cannot_hold():
    # A null, a control character and a lone surrogate; the end of a CDATA section, quotes and tags.
    problem = Diagnostic("LK401", "\0 \x1b \ud800 ]]> \" ' <b> &amp;")
    suites = parsed("junit", written("junit", FileReport("<\x07>", [problem], [])))
    case = suites.find("testsuite/testcase")
    assert case.get("name") == "<\ufffd>"
    assert case.find("failure").get("message") == "\ufffd \ufffd \ufffd ]]> \" ' <b> &amp;"


# SARIF


def test_sarif_result():
    report = parsed("sarif", written("sarif", checked(UNKNOWN_SETTING, "configs/train.yaml")))
    (run,) = report["runs"]
    assert report["$schema"] == SARIF.schema["id"]
    assert (run["columnKind"], run["invocations"]) == ("unicodeCodePoints", [{"executionSuccessful": True}])
    driver = run["tool"]["driver"]
    assert (driver["name"], driver["semanticVersion"]) == ("losskit", losskit.__version__)
    assert run["results"] == [
        {
            "ruleId": "LK201",
            "ruleIndex": list(CODES).index("LK201"),
            "level": "error",
            "message": {
                "text": "`huber` has no setting `detla`, did you mean `delta`?\n"
                "help: settings of `huber`: delta, reduction, weight"
            },
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": "configs/train.yaml", "uriBaseId": "%SRCROOT%"},
                        "region": {"startLine": 4, "startColumn": 25, "endLine": 4, "endColumn": 30},
                    },
                    "logicalLocations": [{"fullyQualifiedName": "output_features[0].loss.detla"}],
                }
            ],
            "partialFingerprints": {
                "losskit/v1": fingerprint(checked(UNKNOWN_SETTING).diagnostics[0], "configs/train.yaml")
            },
            "fixes": [
                {
                    "description": {"text": "write `delta`"},
                    "artifactChanges": [
                        {
                            "artifactLocation": {"uri": "configs/train.yaml", "uriBaseId": "%SRCROOT%"},
                            "replacements": [
                                {
                                    "deletedRegion": {"startLine": 4, "startColumn": 25, "endLine": 4, "endColumn": 30},
                                    "insertedContent": {"text": "delta"},
                                }
                            ],
                        }
                    ],
                }
            ],
        }
    ]


def test_sarif_rules_are_all_codes_in_order():
    reports = [checked(path.read_bytes(), path.name) for path in INVALID]
    (run,) = parsed("sarif", written("sarif", *reports))["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(CODES)
    unknown = rules[list(CODES).index("LK201")]
    assert unknown["fullDescription"]["text"] == CODES["LK201"].summary
    assert unknown["helpUri"] == Diagnostic("LK201", "").url
    for result in run["results"]:
        rule = rules[result["ruleIndex"]]
        assert (rule["id"], rule["defaultConfiguration"]["level"]) == (result["ruleId"], result["level"])


def test_sarif_fixes():
    # An insertion deletes an empty region.
    edits = (Edit(Span(Position(2, 3), Position(2, 8)), "delta"), Edit(Span(Position(3, 1), Position(3, 1)), "x: 1\n"))
    problem = Diagnostic("LK201", "a", position=Position(2, 3), suggestion="delta", edits=edits)
    (result,) = sarif_results(written("sarif", FileReport("a b.yaml", [problem], [])))
    assert result["fixes"] == [
        {
            "description": {"text": "write `delta`"},
            "artifactChanges": [
                {
                    "artifactLocation": {"uri": "a%20b.yaml", "uriBaseId": "%SRCROOT%"},
                    "replacements": [
                        {
                            "deletedRegion": {"startLine": 2, "startColumn": 3, "endLine": 2, "endColumn": 8},
                            "insertedContent": {"text": "delta"},
                        },
                        {
                            "deletedRegion": {"startLine": 3, "startColumn": 1, "endLine": 3, "endColumn": 1},
                            "insertedContent": {"text": "x: 1\n"},
                        },
                    ],
                }
            ],
        }
    ]


def test_sarif_columns_count_code_points():
    # 😀 is one code point, two units of UTF-16 and four bytes.
    text = 'losses: ["😀", hubr]\n'
    region = sarif_results(written("sarif", checked(text)))[1]["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 1, "startColumn": 15, "endLine": 1, "endColumn": 19}


def test_a_uri_is_relative_only_within_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert uri("a/b.yaml") == ("a/b.yaml", True)
    assert uri("/etc/a b.yaml") == ("file:///etc/a%20b.yaml", False)
    assert uri("C:/b.yaml" if os.name == "nt" else "/C:/b.yaml") == ("file:///C:/b.yaml", False)
    assert uri("../b.yaml") == (tmp_path.parent.as_uri() + "/b.yaml", False)
    (result,) = sarif_results(written("sarif", checked(UNKNOWN_SETTING, "/etc/a.yaml")))
    assert result["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": "file:///etc/a.yaml"}


# Full


def frame(line, start, stop, *, before=None):
    """The frame of a problem at columns `start` to `stop` of a line."""
    lines = [line] if before is None else [before, line]
    problem = Diagnostic("LK001", "a", position=Position(len(lines), start), end=Position(len(lines), stop))
    return written("full", FileReport("a.yaml", [problem], lines)).splitlines()[3:-1]


def test_carets_stand_under_accents_that_are_characters_of_their_own():
    assert frame("e\u0301: x", 5, 6) == ["1 | e\u0301: x", "  |    ^"]


def test_lines_that_go_on_say_so():
    shown, carets = frame(f"{'a' * 200}: {'b' * 200}", 201, 202)
    assert (len(shown), shown[4], shown[-1]) == (124, "…", "…")
    assert shown[carets.index("^")] == ":"
    shown, carets = frame(f"x: {'b' * 200}", 1, 2)
    assert shown.startswith("1 | x: b")
    assert shown.endswith("b…")


def test_no_line_of_a_file_moves_the_terminal():
    # Text that is written from right to left would change what the frame seems to say.
    shown = "\n".join(frame("a\u202e: 1", 1, 2, before="b\u202e: \x1b[31m"))
    assert shown == "1 | b\ufffd: \ufffd[31m\n2 | a\ufffd: 1\n  | ^"


def test_a_suggestion_is_told_without_a_frame():
    text = written("full", FileReport("a.yaml", [Diagnostic("LK103", "no loss", suggestion="huber", help="h")], []))
    assert text == "error[LK103]: no loss\n --> a.yaml\n  = did you mean `huber`?\n  = help: h\n\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("choice", "environment", "stream", "is_on"),
    [
        ("auto", {}, Terminal(), True),
        ("auto", {}, io.StringIO(), False),
        ("auto", {"TERM": "dumb"}, Terminal(), False),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, Terminal(), False),
        ("auto", {"NO_COLOR": "", "FORCE_COLOR": "1"}, io.StringIO(), True),
        ("auto", {"CLICOLOR_FORCE": "1"}, io.StringIO(), True),
        ("auto", {"FORCE_COLOR": "0"}, io.StringIO(), False),
        ("always", {"NO_COLOR": "1"}, io.StringIO(), True),
        ("never", {"FORCE_COLOR": "1"}, Terminal(), False),
    ],
)
def test_when_colours_are_on(choice, environment, stream, is_on, monkeypatch):
    for variable in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TERM"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert Colour(choice, stream).is_on == is_on
