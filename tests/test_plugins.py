"""Losses from other packages: a real one is installed, with one that works and some that are broken."""

import subprocess
import sys

import pytest

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "losskit-plugin-for-tests"
version = "1.0"
[project.entry-points."losskit.losses"]
good = "losskit_test_plugin.good"
broken = "losskit_test_plugin.broken"
shadow = "losskit_test_plugin.shadow"
[tool.hatch.build.targets.wheel]
packages = ["losskit_test_plugin"]
"""
GOOD = """
from losskit import register_loss

@register_loss("from_plugin", ["number"])
def from_plugin(predictions, targets, *, scale: float = 1.0):
    '''A loss of another package.'''
    return scale * (predictions - targets).abs().mean()
"""
SHADOW = """
from torch import nn
from losskit import register_loss

register_loss("huber", ["number"])(nn.L1Loss)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the package is installed, as pip does it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    package = source / "losskit_test_plugin"
    package.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    for name, text in (("__init__", ""), ("good", GOOD), ("broken", "import no_such_module"), ("shadow", SHADOW)):
        (package / f"{name}.py").write_text(text)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    return target


def run(site, code, **environment):
    import os

    environment = {**os.environ, "PYTHONPATH": str(site), **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_installed_losses_are_found(site):
    code = """
import losskit, torch
assert "from_plugin" in losskit.losses("number")
config = {"output_features": [{"name": "p", "type": "number", "loss": {"type": "from_plugin", "scale": 2}}]}
assert losskit.validate(config) == [], losskit.validate(config)
print(losskit.build(config)({"p": torch.tensor([3.0])}, {"p": torch.tensor([1.0])}).total.item())
"""
    result = run(site, code)
    assert result.stdout == "4.0\n", result.stderr


def test_broken_plugins_are_told_and_stop_nothing(site):
    code = """
import losskit
for d in losskit.validate(text="losses: [from_plugin, hubr, huber]"):
    print(d.code, d.severity, d.message)
assert losskit.create_loss("huber").delta == 1.0
"""
    lines = run(site, code).stdout.splitlines()
    assert len(lines) == 3
    assert "LK401 warning the plugin 'broken' (losskit_test_plugin.broken) failed: ModuleNotFoundError" in "\n".join(
        lines
    )
    assert "LK401 warning the plugin 'shadow'" in "\n".join(lines)
    assert "is taken by losskit.modules.regression:HuberLoss" in "\n".join(lines)
    assert 'LK103 error no loss named "hubr"' in "\n".join(lines)


def test_plugins_may_be_named_in_the_environment(tmp_path):
    (tmp_path / "my_losses.py").write_text(GOOD)
    result = run(tmp_path, "import losskit; print('from_plugin' in losskit.losses())", LOSSKIT_PLUGINS="my_losses")
    assert result.stdout == "True\n", result.stderr


def test_a_loss_that_only_another_process_has_registered_says_how_it_is_found(tmp_path):
    # As on a worker of a cluster, where what the driver registered is not known.
    (tmp_path / "my_losses.py").write_text(GOOD)
    code = "import losskit; print(*(d.help for d in losskit.validate(text='losses: [from_plugin, hubr]')), sep='\\n')"
    own, slip = run(tmp_path, code).stdout.splitlines()
    assert own.endswith("is known where its module is imported: by you, --plugin, LOSSKIT_PLUGINS or an entry point")
    assert "LOSSKIT_PLUGINS" not in slip  # "hubr" is a slip of a letter
    assert run(tmp_path, code.replace(", hubr", ""), LOSSKIT_PLUGINS="my_losses").stdout == "\n"


def test_a_right_config_of_built_in_losses_imports_no_plugin(site):
    code = """
import losskit, sys
assert losskit.validate(text="losses: [huber]") == []
print("losskit_test_plugin" in sys.modules, "torch" in sys.modules)
"""
    assert run(site, code).stdout == "False False\n"


def test_nothing_that_a_config_says_is_imported(tmp_path):
    (tmp_path / "evil.py").write_text("print('imported')")
    code = """
import losskit
losskit.validate({"losses": ["evil", {"type": "evil:Loss"}, {"type": "huber", "_target_": "evil.Loss"}]})
"""
    assert run(tmp_path, code).stdout == ""
