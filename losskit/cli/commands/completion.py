"""`losskit completion`: the script by which a shell completes commands, options, names of losses and codes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SHELLS = ("bash", "zsh", "fish")
FOLDER = Path(__file__).parent.parent / "completions"

_EPILOG = """\
To have it in every new shell:
  bash  add to ~/.bashrc:  eval "$(losskit completion bash)"
  zsh   add to ~/.zshrc, below compinit:  eval "$(losskit completion zsh)"
  fish  losskit completion fish > ~/.config/fish/completions/losskit.fish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def run(options: argparse.Namespace) -> int:
    """Prints the script."""
    sys.stdout.write(script(options.shell))
    return 0


def script(shell: str) -> str:
    """The script for a shell, which scripts/generate.py has written."""
    return (FOLDER / f"losskit.{shell}").read_text("utf-8")
