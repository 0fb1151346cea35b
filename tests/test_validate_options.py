"""The options of `losskit validate` beyond the simplest: what is shown, what is cured, where settings come from."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from losskit.cli import main
from losskit.cli.commands import validate as command
from losskit.cli.progress import Progress
from losskit.cli.spreading import ENOUGH_FILES

RIGHT = "output_features:\n  - {name: price, type: number, loss: huber}\n"
WRONG = "output_features:\n  - {name: p, type: number, loss: {type: huber, detla: 0.5}}\n"
# One error, one warning.
BOTH = """output_features:
  - {name: p, type: number, loss: {type: hubr, delta: 1}}
  - {name: q, type: number, loss: {type: huber, delta: 1e-3}}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for variable in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "LOSSKIT_OUTPUT_FORMAT", "GITHUB_ACTIONS"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "both.yaml").write_text(BOTH)
    return tmp_path


def run(capsys, *arguments):
    code = main(["validate", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def codes(capsys, *arguments):
    code, out, _ = run(capsys, *arguments, "--output-format", "json")
    return code, [d["code"] for d in json.loads(out)["diagnostics"]]


def losskit(*arguments, **options):
    return subprocess.run([sys.executable, "-m", "losskit", *arguments], capture_output=True, check=False, **options)


# Which codes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["LK103", "LK302"]),
        (["--select", "LK1"], ["LK103"]),
        (["--select", "LK1,LK302"], ["LK103", "LK302"]),
        (["--select", "LK1", "--select", "LK3"], ["LK103", "LK302"]),
        (["--ignore", "LK302"], ["LK103"]),
        (["--ignore", "lk3"], ["LK103"]),
        (["--ignore", "unknown-loss"], ["LK302"]),
        (["--ignore", "ALL"], []),
        # The longer beginning counts, whichever list it stands in.
        (["--select", "LK103", "--ignore", "LK1"], ["LK103"]),
        (["--select", "ALL", "--ignore", "LK1"], ["LK302"]),
        (["--select", "LK1", "--ignore", "LK103"], []),
        (["--select", "LK103", "--ignore", "LK103"], []),
    ],
)
def test_codes_can_be_selected_and_ignored(capsys, arguments, expected):
    assert codes(capsys, "both.yaml", *arguments)[1] == expected


def test_what_is_not_shown_does_not_fail(capsys):
    assert run(capsys, "both.yaml", "--ignore", "LK103")[0] == 0
    assert run(capsys, "both.yaml", "--ignore", "LK103", "--strict")[0] == 1
    assert run(capsys, "both.yaml", "--ignore", "LK103,LK302", "--strict")[0] == 0


def test_a_code_that_is_none_cannot_run(capsys):
    code, _, err = run(capsys, "both.yaml", "--ignore", "LK9")
    assert (code, err) == (2, "losskit: no code is, or begins with, 'LK9'; `losskit explain` lists the codes\n")
    assert "did you mean unknown-loss?" in run(capsys, "both.yaml", "--select", "unknwon-loss")[2]


def test_what_cannot_be_read_to_its_end_is_always_told(capsys, folder):
    (folder / "open.yaml").write_text("losses: [  # losskit: ignore[LK001]\n")
    assert codes(capsys, "open.yaml", "--ignore", "LK001") == (1, ["LK001"])


# Comments


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("# losskit: ignore[LK201]", []),
        ("# losskit: ignore", []),
        ("#losskit:ignore[lk201]", []),
        ("# losskit: ignore[LK201] delta is spelt so in our fork", []),
        ("# as it was  # losskit: ignore[LK201]", []),
        ("# losskit: ignore[LK201, LK302]", ["LK304"]),
        ("# losskit: ignore[LK103]", ["LK201", "LK304"]),
        ("# losskit: ignore[LK2]", []),
        ("# losskit: ignore[unknown-setting LK201]", []),
        # What losskit would not understand is told, in place of silencing too much or nothing.
        ("# losskit: ignored[LK201]", ["LK201", "LK304"]),
        ("# losskit: ignore-file", ["LK201", "LK304"]),
        ("# losskit: ignore LK201", ["LK201", "LK304"]),
        ("# losskit: ignore[LK999]", ["LK201", "LK304"]),
        ("# losskit: ignore[]", ["LK201", "LK304"]),
        ("#", ["LK201"]),
    ],
)
def test_a_comment_silences_its_line(capsys, folder, comment, expected):
    (folder / "c.yaml").write_text(f"losses:\n  - type: huber\n    detla: 0.5 {comment}\n")
    assert codes(capsys, "c.yaml")[1] == expected


