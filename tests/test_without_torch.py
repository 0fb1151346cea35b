"""Where torch is not installed, everything but building works, and building says what to install."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CODE = """
import importlib.util
assert importlib.util.find_spec("torch") is None
assert importlib.util.find_spec("numpy") is None
import losskit
assert "huber" in losskit.losses("number")
text = "output_features: [{name: p, type: number, loss: {type: huber, delta: -1}}]"
(problem,) = losskit.validate(text=text)
assert problem.code == "LK203", problem
config = losskit.load(text=text.replace("-1", "2"))
assert config.features[0].losses[0].delta == 2.0
from losskit.schema import HuberLossConfig
assert HuberLossConfig(delta=2.0).type == "huber"
for make in (lambda: losskit.create_loss("huber"), lambda: losskit.build(config)):
    try:
        make()
    except ImportError as error:
        assert 'pip install "losskit[torch]"' in str(error), error
    else:
        raise AssertionError("there should be no torch")
print("fine")
"""


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory):
    """A fresh environment with the built wheel of losskit and what pip installs with it."""
    folder = tmp_path_factory.mktemp("without_torch")
    venv.create(folder / "venv", with_pip=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    subprocess.run([*install, wheel], check=True, cwd=folder)
    return python.parent


@pytest.mark.slow
def test_everything_but_building_works(bin_folder, tmp_path):
    result = subprocess.run(
        [bin_folder / "python", "-c", CODE], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.stdout == "fine\n", result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["validate", "c.yaml"], 1, "must be greater than 0"),
        (["list"], 0, "huber"),
        (["show", "dice"], 0, "include_background"),
        (["schema"], 0, "loss_huber"),
        (["explain", "LK201"], 0, "`losskit show LOSS` lists"),
        (["completion", "bash"], 0, "complete -o bashdefault -F _shtab_losskit losskit"),
        (["plot", "huber"], 2, 'pip install "losskit[torch]"'),
    ],
)
def test_commands_work(bin_folder, tmp_path, arguments, code, text):
    (tmp_path / "c.yaml").write_text("losses: [{type: huber, delta: 0}]\n")
    command = [bin_folder / "losskit", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == code, result.stderr
    assert text in result.stdout + result.stderr
