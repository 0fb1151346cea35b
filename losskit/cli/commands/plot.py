"""`losskit plot`: draws losses and their gradients."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from losskit.building import require_torch
from losskit.cli import EXIT_OK, CannotRunError, add_plugin_argument, import_all_plugins, warn_of_plugins
from losskit.cli.colour import Colour
from losskit.cli.features import add_feature_argument
from losskit.cli.plotting import BOTH, GRADIENT, VALUE, Picture, picture_of
from losskit.config import Document, read
from losskit.constants import RESERVED
from losskit.diagnostics import cut, has_errors
from losskit.registry import LossEntry, UnknownLossError, registry
from losskit.spelling import nearest

if TYPE_CHECKING:
    from losskit.modules.curves import Sweep

_LOSS = re.compile(r"\s*([^\s()=]+)\s*(?:\((.*)\)\s*)?", re.DOTALL)
_SUFFIXES = (".svg", ".png")
_BRACKETS = {"[": 1, "{": 1, "]": -1, "}": -1}


class _Asked(NamedTuple):
    """A loss as it was asked for: its name as it was written, and the settings given to it."""

    called: str
    entry: LossEntry
    settings: dict[str, str]

    @property
    def label(self) -> str:
        given = ", ".join(f"{name}={text}" for name, text in self.settings.items())
        return f"{self.called}({given})" if given else self.called


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "losses",
        nargs="+",
        metavar="LOSS",
        help="the name of a loss, also with settings of its own: 'huber(delta=0.5)'",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SETTING=VALUE",
        help="a setting of all plotted losses that have it, or of one: huber.delta=0.5; may be repeated",
    )
    add_feature_argument(parser, "the feature type to plot it for")
    parser.add_argument("--what", choices=[VALUE, GRADIENT, BOTH], default=BOTH, help="what to draw")
    parser.add_argument("-o", "--output", metavar="FILE", help="a file to draw to, .svg or .png, not the terminal")
    parser.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="when to use colour")
    add_plugin_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Draws the picture."""
    _require(options.output)
    import_all_plugins(options.plugin)
    asked = _with_settings([_asked(text) for text in options.losses], options.set)
    from losskit.modules.curves import NoCurveError, common_sweeps, curve_of

    try:
        sweeps = common_sweeps([each.entry for each in asked], options.feature)
        curves = {
            each.label: curve_of(each.entry, _module(each, sweep), sweep)
            for each, sweep in zip(asked, sweeps, strict=True)
        }
    except NoCurveError as error:
        raise CannotRunError(str(error)) from error
    picture = picture_of(curves, sweeps[0].label, options.what)
    if options.output:
        _write(picture, Path(options.output))
    else:
        _print(picture, Colour(options.color, sys.stdout))
    return EXIT_OK


def _require(output: str | None) -> None:
    if output is not None and Path(output).suffix.lower() not in _SUFFIXES:
        raise CannotRunError(f"cannot draw to {output!r}: the name of the file must end in {' or '.join(_SUFFIXES)}")
    try:
        require_torch("plot")
    except ImportError as error:
        raise CannotRunError(str(error)) from error
    if output is not None and output.lower().endswith(".png") and importlib.util.find_spec("matplotlib") is None:
        cure = 'pip install "losskit[plot]", or draw to a .svg file, which needs nothing'
        raise CannotRunError(f"a .png file needs matplotlib, which is not installed: {cure}")


# Reading what is asked for


def _asked(text: str) -> _Asked:
    match = _LOSS.fullmatch(text)
    if not match:
        raise CannotRunError(f"cannot read {cut(text)!r}: write a name, or 'name(setting=value, …)'")
    called, inside = match.groups()
    try:
        entry = registry.get(called)
    except UnknownLossError as error:
        warn_of_plugins()
        raise CannotRunError(str(error)) from error
    return _Asked(called, entry, dict(_assignment(part) for part in _parts(inside or "")))


