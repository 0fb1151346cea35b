"""Training on several ranks, with real processes: see distributed_worker.py for what each of them does."""

import functools
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import losskit
from losskit.modules.contract import subject_of
from losskit.modules.distributed import GatheringLoss
from losskit.registry import registry
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


# One process


@pytest.mark.parametrize("name", [e.name for e in registry.entries() if issubclass(e.module.load(), GatheringLoss)])
def test_gathering_does_nothing_in_one_process(name):
    subject = subject_of(name)
    batch = subject.batch("vector")
    gathering, alone = subject.build(gather=True), subject.build()
    assert gathering(*batch.inputs, *batch.targets) == alone(*batch.inputs, *batch.targets)
    # Without a break of the graph, too.
    torch._dynamo.reset()
    compiled = torch.compile(gathering, backend="eager", fullgraph=True)
    assert compiled(*batch.inputs, *batch.targets) == alone(*batch.inputs, *batch.targets)
    exported = torch.export.export(gathering, (*batch.inputs, *batch.targets)).module()
    assert exported(*batch.inputs, *batch.targets) == alone(*batch.inputs, *batch.targets)
    assert "gather=True" in repr(gathering.eval())


CONFIG = """
output_features:
  - {name: species, type: category, num_classes: 3, loss: {type: softmax_cross_entropy, ignore_index: 0}}
  - {name: price, type: number, loss: [mae, {type: huber, reduction: sum}]}
  - {name: face, type: vector, loss: triplet_margin}
"""


def batch_of(num_rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    species, price, *face = (torch.randn(num_rows, size, generator=generator) for size in (3, 1, 5, 5, 5))
    predictions = {
        "species": species,
        "price": price.squeeze(1),
        "face": dict(zip(("anchor", "positive", "negative"), face)),
    }
    labels = torch.randint(3, (num_rows,), generator=generator)
    return predictions, {"species": labels, "price": torch.randn(num_rows, generator=generator)}


def test_micro_batches_add_up_to_the_whole_batch():
    criterion = losskit.build(text=CONFIG)
    batches = [batch_of(3, seed=1), batch_of(1, seed=2), batch_of(0, seed=3)]
    batches[1][1]["species"][:] = 0  # none counts
    del batches[2][1]["price"]
    counts = losskit.distributed.counts(criterion, batches)
    assert counts.num_batches == 3
    assert {key: count.item() for key, count in counts.items()} == {
        "species/softmax_cross_entropy": (batches[0][1]["species"] > 0).sum(),
        "price/mean_absolute_error": 4,
        "price/huber": 1,
        "face/triplet_margin": 4,
    }
    parts = [criterion(*batch, normalizers=counts).total for batch in batches]
    predictions, targets = batches[0]
    whole = (
        {
            "species": torch.cat([p["species"] for p, _ in batches]),
            "price": torch.cat([p["price"] for p, _ in batches]),
            "face": {role: torch.cat([p["face"][role] for p, _ in batches]) for role in predictions["face"]},
        },
        {key: torch.cat([t[key] for _, t in batches if key in t]) for key in targets},
    )
    torch.testing.assert_close(sum(parts), criterion(*whole).total)


def test_a_training_loop_that_divides_by_itself_is_told():
    criterion = losskit.build(text=CONFIG)
    batches = [batch_of(3), batch_of(2)]
    halves = losskit.distributed.counts(criterion, batches, divided_by=2)
    for key, count in losskit.distributed.counts(criterion, batches).items():
        assert halves[key] == count / 2
    with pytest.raises(ValueError, match="divided_by= must be 1 or more, got 0"):
        losskit.distributed.counts(criterion, batches, divided_by=0)


def test_batches_of_a_data_loader_are_pairs():
    # Its inputs are no predictions, though they may be under the name of a feature.
    criterion = losskit.build({"output_features": [{"name": "image", "type": "image", "loss": "mse"}]})
    targets = {"image": torch.zeros(2, 1, 3, 3)}
    for batch in (targets, [torch.zeros(2, 7), targets], ({"image": {"pixels": torch.zeros(2, 7)}}, targets)):
        assert losskit.distributed.counts(criterion, [batch])["image/mean_squared_error"] == 18
    with pytest.raises(TypeError, match="a batch is its targets, or a pair of predictions and targets, got 3 of them"):
        losskit.distributed.counts(criterion, [(1, 2, targets)])


def test_a_loss_without_targets_asks_for_predictions():
    criterion = losskit.build(text=CONFIG)
    with pytest.raises(TypeError, match="face/triplet_margin"):
        losskit.distributed.counts(criterion, [batch_of(3)[1]])


def test_counts_stay_what_they_are_in_pickle_and_compiled():
    criterion = losskit.build(text=CONFIG)
    predictions, targets = batch_of(3)
    counts = losskit.distributed.counts(criterion, [(predictions, targets)] * 2)
    restored = pickle.loads(pickle.dumps(counts))
    assert restored == counts
    assert restored.num_batches == 2
    torch._dynamo.reset()
    compiled = torch.compile(criterion, backend="eager", fullgraph=True)
    expected = criterion(predictions, targets, counts)
    torch.testing.assert_close(compiled(predictions, targets, counts).total, expected.total)