def test_an_unused_comment_is_a_warning_with_its_place(capsys, folder):
    (folder / "c.yaml").write_text("losses:\n  - huber  # losskit: ignore[LK103]\n")
    code, out, _ = run(capsys, "c.yaml", "--output-format", "concise")
    assert (code, out) == (
        0,
        "c.yaml:2:12: warning[LK304] the comment silences LK103, which is not found on this line\n",
    )
    assert run(capsys, "c.yaml", "--fix")[0] == 0
    assert (folder / "c.yaml").read_text() == "losses:\n  - huber\n"


@pytest.mark.parametrize(
    "text",
    [
        "note: |\n  loss: huber  # losskit: ignore[LK201]\n",
        "note: >\n  # losskit: ignore[LK201]\n  more\n",
        "note: 'as in # losskit: ignore[LK201]'\n",
        'note: "over two\n  lines # losskit: ignore[LK201]"\n',
    ],
)
def test_what_stands_in_a_text_is_no_comment(capsys, folder, text):
    (folder / "c.yaml").write_text(text + "losses: [huber]\n")
    assert run(capsys, "c.yaml", "--fix", "--strict")[0] == 0
    assert (folder / "c.yaml").read_text() == text + "losses: [huber]\n"
    (folder / "c.yaml").write_text("losses: [{type: huber, name: 'x # losskit: ignore', detla: 1}]\n")
    assert codes(capsys, "c.yaml")[1] == ["LK201"]


def test_a_comment_that_had_its_line_for_itself_goes_with_it(capsys, folder):
    (folder / "c.yaml").write_text("losses:\n  # losskit: ignore[LK103]\n  - huber\n")
    assert run(capsys, "c.yaml", "--fix")[0] == 0
    assert (folder / "c.yaml").read_text() == "losses:\n  - huber\n"


# The project's own settings


def test_settings_of_the_project(capsys, folder):
    (folder / "pyproject.toml").write_text(
        '[tool.losskit]\nexclude = ["old", "configs/a*"]\nignore = ["LK302"]\nplugins = ["our_losses"]\n'
    )
    (folder / "our_losses.py").write_text("")
    for name in ("old/x.yaml", "configs/ab.yaml", "configs/b.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(BOTH)
    assert run(capsys)[2] == "2 files checked, 2 errors in 2 files\n"
    assert run(capsys, "--ignore", "LK1")[2] == "2 files checked, 2 warnings in 2 files\n", "the command line counts"
    assert run(capsys, "--exclude", "both.yaml")[2] == "3 files checked, 3 errors in 3 files\n"


def test_settings_of_the_project_hold_in_its_folders(capsys, folder, monkeypatch):
    (folder / "pyproject.toml").write_text('[tool.losskit]\nexclude = ["configs/old/*"]\nat = "model.losses"\n')
    (folder / "configs" / "old").mkdir(parents=True)
    (folder / "configs" / "old" / "x.yaml").write_text("model: {losses: [hubr]}\n")
    (folder / "configs" / "y.yaml").write_text("model: {losses: [huber]}\n")
    monkeypatch.chdir(folder / "configs")
    assert run(capsys, "-v")[::2] == (
        0,
        "losskit: settings from ../pyproject.toml\nlosskit: y.yaml: right\n1 file checked, no problems\n",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[tool.losskit]\nexlude = []\n",
            "pyproject.toml: [tool.losskit] has no key `exlude`; did you mean `exclude`?",
        ),
        ("[tool.losskit]\nzzz = 1\n", "has no key `zzz`; it may have exclude, plugins, select, ignore, at"),
        ("[tool.losskit]\nignore = 'LK302'\n", "`ignore` of [tool.losskit] must be a list of texts, got 'LK302'"),
        ("[tool.losskit]\nat = ['a']\n", "`at` of [tool.losskit] must be text"),
        ("[tool]\nlosskit = { ignore = ['LK9'] }\n", "no code is, or begins with, 'LK9'"),
        ("[tool]\nlosskit.x = 1\n", "has no key `x`"),
        ("tool.losskit = 3\n", "[tool.losskit] must be a table"),
        ("[tool.losskit\n", "pyproject.toml is not valid TOML"),
        ("[tool]\nlosskit = 3\n", "[tool.losskit] must be a table"),
        ("[tool.losskit]\nselect = []\n", "`select` names no code, so nothing would be checked"),
        ("[tool.losskit]\nplugins = ['no_such_module']\n", "the plugin 'no_such_module' failed"),
    ],
)
def test_mistakes_in_the_settings_of_the_project(capsys, folder, text, message):
    (folder / "pyproject.toml").write_text(text)
    code, _, err = run(capsys, "both.yaml")
    assert code == 2
    assert message in err


