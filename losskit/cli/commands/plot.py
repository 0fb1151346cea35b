"""`losskit plot`: draws losses and their gradients, or weights that change over the steps of training."""

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
from losskit.constants import RESERVED, SCHEDULE_EXAMPLE
from losskit.diagnostics import ConfigError, cut, has_errors, listing
from losskit.registry import LossEntry, UnknownLossError, registry
from losskit.spelling import nearest

if TYPE_CHECKING:
    from losskit.modules.curves import Sweep
    from losskit.schema.schedules import Schedule

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
        nargs="*",
        metavar="LOSS",
        help="the name of a loss, also with settings of its own: 'huber(delta=0.5)'; "
        "with --schedule, which of the config's losses: by name, as feature/loss, or all of a feature",
    )
    parser.add_argument(
        "--schedule", metavar="FILE", help="a config, of which the weights that change are drawn in place of losses"
    )
    parser.add_argument("--at", metavar="DOTTED.PATH", help="where in that config the losses stand")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SETTING=VALUE",
        help="a setting of all plotted losses that have it, or of one: huber.delta=0.5; may be repeated",
    )
    add_feature_argument(parser, "the feature type to plot it for")
    parser.add_argument("--what", choices=[VALUE, GRADIENT, BOTH], help=f"what to draw of losses; default {BOTH}")
    parser.add_argument("-o", "--output", metavar="FILE", help="a file to draw to, .svg or .png, not the terminal")
    parser.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="when to use colour")
    add_plugin_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Draws the picture."""
    _check_output(options.output)
    import_all_plugins(options.plugin)
    picture = _picture_of_losses(options) if options.schedule is None else _picture_of_schedules(options)
    if options.output:
        _write(picture, Path(options.output))
    else:
        _print(picture, Colour(options.color, sys.stdout))
    return EXIT_OK


def _picture_of_losses(options: argparse.Namespace) -> Picture:
    if not options.losses:
        raise CannotRunError("name a loss to draw, or a config whose weights change: --schedule FILE")
    if options.at is not None:
        raise CannotRunError("--at says where the losses of a config stand: it needs --schedule")
    try:
        require_torch("plot")
    except ImportError as error:
        raise CannotRunError(str(error)) from error
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
    return picture_of(curves, sweeps[0].label, options.what or BOTH)


def _check_output(output: str | None) -> None:
    if output is not None and Path(output).suffix.lower() not in _SUFFIXES:
        raise CannotRunError(f"cannot draw to {output!r}: the name of the file must end in {' or '.join(_SUFFIXES)}")
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


# Weights that change


def _picture_of_schedules(options: argparse.Namespace) -> Picture:
    for option, given in (("--set", options.set), ("--feature", options.feature), ("--what", options.what)):
        if given:
            raise CannotRunError(f"{option} is for the curves of losses, not for --schedule")
    from losskit.cli.plotting.schedules import picture_of_schedules

    return picture_of_schedules(_chosen(options.schedule, _schedules(options.schedule, options.at), options.losses))


def _schedules(path: str, at: str | None) -> dict[str, Schedule]:
    """The weights of a config that change, by the names that its losses have in the results.

    Raises:
        CannotRunError: there are none, or the config is wrong.
    """
    from losskit.schema.schedules import schedule_of
    from losskit.validation import load

    try:
        config = load(path, at=at)
    except OSError as error:
        raise CannotRunError(f"cannot read {path!r}: {error.strerror or error}") from error
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise CannotRunError(f"{path} is wrong, so that nothing is drawn") from error
    weights = zip(config.keys, (loss.weight for feature in config.features for loss in feature.losses), strict=True)
    found = {key: schedule_of(weight) for key, weight in weights if isinstance(weight, dict)}
    if not found:
        example = f"weight: {SCHEDULE_EXAMPLE}"
        raise CannotRunError(f"no weight in {path} changes; one that does is written `{example}`")
    return found


def _chosen(path: str, schedules: Mapping[str, Schedule], names: Sequence[str]) -> Mapping[str, Schedule]:
    """The schedules that are asked for, by loss, `feature/loss` or feature; all if none is named."""
    chosen: dict[str, Schedule] = {}
    for name in names:
        fitting = {key: each for key, each in schedules.items() if name in _names(key)}
        if not fitting:
            near = nearest(name, dict.fromkeys(known for key in schedules for known in _names(key)))
            suggestion = f", did you mean `{cut(near[0])}`?" if near else ""
            these = listing(map(cut, schedules), 20)
            raise CannotRunError(f"{path} has no weight that changes of {cut(name)!r}{suggestion}\n  it has: {these}")
        chosen.update(fitting)
    return chosen or schedules


def _names(key: str) -> list[str]:
    """By what a loss can be asked for."""
    return [key, *filter(None, key.rpartition("/")[::2])]


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
