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
def results(num_ranks, mode):
    """What was wrong in each case, by name; all cases of a number of ranks run in one start."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
        done = subprocess.run(
            [*torchrun, distributed_worker.__file__, mode, str(path)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(path.read_text("utf-8"))


@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("case", list(distributed_worker.cases(2, is_quick=True)))
def test_two_ranks_train_as_one_process(case):
    assert not results(2, "quick")[case]


@pytest.mark.slow
@pytest.mark.xdist_group("ranks")
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_train_as_one_process_whatever_the_settings_and_wrappers(num_ranks):
    wrong = {case: messages for case, messages in results(num_ranks, "all").items() if messages}
    assert not wrong, json.dumps(wrong, indent=1)
