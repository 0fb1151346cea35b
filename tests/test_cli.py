"""The command line as a user sees it: what it prints, where, and with which exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from losskit.cli import main
from losskit.registry import registry
from losskit.schema import catalogue

GOOD = "output_features:\n  - {name: price, type: number, loss: huber}\n"
BAD = "output_features:\n  - name: price\n    type: number\n    loss: {type: huber, detla: 0.5, weight: 2.0}\n"
WARNED = "output_features:\n  - {name: price, type: number, loss: {type: huber, delta: 1e-3}}\n"
OTHER = "services:\n  web: {image: nginx}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "LOSSKIT_OUTPUT_FORMAT"):
        monkeypatch.delenv(variable, raising=False)
    for name, text in (
        ("configs/good.yaml", GOOD),
        ("configs/deep/bad.yml", BAD),
        ("configs/deep/warned.yaml", WARNED),
        ("configs/.hidden/bad.yaml", BAD),
        ("configs/readme.txt", BAD),
        ("docker-compose.yml", OTHER),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_full_output_shows_the_line_the_place_and_the_cure(capsys):
    code, out, err = run(capsys, "validate", "configs/deep/bad.yml")
    assert code == 1
    assert out == (
        "error[LK201]: `huber` has no setting `detla`\n"
        " --> configs/deep/bad.yml:4:25\n"
        "  |\n"
        "3 |     type: number\n"
        "4 |     loss: {type: huber, detla: 0.5, weight: 2.0}\n"
        "  |                         ^^^^^ did you mean `delta`?\n"
        "  = help: settings of `huber`: delta, reduction, weight\n\n"
    )
    assert err == "1 file checked, 1 error in 1 file\n"


def test_concise_output_is_a_line_per_problem(capsys):
    code, out, _ = run(capsys, "validate", "configs", "--output-format", "concise")
    assert code == 1
    assert out.splitlines() == [
        "configs/deep/bad.yml:4:25: error[LK201] `huber` has no setting `detla`, did you mean `delta`?",
        "configs/deep/warned.yaml:2:60: warning[LK302] `1e-3` is a number here, but text for PyYAML's default reader",
    ]


def test_output_format_may_come_from_the_environment(capsys, monkeypatch):
    monkeypatch.setenv("LOSSKIT_OUTPUT_FORMAT", "concise")
    assert run(capsys, "validate", "configs/deep/bad.yml")[1].startswith("configs/deep/bad.yml:4:25: ")
    monkeypatch.setenv("LOSSKIT_OUTPUT_FORMAT", "fancy")
    code, _, err = run(capsys, "validate", "configs")
    assert (code, "LOSSKIT_OUTPUT_FORMAT is 'fancy'" in err) == (2, True)


def test_folders_are_searched_and_files_without_losses_left_out(capsys):
    code, _, err = run(capsys, "validate")
    assert (code, err) == (1, "3 files checked, 1 error and 1 warning in 2 files\n")
    code, _, err = run(capsys, "validate", "configs/**/*.yaml", "configs/good.yaml")
    assert (code, err) == (0, "2 files checked, 1 warning in 1 file\n")
    code, _, err = run(capsys, "validate", "configs", "--exclude", "deep")
    assert (code, err) == (0, "1 file checked, no problems\n")
    code, _, err = run(capsys, "validate", "configs", "--exclude", "configs/deep/*.yml")
    assert (code, err) == (0, "2 files checked, 1 warning in 1 file\n")


def test_files_of_others_in_a_folder_are_left_out(capsys, folder):
    (folder / "others").mkdir()
    for name, text in {
        "empty.yaml": "",
        "several.yaml": "a: 1\n---\nb: 2\n",
        "tags.yaml": "Resource: !Ref Name\n",
        "template.yaml": "a: {{ .Values.x }}\n",
        "history.json": '{"losses": [0.1, 0.2]}',
        "inputs.yaml": "input_features: [{name: x, type: number}]\n",
    }.items():
        (folder / "others" / name).write_text(text)
    (folder / "others" / "latin.yaml").write_bytes("größe: 1".encode("latin-1"))
    (folder / "others" / "broken_link.yaml").symlink_to("nowhere.yaml")
    assert run(capsys, "validate", "others")[0] == 2, "nothing to check"
    (folder / "others" / "good.yaml").write_text(GOOD)
    summary = "1 file checked, no problems\n1 file could not be read, and left out (-v names them)\n"
    assert run(capsys, "validate", "others") == (0, "", summary)
    (folder / "others" / "ours.yaml").write_text(GOOD + "\tbroken")
    assert run(capsys, "validate", "others")[0] == 1
    assert run(capsys, "validate", "others", "--at", "m.losses", "--allow-empty")[0] == 1


def test_what_is_named_is_excluded_only_by_force(capsys):
    assert run(capsys, "validate", "configs/deep/bad.yml", "--exclude", "*.yml")[0] == 1
    code, _, err = run(capsys, "validate", "configs/deep/bad.yml", "--exclude", "*.yml", "--force-exclude")
    assert (code, "nothing to check" in err) == (2, True)


def test_terminals_that_lack_a_character(folder):
    (folder / "wide.yaml").write_text('output_features: [{name: "値", type: number, loss: hubr}]\n')
    result = losskit("validate", "wide.yaml", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 1
    assert b"\\u5024" in result.stdout


def test_a_plugin_that_exits_is_told(capsys, folder):
    (folder / "exits.py").write_text("import sys; sys.exit(7)")
    code, _, err = run(capsys, "list", "--plugin", "exits")
    assert (code, "the plugin 'exits' failed: SystemExit" in err) == (2, True)


def test_a_named_file_without_losses_is_an_error(capsys):
    code, out, _ = run(capsys, "validate", "docker-compose.yml")
    assert (code, "neither `output_features` nor `losses`" in out) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml"], "the path 'missing.yaml' does not exist"),
        (["missing*.yaml"], "matches nothing"),
        (["empty"], "nothing to check"),
        (["configs", "--exclude", "*"], "nothing to check"),
        (["configs", "--plugin", "no_such_module"], "the plugin 'no_such_module' failed: ModuleNotFoundError"),
    ],
)
def test_what_cannot_run_exits_with_2(capsys, folder, arguments, message):
    (folder / "empty").mkdir()
    code, out, err = run(capsys, "validate", *arguments)
    assert code == 2
    assert message in err
    assert out == ""


def test_bad_options_exit_with_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["validate", "--no-such-option"])
    assert exit_.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_text_that_is_not_utf_8_exits_with_2(capsys, folder):
    (folder / "latin.yaml").write_bytes("größe: 1\n".encode("latin-1"))
    code, out, _ = run(capsys, "validate", "latin.yaml")
    assert code == 2
    assert "LK008" in out


def test_exit_codes_can_be_chosen(capsys):
    assert run(capsys, "validate", "configs/deep/warned.yaml")[0] == 0
    assert run(capsys, "validate", "configs/deep/warned.yaml", "--strict")[0] == 1
    assert run(capsys, "validate", "configs", "--exit-zero")[0] == 0
    assert run(capsys, "validate", "configs", "--exclude", "*", "--allow-empty")[0] == 0


def test_quiet(capsys):
    code, out, err = run(capsys, "validate", "configs/deep/bad.yml", "-q")
    assert (code, bool(out), err) == (1, True, "")
    assert run(capsys, "validate", "configs/deep/bad.yml", "-qq") == (1, "", "")


def test_losses_may_stand_deeper(capsys, folder):
    (folder / "mmf.yaml").write_text("model_config:\n  bert:\n    losses: [hubr]\n")
    code, out, _ = run(capsys, "validate", "mmf.yaml", "--at", "model_config.bert.losses", "--output-format", "concise")
    assert code == 1
    assert out.startswith("mmf.yaml:3:14: error[LK103]")


def test_colour_follows_the_conventions(capsys, monkeypatch):
    assert "\x1b[" not in run(capsys, "validate", "configs")[1]
    assert "\x1b[" in run(capsys, "validate", "configs", "--color", "always")[1]
    monkeypatch.setenv("CLICOLOR_FORCE", "")
    assert "\x1b[" not in run(capsys, "validate", "configs")[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run(capsys, "validate", "configs")[1]
    assert "\x1b[" not in run(capsys, "validate", "configs", "--color", "never")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in run(capsys, "validate", "configs")[1]


def test_carets_stand_under_wide_characters_and_tabs(capsys, folder):
    (folder / "wide.yaml").write_text('output_features: [{name: "値", type: number, loss: hubr}]\n')
    lines = run(capsys, "validate", "wide.yaml")[1].splitlines()
    assert lines[4].index("^") == lines[3].index("hubr") + 1


def test_long_lines_are_cut_around_the_place(capsys, folder):
    (folder / "long.yaml").write_text(f"output_features: [{{name: {'x' * 300}, type: number, loss: hubr}}]\n")
    out = run(capsys, "validate", "long.yaml")[1]
    assert "^^^^" in out
    assert max(len(line) for line in out.splitlines() if "help:" not in line) < 140


def test_losses_of_a_plugin_are_known(capsys, folder, losses):
    (folder / "my_plugin_losses.py").write_text(
        "from losskit import register_loss\n"
        "@register_loss('plugged', ['number'])\n"
        "def plugged(predictions, targets, *, scale: float = 1.0):\n"
        "    '''A loss of our own.'''\n"
        "    return scale * (predictions - targets).abs().mean()\n"
    )
    (folder / "p.yaml").write_text("output_features: [{name: p, type: number, loss: plugged}]\n")
    assert run(capsys, "validate", "p.yaml")[0] == 1
    sys.modules.pop("my_plugin_losses", None)
    assert run(capsys, "validate", "p.yaml", "--plugin", "my_plugin_losses")[0] == 0
    assert "A loss of our own" in run(capsys, "show", "plugged")[1]
    schema = json.loads(run(capsys, "schema")[1])
    assert "loss_plugged" in schema["definitions"]


def losskit(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "losskit", *arguments], capture_output=True, check=False, cwd=os.getcwd(), **options
    )


def test_standard_input(folder):
    result = losskit("validate", "-", "--stdin-filename", "x.yaml", "--output-format", "concise", input=BAD.encode())
    assert result.returncode == 1
    assert result.stdout.startswith(b"x.yaml:4:25: error[LK201]")


def test_validating_imports_no_torch(folder):
    code = """
