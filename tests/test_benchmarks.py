"""The benchmarks: what they measure is what they say, and they run."""

import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import losses, peers, picture
from benchmarks.cases import CASES, Case, Peer, logits_and_ids, ours
from benchmarks.measuring import Options, difference, measure
from benchmarks.memory import peak_memory
from benchmarks.resident import peak_resident
from benchmarks.results import OURS, Result

ROOT = Path(__file__).parent.parent
SMALL = Options(scale="small", runs=1)


def test_peak_memory_is_the_most_that_is_held_at_once():
    def function():
        first = torch.empty(1000)  # 4,000 bytes
        second = torch.empty(500)  # and 2,000, at the same time
        del first
        return second, torch.empty(250)  # 2,000 and 1,000

    assert peak_memory(function) == 6000


def test_peak_memory_counts_what_is_held_inside_an_operator():
    numbers = torch.randn(10, 100)
    # The result has ten numbers; on the way, exp(x - largest) has as many as the input.
    assert 4000 <= peak_memory(lambda: numbers.logsumexp(1)) <= 4500


def test_peak_memory_of_a_backward_pass_is_that_of_what_is_saved_and_the_gradient():
    numbers = torch.randn(1000, requires_grad=True)

    def function():
        # exp() saves its result, of 4,000 bytes. Backward makes one gradient of as many, from an expanded scalar.
        numbers.exp().sum().backward()

    assert 8000 <= peak_memory(function) <= 8000 + 64
    numbers.grad = None


def test_peak_memory_leaves_out_what_was_held_before():
    held = torch.randn(100_000)
    assert peak_memory(lambda: held.sum()) <= 64
    assert peak_memory(lambda: held.mul_(2)) <= 64


def test_peak_of_resident_memory_sees_what_torch_does_not_allocate():
    # Far above what Python may hold in reserve, and written to, for only such pages are resident.
    peak = peak_resident(lambda: b"x" * 100_000_000)
    if peak is None:
        pytest.skip("this system does not tell")
    assert 95_000_000 <= peak <= 120_000_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_that_are_measured_beside_each_other_compute_the_same(case):
    batch = case.batch("small")
    found = case.side(batch).result()
    for peer in case.peers:
        try:
            side = peer.side(batch)
        except (ImportError, AttributeError):
            continue  # an optional package, or what older versions of torch do not have
        assert difference(found, side.result(), peer.layout, tolerance=1e-5) is None, peer.name


def test_a_batch_is_the_same_each_time():
    first, second = (CASES[0].batch("small") for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first[0] + first[1], second[0] + second[1]))


def case_with(peer):
    return Case("focal", logits_and_ids, (64, 16), ours("focal", "category"), [peer])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value, z: 2 * value, "value by 1.0e+00, gradient 0 by 1.0e+00"),
        # A gradient alone that is wrong: the value has none of this term, which is zero.
        (lambda value, z: value + (z - z.detach()).sum(), "gradient 0 by "),
        (lambda value, z: value * math.nan, "value by nan"),
    ],
)
def test_a_peer_that_computes_something_else_is_left_out_and_named(change, message):
    peer = Peer("eager", lambda eager: lambda z, y: change(eager.softmax_focal(z, y), z), "other")
    found = measure(case_with(peer), SMALL)
    assert [result.peer for result in found.results] == [OURS]
    (note,) = found.notes
    assert note.startswith("eager other in focal: left out, for it computes something else: ")
    assert message in note


def test_a_peer_that_is_not_installed_is_left_out_and_named(monkeypatch):
    monkeypatch.setitem(peers.PACKAGES, "kornia", ("kornia", "kornia_of_which_there_is_none.losses"))
    peers.load.cache_clear()
    found = measure(case_with(Peer("kornia", lambda kornia: kornia.focal_loss)), SMALL)
    peers.load.cache_clear()
    assert [result.peer for result in found.results] == [OURS]
    assert "kornia_of_which_there_is_none" in found.missing["kornia"]
    assert not found.versions


def test_a_peer_that_takes_more_memory_than_allowed_is_left_out_and_named():
    peer = Peer("eager", lambda eager: pytest.fail("it must not run"), gigabytes=13)
    case = case_with(peer)
    found = measure(case, Options(runs=1, memory_limit=12))
    assert [result.peer for result in found.results] == [OURS]
    assert found.notes == ["eager in focal: left out, for it takes about 13 GB (--memory-limit)"]


def test_the_program_measures_prints_and_draws_what_is_asked_for(tmp_path):
    command = [sys.executable, "-m", "benchmarks.losses", "--scale", "small", "--runs", "1", "--threads", "2"]
    command += ["--case", "corn", "--case", "mse_1e+05", "--allocator", "reusing"]
    command += ["--json", str(tmp_path / "found.json"), "--picture", str(tmp_path / "picture.svg")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert {(result["case"], result["peer"]) for result in found["results"]} >= {
        ("corn", OURS),
        ("mse_1e+05", OURS),
        ("mse_1e+05", "torch"),
    }
    for result in found["results"]:
        assert result["seconds"] > 0
        assert result["wall"] > 0
        assert result["bytes"] > 0
        assert result["peer"] in done.stdout
    assert "geometric mean of 1 cases" in done.stdout
    drawn = (tmp_path / "picture.svg").read_text()
    assert "</svg>" in drawn


def test_a_case_that_fails_is_named_and_does_not_end_the_program():
    command = [sys.executable, "-m", "benchmarks.losses", "--scale", "small", "--runs", "1"]
    # Not a number of threads, which only the process of the case finds out.
    done = subprocess.run(
        [*command, "--threads", "0", "--case", "mse_1e+05"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "mse_1e+05: not measured: RuntimeError" in done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets the malloc of glibc")
@pytest.mark.parametrize(("allocator", "least", "most"), [("default", 5, 6), ("reusing", 0, 2)])
def test_an_allocator_that_reuses_pages_has_no_faults_on_them_twice(allocator, least, most):
    program = """
import resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    b"x" * (64 << 20)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (64 << 20))
"""
    environment = os.environ | losses.environment_of(allocator)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert least <= float(done.stdout) <= most


def result(case, peer, seconds, size):
    return Result(case, False, peer, seconds, seconds, size)


def test_ours_is_compared_with_the_best_of_each_case():
    results = [
        result("a", OURS, 1.0, 30),
        result("a", f"{OURS} compiled", 0.1, 1),  # no peer
        result("a", "slow", 4.0, 10),
        result("a", "fast", 2.0, None),  # of which the memory is not known
        result("b", OURS, 3.0, 30),  # alone
    ]
    assert losses.ratios_to_best(results, lambda row: row.seconds) == [0.5]
    assert losses.ratios_to_best(results, lambda row: row.bytes) == [3.0]


def test_the_table_has_ours_in_units_and_the_others_as_multiples(capsys):
    losses.print_table([result("a", OURS, 0.5, 2**21), result("a", "other", 1.0, 2**20)], with_wall=False)
    ours_line, other_line = capsys.readouterr().out.splitlines()
    assert ours_line.split() == ["a", OURS, "500.000", "2.000"]
    assert other_line.split() == ["other", "2.00x", "0.50x"]


def test_the_picture_names_each_case_and_each_peer(tmp_path):
    results = [result("a", OURS, 0.5, 100), result("a", "smp", 1.0, None), result("a", "entmax k=100", 0.1, 200)]
    picture.draw(results, "title", tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    # Text is drawn as shapes, each after a comment with its words.
    assert all(f"<!-- {text} -->" in drawn for text in ("a", "title", "segmentation-models-pytorch", "entmax"))
