"""Writes the scripts by which shells complete `losskit`, from its parser; shtab knows how each shell wants them.

They are files of the package, so that a shell starts without shtab, and a TAB without Python.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping

import shtab

from losskit.cli import COMMANDS, make_parser
from losskit.cli.commands.completion import SHELLS
from losskit.diagnostics import CODES
from losskit.registry import LossEntry

# What stands in place of a value says what it is; `--at` takes the path to a key of a config, which is no file.
_FILES = ("FILE", "PATH", "GLOB")
_FOLDERS = ("DIR",)
_NO_FILES = ("at",)

_BASH = """
_losskit_losses() {{
  compgen -W "{losses}" -- "$1"
}}
_losskit_code() {{
  compgen -W "{codes} {names}" -- "$1"
}}
# Several codes with commas between them.
_losskit_codes() {{
  local last="${{1##*,}}"
  compgen -P "${{1%"$last"}}" -W "{codes}" -- "$last"
}}
"""
_ZSH = """
_losskit_losses() {{
  local -a losses=({losses})
  _describe 'loss' losses
}}
_losskit_code() {{
  local -a codes=({described}) names=({names})
  _describe 'code' codes -- names
}}
# Several codes with commas between them.
_losskit_codes() {{
  _sequence compadd - {codes}
}}
"""
_FISH = """
function _losskit_losses
  string split ' ' '{losses}'
end
function _losskit_code
  printf '%s\\t%s\\n' {pairs}
  string split ' ' '{names}'
end
# Several codes with commas between them.
function _losskit_codes
  set -l done (string replace -r '[^,]*$' '' -- (commandline -ct))
  for code in {codes}
    echo $done$code
  end
end
"""


def full_parser() -> argparse.ArgumentParser:
    """The parser with the options of every command, and with what completes each of them."""
    parser = make_parser(COMMANDS)
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            _complete(action)
    return parser


def _complete(action: argparse.Action) -> None:
    """Says with what an argument is completed, where the parser itself has no choices for it."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    found: Mapping[str, str | dict[str, str]] | None = None
    if action.choices or action.dest in _NO_FILES:
        return
    if metavar == "LOSS":
        found = _function("_losskit_losses")
    elif "CODE" in metavar:
        found = _function("_losskit_codes" if action.option_strings else "_losskit_code")
    elif metavar in _FILES:
        found = shtab.FILE
    elif metavar in _FOLDERS:
        found = shtab.DIRECTORY
    if found:
        action.complete = found  # type: ignore[attr-defined]


def _function(name: str) -> dict[str, str]:
    return {"bash": name, "zsh": name, "fish": f"({name})"}


def completion_scripts(entries: Iterable[LossEntry]) -> dict[str, str]:
    """The text of the script for each shell."""
    words = {
        "losses": " ".join(sorted(name for entry in entries for name in entry.lasting_names)),
        "codes": " ".join(CODES),
        "names": " ".join(code.name for code in CODES.values()),
        "described": " ".join(f"{code.number}:{code.name}" for code in CODES.values()),
        "pairs": " ".join(f"{code.number} {code.name}" for code in CODES.values()),
    }
    functions = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
    parser = full_parser()
    scripts = {shell: shtab.complete(parser, shell, preamble=functions[shell].format(**words)) for shell in SHELLS}
    # shtab lets zsh complete only the first of several positional arguments; a star before the colon is for each.
    scripts["zsh"] = re.sub(r'^  "\(\*\)::?', '  "*:', scripts["zsh"], flags=re.MULTILINE)
    return scripts
