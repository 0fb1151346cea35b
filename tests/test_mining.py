"""What is special to losses that pick hard pairs: MMF's forms as plain loops, settings that are swapped, no pairs."""

import math

import pytest
import torch
import torch.nn.functional as F

from losskit import create_loss
from tests.test_contrastive import assert_same, value_and_gradients

IDS = torch.tensor([0, 1, 0, 3, 0, 1, 1, 2])
LABELS = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]])


def term(similarities, base, scale, sign):
    return torch.log(1 + torch.exp(sign * scale * (similarities - base)).sum()) / scale


def ms_of_mmf(x, same, alpha, beta, base, mining):
    """MMF's form, but a sample leaves its positives by its place, not because its similarity is 1."""
    z = F.normalize(x)
    values = []
    for i in range(len(z)):
        others = torch.arange(len(z)) != i
        s = z @ z[i]
        positives, negatives = s[same[i] & others], s[~same[i]]
        if len(positives) == 0 or len(negatives) == 0:
            continue
        if mining:
            positives, negatives = (
                positives[positives - 0.1 < negatives.max()],
                negatives[negatives + 0.1 > positives.min()],
            )
        if len(positives) and len(negatives):
            values.append(term(positives, base, beta, -1) + term(negatives, base, alpha, 1))
    return sum(values) / len(z)


@pytest.mark.parametrize("settings", [{}, {"hard_mining": False}, {"alpha": 5.0, "beta": 3.0, "margin": 0.2}])
@pytest.mark.parametrize("kind", ["ids", "same labels", "shared labels"])
def test_ms_has_the_numbers_of_mmf(kind, settings):
    torch.manual_seed(0)
    x = torch.randn(8, 4)
    targets = IDS if kind == "ids" else LABELS
    same = {
        "ids": IDS[:, None] == IDS[None],
        "same labels": (LABELS[:, None] == LABELS[None]).all(-1),
        "shared labels": LABELS @ LABELS.T > 0,
    }[kind]
    full = {"alpha": 50.0, "beta": 2.0, "margin": 0.5, "hard_mining": True, **settings}
    loss = create_loss("ms_loss", is_multilabel=kind == "shared labels", **settings)
    assert_same(
        lambda x: loss(x, targets),
        lambda x: ms_of_mmf(x, same, full["alpha"], full["beta"], full["margin"], full["hard_mining"]),
        x,
    )
    for dtype in (torch.float32, torch.uint8, torch.int32) if kind != "ids" else (torch.uint8, torch.int32):
        assert loss(x, targets.to(dtype)) == loss(x, targets)


def test_multi_similarity_has_the_scales_of_the_paper():
    x = torch.randn(8, 4)
    for alpha, beta, mining in ((2.0, 50.0, True), (3.0, 7.0, False)):
        paper = create_loss("multi_similarity", alpha=alpha, beta=beta, miner_epsilon=0.1 if mining else None)
        of_mmf = create_loss("ms_loss", alpha=beta, beta=alpha, hard_mining=mining)
        assert paper(x, IDS) == of_mmf(x, IDS)


@pytest.mark.parametrize("name", ["multi_similarity", "ms"])
def test_equal_embeddings_are_pairs_too(name):
    # MMF takes a similarity of 1 for the sample itself, and loses positives that are equal.
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.1]])
    expected = 2 / 3 * (math.log1p(math.exp(-1)) / 2 + 1 / math.sqrt(1.01) - 0.5)
    assert create_loss(name)(x, torch.tensor([0, 0, 1])).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["multi_similarity", "ms", "nt_xent"])
def test_scales_of_any_size_and_samples_without_pairs_are_finite(name):
    x = torch.randn(4, 3)
    x[1] = 0
    settings = {"nt_xent": {"pairing": "labels", "temperature": 1e-4}, "ms": {"alpha": 1e4, "beta": 1e4}}
    loss = create_loss(name, **settings.get(name, {"alpha": 1e4, "beta": 1e4}))
    for ids in ([0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 2, 3]):
        value, (gradient,) = value_and_gradients(lambda x, y=ids: loss(x, torch.tensor(y)), x)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        assert (gradient[1] == 0).all()
        assert ids == [0, 0, 1, 1] or value == 0


