"""Training on several ranks, with real processes: see distributed_worker.py for what each of them does."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import distributed_worker

ROOT = Path(__file__).parent.parent


@functools.cache
def results(num_ranks):
    """What was wrong in each case, by name; all cases of a number of ranks run in one start."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
        done = subprocess.run(
            [*command, distributed_worker.__file__, str(path)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(path.read_text("utf-8"))


def parametrized(num_ranks):
    return pytest.mark.parametrize("case", list(distributed_worker.cases(num_ranks)))


@pytest.mark.xdist_group("ranks")
@parametrized(2)
def test_two_ranks_train_as_one_process(case):
    assert not results(2)[case]


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
@parametrized(3)
def test_three_ranks_train_as_one_process(case):
    assert not results(3)[case]