def _parts(text: str) -> Iterator[str]:
    """The parts between commas, but for commas within brackets or quotes."""
    depth, quote, start = 0, "", 0
    for index, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == "," and not depth:
            yield text[start:index]
            start = index + 1
        depth += 0 if quote else _BRACKETS.get(char, 0)
    if text[start:].strip():
        yield text[start:]


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise CannotRunError(f"cannot read the setting {cut(text.strip())!r}: write it as name=value")
    if name.rpartition(".")[2] in RESERVED:
        raise CannotRunError(f"`{name}` belongs to the sum of losses that a config is, and changes no loss's curve")
    return name, value


def _with_settings(losses: Sequence[_Asked], texts: Sequence[str]) -> list[_Asked]:
    """The losses with the settings given by `--set`; what stands at a loss itself counts more."""
    for text in texts:
        path, value = _assignment(text)
        loss, _, name = path.rpartition(".")
        meant = [each for each in losses if loss in ("", each.called, *each.entry.names)]
        if not meant:
            raise CannotRunError(f"--set {text}: {loss!r} is not among the losses that are plotted")
        having = [each for each in meant if name in each.entry.schema["properties"]]
        if not having:
            known = dict.fromkeys(key for each in meant for key in each.entry.schema["properties"])
            near = nearest(name, [key for key in known if key not in RESERVED])
            which = meant[0].entry.name + " has no" if len(meant) == 1 else "none of the losses has a"
            suggestion = f", did you mean `{near[0]}`?" if near else ""
            raise CannotRunError(f"--set {text}: {which} setting `{name}`{suggestion}")
        for each in having:
            each.settings.setdefault(name, value)
    return list(losses)


def _value(name: str, text: str) -> Any:
    """What a value is in YAML.

    Raises:
        CannotRunError: it is not valid YAML, or several values.
    """
    document = read(f"[{text}\n]")
    if document.diagnostics or len(document.data) != 1:
        reason = document.diagnostics[0].message if document.diagnostics else "write a list in brackets, as [1, 2]"
        raise CannotRunError(f"the value {cut(text)!r} of `{name}` cannot be read: {reason}")
    return document.data[0]


def _module(asked: _Asked, sweep: Sweep) -> Any:
    """The module with the settings that were given.

    Raises:
        CannotRunError: they are wrong; each problem is told as `losskit validate` would.
    """
    from losskit.building import module_of
    from losskit.schema.base import FeatureContext
    from losskit.validation import Validation

    values: Mapping[str, Any] = {name: _value(name, text) for name, text in asked.settings.items()}
    example = asked.entry.config.load().example_settings
    context = FeatureContext(sweep.feature_type)
    validation = Validation(Document({"type": asked.called, **example, **values}), loss_of=context)
    for problem in validation.diagnostics:
        cure = f"\n  = help: {problem.help}" if problem.help else ""
        print(f"{problem.severity}[{problem.code}]: {problem.text}{cure}", file=sys.stderr)
    if has_errors(validation.diagnostics):
        raise CannotRunError(f"{asked.label} cannot be plotted with these settings")
    (config,) = validation.config().features[0].losses
    return module_of(config, context)


# Drawing


def _print(picture: Picture, colour: Colour) -> None:
    from losskit.cli.plotting.terminal import draw, look_for

    size = shutil.get_terminal_size()
    look = look_for(getattr(sys.stdout, "encoding", None))
    # One line is left for the prompt that comes after it.
    for line in draw(picture, min(100, size.columns), min(32, size.lines - 1), colour, look):
        print(line)


def _write(picture: Picture, path: Path) -> None:
    if path.suffix.lower() == ".svg":
        from losskit.cli.plotting.svg import svg

        content = svg(picture).encode()
    else:
        from losskit.cli.plotting.png import png

        content = png(picture)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CannotRunError(f"cannot write {str(path)!r}: {error.strerror}") from error