import sys
from losskit.cli import main
assert main(["validate", "configs/good.yaml"]) == 0
assert not {"jsonschema", "marshmallow"} & set(sys.modules), "a right config needs neither"
assert main(["validate", "configs"]) == 1
assert main(["list"]) == main(["show", "huber"]) == main(["schema", "-o", "s.json"]) == 0
assert not {"torch", "numpy"} & set(sys.modules), "torch was imported"
main(["validate", "configs/good.yaml"])
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_reader_that_has_had_enough_is_no_error(folder):
    (folder / "many.yaml").write_text("losses:\n" + "- hubr\n" * 3000)
    command = f"{sys.executable} -m losskit validate many.yaml | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert result.stdout.startswith("error[LK103]")
    assert "Traceback" not in result.stderr
    assert "Broken" not in result.stderr
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, check=False)
    assert result.returncode == 141


def test_a_fault_of_ours_exits_with_3(capsys, monkeypatch):
    monkeypatch.setattr("losskit.cli.commands.list.run", lambda options: 1 / 0)
    code, _, err = run(capsys, "list")
    assert code == 3
    assert "ZeroDivisionError" in err
    assert "please report it" in err


def test_list(capsys, monkeypatch):
    _, out, _ = run(capsys, "list")
    assert all(f"\n{name} " in f"\n{out}" for name in registry.names())
    _, out, _ = run(capsys, "list", "--feature", "number", "--format", "json")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == registry.names("number")
    assert rows[0].keys() == {"name", "aliases", "feature_types", "summary"}
    monkeypatch.setattr(type(registry), "entries", lambda _: [])
    assert run(capsys, "list", "--feature", "anomaly")[1] == "no losses for anomaly\n"


