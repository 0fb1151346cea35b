"""The README and the documentation say only what is true: their code runs, and their commands print what they show."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import losskit
import losskit.modules
from losskit.registry import registry

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
# The pages of codes have wrong configs on purpose; test_explain.py holds what each is wrong about.
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "codes")]
# Each page that has code, so that a page whose blocks are no longer found does not pass in silence.
WITH_CODE = {
    "README.md",
    "config-file.md",
    "training.md",
    "registering.md",
    "speed.md",
    "command-line.md",
    "output-formats.md",
}
WITH_CODE |= {
    "balancing.md",
    "ci.md",
    "editors.md",
    "frameworks.md",
    *(f"coming-from-{system}.md" for system in ("torch", "ludwig", "mmf")),
}


@pytest.mark.usefixtures("losses")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_of_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = list(BLOCK.finditer(page.read_text("utf-8")))
    assert bool(blocks) == (page.name in WITH_CODE or page.parent.name == "losses")
    namespace = {"__name__": "__main__"}
    for block in blocks:
        language, text = block["language"], block["text"]
        if language == "yaml" and block["file"]:
            Path(block["file"]).write_text(text)
        elif language == "yaml":
            assert not [d for d in losskit.validate(text=text) if d.code not in ("LK101",)], text
        elif language == "python":
            exec(compile(text, str(page), "exec"), namespace)
        elif language == "console":
            check_console(text)


def check_console(text):
    """Runs each `$ command`, and compares what it prints, on both streams, with what stands below it."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
        result = subprocess.run(
            command,
            shell=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            check=False,
        )
        assert result.stdout.strip() == expected.strip(), command


MODULES = [
    "losskit.building",
    "losskit.schema.schedules",
    *(m.name for m in pkgutil.iter_modules(losskit.modules.__path__, "losskit.modules.")),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_right(name):
    module = importlib.import_module(name)
    names = {**vars(module), "torch": torch, "losskit": losskit, "get_loss_cls": losskit.get_loss_cls}
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in finder.find(module, name, globs=names):
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("name", registry.names())
def test_docstring_has_all_that_a_reader_needs(name):
    text = registry.get(name).module.load().__doc__
    for part in ("$", "Shapes:", "Dtypes:", "Source:", ">>> "):
        assert part in text, f"the docstring of {name} lacks {part!r}"