def test_a_project_without_settings_is_none(capsys, folder):
    (folder / "pyproject.toml").write_text('[project]\ndependencies = ["losskit"]\nbroken =\n')
    assert run(capsys, "both.yaml")[0] == 1


def test_nothing_that_is_called_tool_is_taken_for_settings(capsys, folder):
    (folder / "pyproject.toml").write_text("tool = 3\n# [tool.losskit]\n")
    assert run(capsys, "both.yaml")[0] == 1


def test_plugins_of_the_project_stand_beside_its_settings_and_print_no_report(capsys, folder, monkeypatch):
    (folder / "pyproject.toml").write_text('[tool.losskit]\nplugins = ["losses_beside"]\n')
    (folder / "losses_beside.py").write_text("print('hello')\n")
    (folder / "below").mkdir()
    (folder / "below" / "r.yaml").write_text(RIGHT)
    monkeypatch.chdir(folder / "below")
    monkeypatch.setattr(sys, "path", list(sys.path))
    code, out, err = run(capsys, "r.yaml", "--output-format", "json")
    assert (code, json.loads(out)["diagnostics"]) == (0, [])
    assert err.startswith("hello\n")
    sys.modules.pop("losses_beside", None)


def test_an_empty_selection_is_no_green_build(capsys):
    for empty in ("", ","):
        assert run(capsys, "both.yaml", "--select", empty)[0] == 2


# Cures


def test_fix_writes_and_tells_what_is_left(capsys, folder):
    (folder / "f.yaml").write_bytes(b"\xef\xbb\xbf" + (BOTH + "  - {name: r, type: number, loss: dice}\n").encode())
    code, out, err = run(capsys, "f.yaml", "--fix", "--output-format", "concise")
    assert code == 1
    assert out.startswith("f.yaml:4:35: error[LK105]")
    assert err == "1 file checked, 1 error in 1 file; 2 cures made in 1 file\n"
    text = (folder / "f.yaml").read_bytes()
    assert text.startswith(b"\xef\xbb\xbfoutput")
    assert b"type: huber, delta: 1}" in text
    assert b"delta: 1.0e-3" in text


def test_fix_leaves_line_ends_and_right_files_alone(capsys, folder):
    (folder / "f.yaml").write_bytes(WRONG.replace("\n", "\r\n").encode())
    (folder / "r.yaml").write_text(RIGHT)
    before = (folder / "r.yaml").stat().st_mtime_ns
    assert run(capsys, "f.yaml", "r.yaml", "--fix")[0] == 0
    assert (folder / "f.yaml").read_bytes() == WRONG.replace("\n", "\r\n").replace("detla", "delta").encode()
    assert (folder / "r.yaml").stat().st_mtime_ns == before