def test_targets_that_make_no_pairs_are_refused():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"embeddings \(4, 3\) and targets \(4,\) do not fit: with is_multilabel"):
        create_loss("ms", is_multilabel=True)(x, torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="other than 0 and 1"):
        create_loss("ms")(x, torch.full((4, 2), 2))
    for name in ("ms", "multi_similarity"):
        with pytest.raises(ValueError, match=r"embeddings \(4, 3\) and targets \(3,\) do not fit.*shape \(4,\)"):
            create_loss(name)(x, torch.zeros(3, dtype=torch.long))
        with pytest.raises(TypeError, match="targets are float32, but ids must be integers"):
            create_loss(name)(x, torch.zeros(4))
    with pytest.raises(ValueError, match=r"embeddings \(4, 3\) and targets \(4, 1\) .*targets.squeeze\(-1\)"):
        create_loss("multi_similarity")(x, torch.zeros(4, 1, dtype=torch.long))


def refiner_ms_of_mmf(x, y, alpha=50.0, beta=2.0, base=0.5, margin=0.1, epsilon=1e-16):
    total = 0
    for i in range(len(x)):
        s = y @ x[i]
        others = s[(s - s[i]).abs() > epsilon]
        negatives = others[others + margin > s[i]]
        if len(negatives):
            total = total + term(s[i], base, beta, -1) + term(negatives, base, alpha, 1)
    return total / len(x)


def refiner_contrastive_of_mmf(x, y, sim_thresh=0.1, epsilon=1e-16):
    x, y = F.normalize(x), F.normalize(y)
    total = 0
    for i in range(len(x)):
        s = y @ x[i]
        negatives = s[s > s[i] - sim_thresh]
        negatives = negatives[(negatives - s[i]).abs() > epsilon]
        if len(negatives):
            total = total + (sim_thresh + negatives - s[i]).mean()
    return total / len(x)


@pytest.mark.parametrize(
    ("name", "plain", "settings"),
    [
        ("refiner_ms", refiner_ms_of_mmf, {}),
        ("refiner_ms", refiner_ms_of_mmf, {"alpha": 3.0, "beta": 5.0, "base": 0.2, "margin": 1.0, "epsilon": 0.5}),
        ("refiner_contrastive_loss", refiner_contrastive_of_mmf, {}),
        ("refiner_contrastive_loss", refiner_contrastive_of_mmf, {"sim_thresh": 0.7, "epsilon": 0.3}),
    ],
)
def test_refiner_losses_have_the_numbers_of_mmf(name, plain, settings):
    torch.manual_seed(0)
    x, y = torch.randn(2, 12, 4)
    # Small, for MMF's exponentials overflow beyond a dot product of 15; and two equal targets, which are no negatives.
    y[3] = y[4]
    assert_same(create_loss(name, **settings), lambda x, y: plain(x, y, **settings), 0.5 * x, y)


@pytest.mark.parametrize("name", ["refiner_ms", "refiner_contrastive"])
def test_nothing_to_be_told_from_is_zero(name):
    x, y = torch.randn(2, 3, 4)
    loss = create_loss(name)
    for inputs in ((x[:1], y[:1]), (10 * torch.eye(3, 4), 10 * torch.eye(3, 4)), (x, torch.ones(3, 4))):
        value, gradients = value_and_gradients(loss, *inputs)
        assert value == 0
        assert all((g == 0).all() for g in gradients)
    y[1] = 0
    _, gradients = value_and_gradients(loss, 0 * x, y)
    assert all(torch.isfinite(g).all() for g in gradients)
    with pytest.raises(ValueError, match=r"logits \(3, 4\) and targets \(3, 2\) differ in shape"):
        loss(x, y[:, :2])


def test_refiner_ms_survives_what_overflows_in_mmf():
    x = torch.tensor([[30.0, 0.0], [0.0, 30.0]])
    value, gradients = value_and_gradients(create_loss("refiner_ms"), x, x.flip(0))
    # Each is at right angles to its own target, and has a product of 900 with the other's.
    assert value.item() == pytest.approx(math.log1p(math.exp(1)) / 2 + 899.5)
    assert all(torch.isfinite(g).all() for g in gradients)
