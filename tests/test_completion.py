"""Shells complete what one types after `losskit`, from scripts that follow from the parser."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from losskit.cli import COMMANDS, main
from losskit.cli.commands.completion import SHELLS, script
from losskit.constants import FEATURE_TYPES
from losskit.diagnostics import CODES
from losskit.registry import registry
from scripts.completion import full_parser

FOLDER = Path(__file__).parent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "train.yaml").touch()
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scripts(folder, shell):
    path = folder / f".losskit.{shell}"
    path.write_text(script(shell))
    return path


def in_bash(folder, *words):
    """What bash offers for the last word, which may be empty."""
    path = scripts(folder, "bash")
    code = (
        f'source {path}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_losskit; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    result = subprocess.run(["bash", "--norc", "-c", code, "bash", *words], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout.split()


def in_fish(folder, *words):
    path = scripts(folder, "fish")
    code = f"source {path}; complete -C '{' '.join(words)}'"
    result = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return [line.split("\t")[0] for line in result.stdout.splitlines()]


def in_zsh(folder, *words):
    """The last word as zsh completes it: only where somebody types, so it runs in a terminal of its own."""
    path = scripts(folder, "zsh")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="dumb", PS1="", HOME=str(folder), ZDOTDIR=str(folder))
        os.execvp("zsh", ["zsh", "-f", "-i"])
    seen = ""

    def read_until(text):
        nonlocal seen
        end = time.monotonic() + 20
        while text not in seen and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                seen += os.read(terminal, 4096).decode(errors="replace")
        assert text in seen, seen

    def send(text):
        os.write(terminal, text.encode())

    try:
        # The marks are written in two parts, so that what is typed does not look like the answer.
        send(f'unsetopt zle_bracketed_paste; autoload -U compinit; compinit -D; eval "$(cat {path})"; print REA""DY\n')
        read_until("READY")
        seen = ""
        send(f"{' '.join(words)}\t")
        time.sleep(0.7)
        send("\x01print -r -- 'DO''NE<'\x05'>'\n")
        read_until("DONE<")
        read_until(">")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    line = re.search(r"DONE< ?(.*?) ?>", seen.replace("\r", ""), re.DOTALL)
    assert line, seen
    return [line[1].split()[-1]]


SHELL = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["va"], "validate"),
        (["show", "hub"], "huber"),
        (["plot", "huber", "smooth_"], "smooth_l1"),
        (["plot", "huber", "--what", "gr"], "gradient"),
        (["explain", "LK40"], "LK401"),
        (["explain", "unknown-s"], "unknown-setting"),
        (["explain", "--format", "ma"], "markdown"),
        (["list", "--feature", "im"], "image"),
        (["validate", "tr"], "train.yaml"),
        (["validate", "train.yaml", "tr"], "train.yaml"),
        (["validate", "--output-format", "gith"], "github"),
        (["schema", "-o", "tr"], "train.yaml"),
        (["completion", "f"], "fish"),
        (["plot", "huber", "--wh"], "--what"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_a_shell_completes_what_is_begun(folder, shell, words, expected):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert SHELL[shell](folder, "losskit", *words) == [expected]


def test_all_there_is_is_offered(folder):
    assert in_bash(folder, "losskit", "") == list(COMMANDS)
    names = sorted(name for entry in registry.entries() if entry.is_built_in for name in entry.names)
    assert in_bash(folder, "losskit", "show", "") == names
    assert in_bash(folder, "losskit", "explain", "LK") == list(CODES)
    assert in_bash(folder, "losskit", "list", "--feature", "") == list(FEATURE_TYPES)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_is_offered(folder, command):
    (commands,) = (action for action in full_parser()._actions if action.dest == "command")
    options = {option for action in commands.choices[command]._actions for option in action.option_strings}
    assert {option for option in options if option.startswith("--")} <= set(in_bash(folder, "losskit", command, "--"))


def test_codes_may_be_joined_by_commas(folder):
    path = scripts(folder, "bash")
    code = f"source {path}; _losskit_codes LK201,LK3"
    result = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["LK201,LK301", "LK201,LK302", "LK201,LK303", "LK201,LK304"]


def test_a_place_in_a_config_is_no_file(folder):
    assert "train.yaml" not in in_bash(folder, "losskit", "validate", "--at", "tr")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed(capsys, shell):
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == script(shell)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script(shell), text=True, check=True)


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["completion", "powershell"])
    assert exit_.value.code == 2


def test_printing_a_script_reads_no_losses():
    # It runs whenever a shell starts.
    code = """
import sys
from losskit.cli import main
main(["completion", "bash"])
assert not {"losskit.registry", "yaml", "shtab"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
