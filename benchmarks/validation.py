"""How long validating takes, beside what it must read and what else validates, in one run: from a cold start, for a
tree of files, and for one document after the other.

python -m benchmarks.validation [--runs N] [--files N]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from losskit import first_pass
from losskit.config import Document
from losskit.validation import Validation

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "losskit" / "schema" / "losskit.schema.json"
AJV = ROOT / "tests" / "editor" / "ajv.js"
CONFIG = """\
output_features:
  - {name: price, type: number, loss: {type: huber, delta: 0.5}}
  - {name: species, type: category, num_classes: 3, loss: {type: softmax_cross_entropy, class_weights: [1, 2, 3]}}
  - {name: mask, type: image, loss: [dice, {type: focal, gamma: 2.0, weight: 0.3}]}
"""
# What a validator of JSON Schema takes at least, and the same for the one loss in pydantic.
BY_JSONSCHEMA = f"""
import json, sys, yaml, jsonschema
schema = json.load(open({str(SCHEMA)!r}))
jsonschema.Draft7Validator(schema).validate(yaml.load(open(sys.argv[1]), yaml.CSafeLoader))
"""
BY_PYDANTIC = """
import sys, yaml
from typing import Any, Literal
from pydantic import BaseModel, ConfigDict, Field

class Huber(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["huber"]
    delta: float = Field(1.0, gt=0)
    weight: float = Field(1.0, ge=0)
    reduction: Literal["mean", "sum"] = "mean"

class Feature(BaseModel):
    name: str
    type: str
    loss: Huber | Any = None

class Config(BaseModel):
    output_features: list[Feature]
"""
EVENTS = (
    "import sys, yaml\nfor path in sys.argv[1:]:\n    for event in yaml.parse(open(path, 'rb'), yaml.CSafeLoader): pass"
)
FOLDERS = EVENTS.replace("sys.argv[1:]", "__import__('pathlib').Path(sys.argv[1]).rglob('*.yaml')")


def cold_start(folder: Path, runs: int) -> None:
    """Whole processes, from start to end."""
    (folder / "right.yaml").write_text(CONFIG)
    (folder / "wrong.yaml").write_text(CONFIG.replace("0.5", "-0.5").replace("dice", "dcie"))
    right, wrong = str(folder / "right.yaml"), str(folder / "wrong.yaml")
    python, programs = sys.executable, str(Path(sys.executable).parent)
    losskit = shutil.which("losskit", path=programs) or "losskit"
    commands = {
        "import yaml": [python, "-c", "import yaml"],
        "python -c pass": [python, "-c", "pass"],
        "losskit validate, a right file": [losskit, "validate", right],
        "losskit validate, two errors": [losskit, "validate", wrong],
        "import jsonschema": [python, "-c", "import jsonschema"],
        "import marshmallow_dataclass": [python, "-c", "import marshmallow_dataclass"],
        "jsonschema with our schema": [python, "-c", BY_JSONSCHEMA, right],
    }
    if importlib.util.find_spec("pydantic"):
        commands["pydantic, models by hand"] = [
            python,
            "-c",
            BY_PYDANTIC + "Config.model_validate(yaml.load(open(sys.argv[1]), yaml.CSafeLoader))",
            right,
        ]
    if check_jsonschema := shutil.which("check-jsonschema", path=programs):
        commands["check-jsonschema with our schema"] = [check_jsonschema, "--schemafile", str(SCHEMA), right]
    if importlib.util.find_spec("torch"):
        commands["import torch"] = [python, "-c", "import torch"]
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            times[name].append(seconds(command))
    table("a cold start", "ms", {name: statistics.median(values) * 1e3 for name, values in times.items()})


def many_files(folder: Path, count: int, runs: int) -> None:
    """A tree of files, half of them as above and half larger, of which one in a hundred is wrong."""
    large = (ROOT / "examples" / "ludwig.yaml").read_text("utf-8")
    for number in range(count):
        path = folder / "tree" / f"{number // 100}" / f"{number}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = large if number % 2 else CONFIG
        path.write_text(text.replace("type: number", "type: numbr") if number % 100 == 0 else text)
    tree = str(folder / "tree")
    losskit = shutil.which("losskit", path=str(Path(sys.executable).parent)) or "losskit"
    commands = {
        "reading them to events, one process": [sys.executable, "-c", FOLDERS, tree],
        "losskit validate, all processors": [losskit, "validate", tree, "--output-format", "concise"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    for _ in range(max(3, runs // 5)):
        for name, command in commands.items():
            times[name].append(seconds(command))
    table(f"{count:,} files", "s", {name: statistics.median(values) for name, values in times.items()})
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    if peak > before:
        print(f"the largest of these processes took {peak / 1024:.0f} MiB\n")


def one_document_after_the_other() -> None:
    """Checking data that is read already, in a process that runs: microseconds for the config above."""
    data = yaml.load(CONFIG, yaml.CSafeLoader)
    schema = json.loads(SCHEMA.read_text("utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    checks: dict[str, Callable[[], Any]] = {
        "losskit, the first look": lambda: first_pass.is_right(Document(data)),
        "losskit, the full check": lambda: Validation(Document(data)).diagnostics,
        "jsonschema with our schema": lambda: list(validator.iter_errors(data)),
    }
    if importlib.util.find_spec("pydantic"):
        namespace: dict[str, Any] = {"__name__": "by_pydantic"}
        exec(BY_PYDANTIC, namespace)
        namespace["Config"].model_rebuild(_types_namespace=namespace)
        checks["pydantic, models by hand"] = lambda: namespace["Config"].model_validate(data)
    times = {name: best(check) * 1e6 for name, check in checks.items()}
    with contextlib.suppress(OSError, ValueError):
        times["ajv with our schema, through a pipe"] = ajv(schema, data) * 1e6
    table("one document after the other", "µs", times)


def ajv(schema: Any, data: Any) -> float:
    """Seconds for a document, in a process of node that runs; the pipe is part of it."""
    process = subprocess.Popen(
        ["node", str(AJV)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    questions, answers = process.stdin, process.stdout
    assert questions is not None
    assert answers is not None
    with process:

        def ask(value: Any) -> Any:
            questions.write(json.dumps(value) + "\n")
            questions.flush()
            return json.loads(answers.readline())

        if ask({"schema": schema, "draft": "7"}) is not None or ask(data) is not True:
            raise ValueError("ajv does not work here")
        return best(lambda: ask(data))


def best(function: Callable[[], Any], repetitions: int = 200) -> float:
    """Seconds for a call: the best of five means."""
    means = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(repetitions):
            function()
        means.append((time.perf_counter() - start) / repetitions)
    return min(means)


def seconds(command: list[str]) -> float:
    """How long a process takes."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - start


def table(title: str, unit: str, times: dict[str, float]) -> None:
    """Prints the times, and their ratios to the first."""
    base = next(iter(times.values()))
    print(f"{title:<46} {unit:>8} {'ratio':>7}")
    for name, value in times.items():
        print(f"{name:<46} {value:8.{2 if unit == 's' else 1}f} {value / base:7.2f}")
    print()


def main() -> None:
    """Prints the three tables."""
    parser = argparse.ArgumentParser(description="How long validating takes, beside others.")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--files", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # First, so that no larger process has run whose memory could be taken for theirs.
        many_files(Path(folder), options.files, options.runs)
        cold_start(Path(folder), options.runs)
    one_document_after_the_other()


if __name__ == "__main__":
    main()