def test_show(capsys, losses):
    code, out, _ = run(capsys, "show", "mse")
    assert code == 0
    assert out.startswith("mse is another name for mean_squared_error\n")
    assert "reduction: mean or sum; default mean" in out
    assert (
        json.loads(run(capsys, "show", "huber", "--format", "json")[1])["schema"]["properties"]["delta"]["default"]
        == 1.0
    )
    # What a weight that changes may say, without what each key does, which is the same for all losses.
    lines = run(capsys, "show", "huber")[1].splitlines()
    start = lines.index("  weight: a number at least 0 or a schedule; default 1.0")
    assert "        ratio: a number greater than 0 and at most 1; default 0.5" in lines[start : start + 10]
    code, _, err = run(capsys, "show", "hubr")
    assert (code, err) == (2, "losskit: no loss named 'hubr'; did you mean huber?\n")
    from torch import nn

    from losskit import register_loss

    register_loss("torch_ce", "category")(nn.CrossEntropyLoss)
    assert "uses the name itself:\nweight, size_average, reduce" in run(capsys, "show", "torch_ce")[1]


@pytest.mark.parametrize("name", registry.names())
def test_shown_yaml_is_a_valid_config(capsys, folder, name):
    (folder / "shown.yaml").write_text(run(capsys, "show", name, "--format", "yaml")[1])
    assert run(capsys, "validate", "shown.yaml", "--strict")[:2] == (0, "")


@pytest.mark.parametrize("columns", [80, 70])
def test_what_is_shown_fits_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    # The one with the longest descriptions, the one with the longest lists, and one with optional roles.
    for arguments in (["list"], ["show", "focal"], ["show", "softmax_cross_entropy"], ["show", "drocc"]):
        out = run(capsys, *arguments)[1]
        assert max(map(len, out.splitlines())) <= columns
    # Files are for editors, whatever the terminal is.
    assert max(map(len, run(capsys, "show", "focal", "--format", "yaml")[1].splitlines())) <= 80


def test_schema(capsys, folder):
    assert run(capsys, "schema")[1] == catalogue.CONFIG_SCHEMA.read_text("utf-8")
    assert run(capsys, "schema", "--check")[0] == 2
    assert run(capsys, "schema", "-o", "losskit.schema.json") == (0, "", "")
    assert run(capsys, "schema", "--check")[0] == 0
    Path("losskit.schema.json").write_text("{}")
    code, _, err = run(capsys, "schema", "--check")
    assert (code, err) == (1, "losskit.schema.json is out of date: run `losskit schema -o losskit.schema.json`\n")
    assert "2020-12" in json.loads(run(capsys, "schema", "--draft", "2020-12")[1])["$schema"]
    assert run(capsys, "schema", "-o", "no/such/folder.json")[0] == 2


def test_version_and_help(capsys):
    for arguments, text in (
        (["--version"], "losskit 0."),
        (["--help"], "validate"),
        (["validate", "--help"], "--strict"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 0
        assert text in capsys.readouterr().out