def test_fix_makes_only_the_cures_that_are_shown(capsys, folder):
    assert run(capsys, "both.yaml", "--fix", "--select", "LK3")[0] == 0
    assert (folder / "both.yaml").read_text() == BOTH.replace("1e-3", "1.0e-3")


def test_diff_shows_and_changes_nothing(capsys, folder):
    code, out, err = run(capsys, "both.yaml", "--diff")
    assert code == 1
    assert out == (
        "--- a/both.yaml\n+++ b/both.yaml\n@@ -1,3 +1,3 @@\n output_features:\n"
        "-  - {name: p, type: number, loss: {type: hubr, delta: 1}}\n"
        "-  - {name: q, type: number, loss: {type: huber, delta: 1e-3}}\n"
        "+  - {name: p, type: number, loss: {type: huber, delta: 1}}\n"
        "+  - {name: q, type: number, loss: {type: huber, delta: 1.0e-3}}\n"
    )
    assert err == "1 file checked, 2 cures to make in 1 file\n"
    assert (folder / "both.yaml").read_text() == BOTH
    (folder / "p.diff").write_text(out)
    subprocess.run(["git", "apply", "--unsafe-paths", "p.diff"], check=True)
    assert run(capsys, "both.yaml", "--diff") == (0, "", "1 file checked, 0 cures to make in 0 files\n")


def test_fixed_standard_input_goes_to_standard_output():
    result = losskit("validate", "-", "--fix", "--output-format", "concise", input=(WRONG + "x: 1\nx: 2\n").encode())
    assert result.returncode == 1
    assert result.stdout.decode() == WRONG.replace("detla", "delta") + "x: 1\nx: 2\n"
    assert result.stderr.startswith(b"<stdin>:4:1: error[LK002]")
    result = losskit("validate", "-", "--fix", input=b"\xef\xbb\xbf" + WRONG.encode())
    assert result.stdout.startswith(b"\xef\xbb\xbfoutput_features")
    long = RIGHT.encode() + b"#" * 3_000_000
    assert losskit("validate", "-", "--fix", "-q", input=long).stdout == long
    result = losskit("validate", "-", "--fix", input=RIGHT.encode())
    assert (result.returncode, result.stdout.decode()) == (0, RIGHT)


# The report


def test_report_can_go_to_a_file(capsys, folder, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(capsys, "both.yaml", "-o", "report.txt", "-qq") == (1, "", "")
    assert (folder / "report.txt").read_text().startswith("error[LK103]: no loss named")
    code, _, err = run(capsys, "both.yaml", "-o", "no/such/folder.txt")
    assert (code, err) == (2, "losskit: cannot write 'no/such/folder.txt': No such file or directory\n")


def test_a_report_takes_the_place_of_an_old_one_only_when_it_is_whole(capsys, folder):
    (folder / "report.json").write_text("old")
    for arguments in (["missing.yaml"], ["both.yaml", "--plugin", "no_such_module"]):
        assert run(capsys, *arguments, "-o", "report.json")[0] == 2
    code, _, err = run(capsys, "both.yaml", "-o", "both.yaml")
    assert (code, err) == (2, "losskit: the report would overwrite 'both.yaml', which is to be checked\n")
    assert (folder / "both.yaml").read_text() == BOTH
    assert (folder / "report.json").read_text() == "old"
    assert run(capsys, "both.yaml", "-o", "report.json")[0] == 1
    assert sorted(os.listdir()) == ["both.yaml", "report.json"]
    assert run(capsys, "both.yaml", "-o", os.devnull)[0] == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_fault(folder, closed):
    (folder / "r.yaml").write_text(RIGHT)
    for name, code in (("r.yaml", 0), ("both.yaml", 1)):
        command = f"{sys.executable} -m losskit validate {name} {closed}"
        result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert (result.returncode, "Traceback" in result.stdout + result.stderr) == (code, False)


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        ('{"model_type": "ecd", "output_features": [{"name": "a", }]', True),
        ("losses:\n  - {type: focal\n", True),
        ("# größe\noutput_features:\n  - {name: a, type: number, loss: hubr}\n".encode("latin-1"), True),
        ("output_features: []\n".encode("utf-16"), True),
        ("losses: [{tpye: huber}]\n", True),
        ("losses: [{huber: {delta: 1}}]\n", True),
        ("loses: [huber]\n", True),
        ("a: {{ .Values.x }}\n", False),
        ('{"losses": {"train": [0.5]}}', False),
        ('{"losses": [0.5, 0.4]}', False),
        ("wins: 3\nlosses: 2\n", False),
        ("losses: true\n", False),
        ("input_features: 10\noutput_features: 5\n", False),
        ("a: 1\n---\ndata: |\n  output_features: []\n", False),
        ("größe: 1\n".encode("latin-1"), False),
    ],
)
def test_files_in_folders_are_ours_if_they_say_so(capsys, folder, text, is_ours):
    (folder / "both.yaml").unlink()
    (folder / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "r.yaml").write_text(RIGHT)
    code, out, err = run(capsys, ".", "--strict")
    assert err.startswith("2 files checked" if is_ours else "1 file checked, no problems")
    assert (code != 0, bool(out)) == (is_ours, is_ours)


