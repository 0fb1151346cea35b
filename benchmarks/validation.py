"""How long validating takes from a cold start, beside what it must import and what else validates, in one run.

python benchmarks/validation.py [--runs N]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = """
output_features:
  - {name: price, type: number, loss: {type: huber, delta: 0.5}}
  - {name: species, type: category, num_classes: 3, loss: {type: softmax_cross_entropy, class_weights: [1, 2, 3]}}
  - {name: mask, type: image, loss: [dice, {type: focal, gamma: 2.0, weight: 0.3}]}
"""
BASE = "import yaml, jsonschema, marshmallow_dataclass"


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured, by name; the first is what the ratios are to."""
    (folder / "right.yaml").write_text(CONFIG)
    (folder / "wrong.yaml").write_text(CONFIG.replace("0.5", "-0.5").replace("dice", "dcie"))
    schema = Path(__file__).parent.parent / "losskit" / "schema" / "losskit.schema.json"
    losskit = [sys.executable, "-m", "losskit", "validate"]
    found = {
        BASE: [sys.executable, "-c", BASE],
        "python -c pass": [sys.executable, "-c", "pass"],
        "import losskit": [sys.executable, "-c", "import losskit"],
        "losskit validate (right)": [*losskit, str(folder / "right.yaml")],
        "losskit validate (two errors)": [*losskit, str(folder / "wrong.yaml")],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    check_jsonschema = shutil.which("check-jsonschema", path=str(Path(sys.executable).parent))
    if check_jsonschema:
        found["check-jsonschema (right)"] = [check_jsonschema, "--schemafile", str(schema), str(folder / "right.yaml")]
    return found


def main() -> None:
    """Runs each command in turn, several times, and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        times: dict[str, list[float]] = {}
        for _ in range(runs):
            for name, command in commands(Path(folder)).items():
                start = time.perf_counter()
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
                times.setdefault(name, []).append(time.perf_counter() - start)
    base = statistics.median(times[BASE])
    print(f"{'cold start':<50} {'ms':>7} {'ratio':>7}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:<50} {median * 1000:7.1f} {median / base:7.2f}")


if __name__ == "__main__":
    main()
