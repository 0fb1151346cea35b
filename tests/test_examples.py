"""The examples validate, and the demo trains, beats its baselines and draws its curves."""

import subprocess
import sys
from pathlib import Path

import pytest

import losskit

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_example_has_no_problems(path):
    assert losskit.validate(path) == []
    losskit.build(path)


def test_the_demo_beats_its_baselines(tmp_path):
    picture = tmp_path / "curves.png"
    command = [sys.executable, "-W", "error", EXAMPLES / "train.py", "--steps", "200", "--output", picture]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(name in result.stdout for name in ("progression", "cultivar", "malignant", "digit", "ink"))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_demo_says_what_is_wrong_with_a_config(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("output_features: [{name: digit, type: category, loss: hubr}]\n")
    command = [sys.executable, EXAMPLES / "train.py", "--config", config]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert 'no loss named "hubr"' in result.stderr