def test_files_that_cannot_be_read_are_not_left_out_in_silence(capsys, folder):
    (folder / "x.yaml").write_text("a: [\n")
    (folder / "y.yaml").write_text("a: 1\n---\nb: 2\n")
    assert run(capsys)[2].endswith("1 file could not be read, and left out (-v names them)\n")
    assert "losskit: x.yaml:1: left out: not valid YAML: `[` is never closed" in run(capsys, "-v")[2]
    (folder / "both.yaml").unlink()
    assert run(capsys)[2].endswith("and 1 file could not be read\n")


def test_a_cure_is_written_whole_or_not_at_all(capsys, folder, monkeypatch):
    (folder / "both.yaml").chmod(0o640)
    (folder / "link.yaml").symlink_to("both.yaml")

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        assert codes(capsys, "both.yaml", "--fix") == (2, ["LK011"])
    assert sorted(os.listdir()) == ["both.yaml", "link.yaml"]
    assert (folder / "both.yaml").read_text() == BOTH
    assert run(capsys, "link.yaml", "--fix")[0] == 0
    assert (folder / "link.yaml").is_symlink()
    assert (folder / "both.yaml").read_text() != BOTH
    assert (folder / "both.yaml").stat().st_mode & 0o777 == 0o640


def test_auto_is_github_on_github(capsys, monkeypatch):
    assert run(capsys, "both.yaml")[1].startswith("error[LK103]")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert run(capsys, "both.yaml")[1].startswith("::error title=losskit LK103")
    assert run(capsys, "both.yaml", "--output-format", "full")[1].startswith("error[LK103]")


def test_reports_for_programs_are_whole_even_if_quiet(capsys, folder):
    (folder / "right.yaml").write_text(RIGHT)
    code, out, _ = run(capsys, "right.yaml", "-qq", "--output-format", "json")
    assert (code, json.loads(out)["diagnostics"]) == (0, [])


def test_only_configs_leaves_out_what_has_no_losses_even_if_it_is_named(capsys, folder):
    (folder / "compose.yml").write_text("services: {web: {image: nginx}}\n")
    assert run(capsys, "compose.yml")[0] == 1
    assert run(capsys, "compose.yml", "--only-configs")[0] == 2
    assert run(capsys, "compose.yml", "--only-configs", "--allow-empty")[0] == 0
    assert run(capsys, "compose.yml", "both.yaml", "--only-configs")[2].startswith("1 file checked")


def test_a_file_that_cannot_be_read_is_told_in_every_format(capsys, folder):
    (folder / "x.yaml").mkdir()
    (folder / "link.yaml").symlink_to("both.yaml")
    assert run(capsys)[2].startswith("2 files checked")
    if os.geteuid():
        (folder / "link.yaml").unlink()
        (folder / "both.yaml").chmod(0)
        assert codes(capsys, "both.yaml") == (2, ["LK011"])


# Many files


