"""The pytest plugin: `pytest --losskit configs/` makes a test of each config.

pytest imports this module in every run of everyone who has losskit installed. So until configs are asked for, it
imports nothing of losskit, and the options are the only hook.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from losskit.cli.checking import Options
    from losskit.cli.files import Found
    from losskit.cli.formats import FileReport
    from losskit.diagnostics import Diagnostic

INI = "losskit_paths"


class ConfigWarning(pytest.PytestWarning):
    """A config works, but something in it deserves a look."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options and the setting of the plugin."""
    group = parser.getgroup("losskit", "losses in config files")
    group.addoption(
        "--losskit",
        action="append",
        default=[],
        metavar="PATH",
        help="check the losses of configs: a file, a folder (all *.yaml, *.yml and *.json below, nothing hidden) or a "
        "pattern; may be repeated",
    )
    group.addoption("--losskit-strict", action="store_true", help="warnings about configs fail too")
    group.addoption(
        "--losskit-smoke",
        action="store_true",
        help="also build each loss of the configs and train it for a step on made-up data; needs torch",
    )
    parser.addini(INI, "configs that are checked where pytest is given no paths, as with testpaths", "paths", [])


def pytest_configure(config: pytest.Config) -> None:
    """Looks for the configs, if there are any to look for."""
    config.addinivalue_line("markers", "losskit: the test of a config, made by --losskit or losskit_paths")
    asked: list[str] = config.getoption("--losskit")
    paths = asked or [str(path) for path in config.getini(INI)]
    if paths:
        # As with testpaths, whoever names a test gets that one.
        is_wanted = bool(asked) or config.args_source is not pytest.Config.ArgsSource.ARGS
        configs = _Configs(paths, "--losskit" if asked else INI, is_wanted=is_wanted)
        config.pluginmanager.register(configs, "losskit-configs")


class _Configs:
    """The hooks of a run in which configs are checked."""

    def __init__(self, paths: list[str], source: str, *, is_wanted: bool) -> None:
        """Finds the files; unless all are wanted, only those below the paths that pytest is given become tests.

        Raises:
            pytest.UsageError: a path does not exist, or there is no config.
        """
        from losskit.cli import CannotRunError
        from losskit.cli.files import find

        try:
            self.options, exclude = _settings()
            self.found = {Path(os.path.abspath(found.path)): found for found in find(paths, exclude)}
        except CannotRunError as error:
            raise pytest.UsageError(f"{source}: {error}") from error
        # A typo in a path must not be a green run.
        if not any(self.check(found) for found in self.found.values()):
            where = ", ".join(paths)
            raise pytest.UsageError(f"{source}: found no file with `output_features` or `losses` in {where}")
        self.is_wanted = is_wanted

    def check(self, found: Found) -> FileReport | None:
        """What is wrong with a file; None where it was found in a folder and says nothing about losses."""
        from losskit.cli.checking import check_file

        return check_file(found, self.options).report

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> ConfigFile | None:
        """Makes a config that pytest comes across a test, so that its name can be given to pytest too."""
        found = self.found.get(file_path)
        return ConfigFile.of(found, self, parent, file_path) if found else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Adds the configs that pytest did not come across, before `-k` and its like choose.

        They are no further arguments of pytest, which would lose tests in its versions 8 if one contains another.
        """
        known = {item.path for item in items if isinstance(item, ConfigItem)}
        for path, found in self.found.items() if self.is_wanted else ():
            if path not in known:
                items.extend(session.genitems(ConfigFile.of(found, self, session, path)))


class ConfigFile(pytest.File):
    """A file that may be a config; it has one test if it is one."""

    found: Found
    configs: _Configs

    @classmethod
    def of(cls, found: Found, configs: _Configs, parent: pytest.Collector, path: Path) -> ConfigFile:
        """The node of a file."""
        file: ConfigFile = cls.from_parent(parent, path=path)
        file.found, file.configs = found, configs
        return file

    def collect(self) -> Iterator[ConfigItem]:
        """The test, unless the file was found in a folder and says nothing about losses."""
        report = self.configs.check(self.found)
        if report is not None:
            item: ConfigItem = ConfigItem.from_parent(self, name="losskit")
            item.report = report
            yield item

    def smoke_report(self) -> FileReport | None:
        """What is wrong with the file, also when its losses are trained for a step."""
        from losskit.cli.checking import check_file

        return check_file(self.found, self.configs.options.with_smoke()).report


class ConfigItem(pytest.Item):
    """The test of a config; it fails with the report that `losskit validate` prints."""

    report: FileReport

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_marker("losskit")

    def runtest(self) -> None:
        """Fails where there are errors; warnings are warnings of pytest."""
        from losskit.diagnostics import has_errors

        if self.config.getoption("--losskit-smoke"):
            # Not when tests are collected: it imports torch, and takes as long as tests do.
            assert isinstance(self.parent, ConfigFile)
            self.report = self.parent.smoke_report() or self.report
        diagnostics = self.report.diagnostics
        if has_errors(diagnostics) or (diagnostics and self.config.getoption("--losskit-strict")):
            raise _WrongConfigError
        for diagnostic in diagnostics:
            message = ConfigWarning(f"[{diagnostic.code}] {diagnostic.text}")
            warnings.warn_explicit(message, None, self.report.name, diagnostic.line or 1)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The report in place of a traceback, which would show nothing but this plugin."""
        if isinstance(excinfo.value, (_WrongConfigError, ConfigWarning)):
            return _Failure(self.report)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """What pytest writes above the report."""
        return self.path, None, f"losskit: {self.report.name}"


class _WrongConfigError(Exception):
    """Ends the test of a wrong config; the report says why."""


class _Failure:
    """What pytest shows of a wrong config: the report, and in the summary the first error."""

    def __init__(self, report: FileReport) -> None:
        self.report = report
        first = min(report.diagnostics, key=lambda diagnostic: diagnostic.severity != "error")
        others = len(report.diagnostics) - 1
        message = f"{_place(first)}{first.severity}[{first.code}] {first.text}"
        self.reprcrash = SimpleNamespace(message=message + (f" (and {others} more)" if others else ""))

    def toterminal(self, writer: Any) -> None:
        writer.line(str(self))

    def __str__(self) -> str:
        from losskit.cli.colour import Colour
        from losskit.cli.formats import reporter

        out = io.StringIO()
        reporter("full", out, Colour("never", out)).file(self.report)
        return out.getvalue().rstrip()


def _place(diagnostic: Diagnostic) -> str:
    return f"{diagnostic.line}:{diagnostic.column}: " if diagnostic.position else ""


def _settings() -> tuple[Options, Sequence[str]]:
    """What the project's pyproject.toml says: how each file is checked, and which are left out.

    Raises:
        CannotRunError: it says something wrong, or a plugin of losskit fails.
    """
    from losskit.cli.checking import Options
    from losskit.cli.project import read_project

    project = read_project()
    project.import_plugins(())
    return Options(at=project.settings.get("at"), selection=project.selection()), project.excluded()