@pytest.fixture
def many(folder):
    """A tree of more files than one process checks by itself; a few of them are wrong."""
    count = ENOUGH_FILES + 200
    for number in range(count):
        path = folder / "many" / f"{number // 100}" / f"{number:04}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(WRONG if number % 100 == 7 else RIGHT)
    return count


def test_many_files_are_reported_in_order(capsys, many, monkeypatch):
    monkeypatch.setattr("losskit.cli.spreading.usable_processors", lambda: 2)
    code, out, err = run(capsys, "many", "--output-format", "concise")
    places = [line.split(":")[0] for line in out.splitlines()]
    assert code == 1
    assert places == sorted(places)
    assert len(places) == many // 100
    assert err == f"{many} files checked, {len(places)} errors in {len(places)} files\n"
    monkeypatch.setattr("losskit.cli.spreading.usable_processors", lambda: 1)
    assert run(capsys, "many", "--output-format", "concise") == (code, out, err)


def test_other_processes_know_plugins_and_cure_files(capsys, many, folder, monkeypatch, losses):
    monkeypatch.setattr("losskit.cli.spreading.usable_processors", lambda: 2)
    (folder / "losses_of_many.py").write_text(
        "from losskit import register_loss\n"
        "@register_loss('ours', ['number'])\n"
        "def ours(predictions, targets, *, scale: float = 1.0):\n"
        "    '''A loss of our own.'''\n"
        "    return (scale * (predictions - targets)).abs().mean()\n"
    )
    for number in range(0, many, 50):
        path = folder / "many" / f"{number // 100}" / f"{number:04}.yaml"
        path.write_text(RIGHT.replace("huber", "ours"))
    code, _, err = run(capsys, "many", "--plugin", "losses_of_many", "--fix")
    assert (code, err) == (0, f"{many} files checked, no problems; {many // 100} cures made in {many // 100} files\n")
    sys.modules.pop("losses_of_many", None)


def test_ctrl_c_ends_all_processes_without_a_word(many):
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            # Where the tests run in the background of a shell, Ctrl-C is ignored.
            "import signal, sys, time\nfrom losskit.cli import main, checking\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "slow = checking.check_file\n"
            "checking.check_file = lambda *a: (time.sleep(0.05), slow(*a))[1]\n"
            "import losskit.cli.spreading as s\n"
            "s.check_file, s.usable_processors = checking.check_file, lambda: 2\n"
            "print('ready', flush=True)\n"
            "sys.exit(main(['validate', 'many']))",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout.readline() == b"ready\n"
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, b"")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_progress_is_shown_on_a_terminal_and_removed(many):
    main_end, terminal = pty.openpty()
    code = "from losskit.cli import main, progress\nprogress._FIRST_AFTER = progress._EVERY = 0\n"
    code += "main(['validate', 'many'])"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=terminal, stdout=subprocess.PIPE)
    shown = b""
    while process.poll() is None or select.select([main_end], [], [], 0.1)[0]:
        if select.select([main_end], [], [], 0.1)[0]:
            shown += os.read(main_end, 65536)
    assert b"\r\x1b[K100 files checked\xe2\x80\xa6" in shown
    assert shown.rpartition(b"\x1b[K")[2].startswith(f"{many} files checked, ".encode())


def test_progress_makes_room_for_other_output():
    class Stream(list):
        write = list.append

        def flush(self):
            pass

    stream = Stream()
    progress = Progress(stream)
    progress.next = 0
    progress.advance(1234, clear=False)
    progress.advance(1235, clear=True)
    assert stream == ["\r\x1b[K1,234 files checked…", "\r\x1b[K"]


def test_summary_in_words():
    assert command._plural(1, "file") == "1 file"
    assert command._plural(12345, "file") == "12,345 files"


def test_a_comment_may_wait_for_the_smoke_test(capsys, folder):
    (folder / "c.yaml").write_text("losses:\n  - huber  # losskit: ignore[LK501]\n")
    assert codes(capsys, "c.yaml", "--strict") == (0, [])
    assert codes(capsys, "c.yaml", "--strict", "--smoke") == (1, ["LK304"])
