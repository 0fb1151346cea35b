"""What is special to losses that compare samples of a batch: peers' forms as plain loops, pairs, batches too small."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from losskit import build, create_loss


def value_and_gradients(loss, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return value, torch.autograd.grad(value.sum(), inputs)


def assert_same(ours, theirs, *inputs, **tolerance):
    inputs = [x.double() for x in inputs]
    tolerance = {"rtol": 1e-10, "atol": 1e-13, **tolerance}
    torch.testing.assert_close(value_and_gradients(ours, *inputs), value_and_gradients(theirs, *inputs), **tolerance)


def pairs_by_labels(x, labels, temperature):
    """As pytorch-metric-learning has it: that positive and all negatives are in the denominator, and no other."""
    z = F.normalize(x)
    values = []
    for i in range(len(z)):
        negatives = sum(torch.exp(z[i] @ z[n] / temperature) for n in range(len(z)) if labels[n] != labels[i])
        for p in range(len(z)):
            if p != i and labels[p] == labels[i]:
                own = torch.exp(z[i] @ z[p] / temperature)
                values.append(-torch.log(own / (own + negatives)))
    return sum(values) / len(values)


# One with three positives, a single one without any, and an empty class in between.
LABELS = torch.tensor([0, 1, 0, 3, 0, 1, 0])


def test_nt_xent_by_labels_takes_one_positive_at_a_time():
    x = torch.randn(7, 4)
    loss = create_loss("nt_xent", pairing="labels", temperature=0.3)
    assert_same(lambda x: loss(x, LABELS), lambda x: pairs_by_labels(x, LABELS, 0.3), x)
    expected = loss(x, LABELS)
    assert loss(x, LABELS.to(torch.uint8)) == expected
    torch.testing.assert_close(
        loss(x[[0, 1, 3]], torch.tensor([False, True, True])), loss(x[[0, 1, 3]], LABELS[[0, 1, 5]])
    )
    values = create_loss("nt_xent", pairing="labels", temperature=0.3)
    values.reduction = "none"
    assert (values(x, LABELS) != 0).sum() == 4 * 3 + 2


def test_pairings_are_labels_in_disguise():
    x = torch.randn(8, 4).double()
    by_labels = create_loss("nt_xent", pairing="labels")
    for pairing, ids in (("consecutive", torch.arange(8) // 2), ("halves", torch.arange(8) % 4)):
        assert_same(create_loss("nt_xent", pairing=pairing), lambda x, ids=ids: by_labels(x, ids), x)


def test_nt_xent_by_labels_without_positives_or_negatives_is_zero():
    x = torch.randn(4, 3)
    loss = create_loss("nt_xent", pairing="labels")
    for ids in (torch.arange(4), torch.zeros(4, dtype=torch.long)):
        value, (gradient,) = value_and_gradients(lambda x, ids=ids: loss(x, ids), x)
        assert value == 0
        assert (gradient == 0).all()
    assert loss(x[:0], torch.zeros(0, dtype=torch.long)) == 0
    assert create_loss("nt_xent")(x[:2]) == 0


def test_nt_xent_keeps_gradients_where_others_have_none():
    # pytorch-metric-learning floors the probability, and gives 44.2 without a gradient.
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1e-3], [1e-3, 1.0]])
    for pairing, labels in (("consecutive", None), ("labels", torch.tensor([0, 0, 1, 1]))):
        loss = create_loss("nt_xent", pairing=pairing, temperature=0.01)
        value, (gradient,) = value_and_gradients(lambda x, y=labels, f=loss: f(x, y), x)
        assert value.item() == pytest.approx(100.0, rel=2e-2)
        assert (gradient.abs().sum(1) > 1).all()


def test_batches_that_are_no_pairs_are_refused():
    # Ludwig takes the nearest neighbour for the positive then.
    for pairing, rows in (("consecutive", r"rows 2i and 2i \+ 1"), ("halves", r"rows i and i \+ batch / 2")):
        with pytest.raises(ValueError, match=rf"embeddings \(3, 4\) are an odd number.*{rows}.*drop the last batch"):
            create_loss("nt_xent", pairing=pairing)(torch.randn(3, 4))
    by_labels = create_loss("nt_xent", pairing="labels")
    with pytest.raises(ValueError, match=r"there are no targets; give ids of shape \(3,\)"):
        by_labels(torch.randn(3, 4))
    with pytest.raises(ValueError, match=r"embeddings \(3, 4\) and targets \(3, 1\) do not fit.*targets.squeeze\(-1\)"):
        by_labels(torch.randn(3, 4), torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(TypeError, match=r"targets are float32, but ids must be integers; use targets.long\(\)"):
        by_labels(torch.randn(3, 4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"embeddings \(3, 4, 1\) must be embeddings, .*\(batch, dimensions\)"):
        by_labels(torch.randn(3, 4, 1), torch.zeros(3))


def test_nt_xent_takes_labels_from_the_criterion_where_it_needs_them():
    x = torch.randn(7, 4)
    criterion = build(
        {"output_features": [{"name": "who", "type": "vector", "loss": {"type": "nt_xent", "pairing": "labels"}}]}
    )
    expected = create_loss("nt_xent", pairing="labels")(x, LABELS)
    torch.testing.assert_close(criterion({"who": x}, {"who": LABELS}).total, expected)


@pytest.mark.parametrize("name", ["nt_xent", "contrastive"])
def test_vectors_of_zero_have_no_gradient(name):
    x = torch.randn(4, 3)
    x[1] = 0
    settings = {"normalize": True} if name == "contrastive" else {}
    others = [torch.randn(4, 3)] if name == "contrastive" else []
    value, (gradient, *_) = value_and_gradients(create_loss(name, **settings), x, *others)
    assert torch.isfinite(value)
    assert (gradient[1] == 0).all()
    assert (gradient[0] != 0).all()


@pytest.mark.parametrize("settings", [{}, {"symmetric": False}, {"normalize": True, "temperature": 1.0}])
def test_contrastive_is_cross_entropy_of_both_directions(settings):
    x, y = torch.randn(2, 9, 4)

    def plain(x, y):
        if settings.get("normalize"):
            x, y = F.normalize(x), F.normalize(y)
        logits = x @ y.T / settings.get("temperature", 0.07)
        forth, back = (F.cross_entropy(z, torch.arange(9)) for z in (logits, logits.T))
        return forth if settings.get("symmetric") is False else (forth + back) / 2

    assert_same(create_loss("contrastive_loss", **settings), plain, x, y)


def test_temperature_of_the_model_takes_the_place_of_the_setting_and_learns():
    x, y = torch.randn(2, 9, 4)
    loss = create_loss("clip", temperature=3.0)
    logarithm = torch.tensor([math.log(0.5)], requires_grad=True)
    value = loss(x, y, temperature=logarithm.exp())
    torch.testing.assert_close(value, create_loss("clip", temperature=0.5)(x, y))
    value.backward()
    step = 1e-3
    beside = [create_loss("clip", temperature=0.5 * math.exp(d))(x.double(), y.double()) for d in (-step, step)]
    assert logarithm.grad.item() == pytest.approx(((beside[1] - beside[0]) / (2 * step)).item(), rel=1e-4)
    criterion = build({"output_features": [{"name": "pair", "type": "vector", "loss": "contrastive"}]})
    given = {"embedding_1": x, "embedding_2": y, "temperature": torch.tensor(0.5)}
    torch.testing.assert_close(criterion({"pair": given}, {"pair": {}}).total, value.detach())
    for wrong, message in (
        (torch.ones(2), r"temperature \(2,\) must be a single number"),
        (torch.tensor(-1.0), "above 0; let"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(x, y, temperature=wrong)


def test_single_pair_has_nothing_to_be_told_from():
    x, y = torch.randn(2, 1, 4)
    for name in ("contrastive", "in_batch_hinge"):
        value, gradients = value_and_gradients(create_loss(name), x, y)
        assert value == 0
        assert all((g == 0).all() for g in gradients)


def hinge_of_mmf(x, y, margin, hard):
    """Text f of each image at a time, as MMF does it."""
    factor, total = len(y) // len(x), 0
    for f in range(factor):
        scores = x @ y[f::factor].T
        own = scores.diag()
        off = 1 - torch.eye(len(x))
        forth = (margin + scores - own[:, None]).clamp(min=0) * off
        back = (margin + scores - own[None, :]).clamp(min=0) * off
        total = total + (forth.max(1)[0].sum() + back.max(0)[0].sum() if hard else forth.sum() + back.sum())
    return total


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_in_batch_hinge_has_the_numbers_of_mmf(margin, factor, hard):
    x, y = torch.randn(5, 4), torch.randn(5 * factor, 4)
    loss = create_loss("in_batch_hinge", margin=margin, hard=hard)
    assert_same(loss, lambda x, y: hinge_of_mmf(x, y, margin, hard), x, y)
    mean = create_loss("in_batch_hinge", margin=margin, hard=hard, reduction="mean")
    torch.testing.assert_close(mean(x, y) * 5, loss(x, y))


@pytest.mark.parametrize(
    "shapes", [((2, 4), (3, 4)), ((3, 4), (2, 4)), ((2, 4), (2, 5)), ((2, 4), (0, 4)), ((0, 4), (2, 4))]
)
def test_embeddings_that_do_not_fit_are_refused(shapes):
    one, other = (str(shape).replace("(", r"\(").replace(")", r"\)") for shape in shapes)
    for name, cure in (("in_batch_hinge", "the same number of rows"), ("contrastive", "both must have the same shape")):
        with pytest.raises(ValueError, match=rf"embedding_1 {one} and embedding_2 {other} .*{cure}"):
            create_loss(name)(*(torch.randn(shape) for shape in shapes))


def test_products_are_exact_under_autocast():
    x, y = torch.randn(2, 16, 32)
    for name in ("contrastive", "in_batch_hinge"):
        loss = create_loss(name)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(x, y)
        assert value.dtype == torch.float32
        assert value == loss(x, y)


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds that any operation makes."""

    size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else [results]:
            self.size = max(self.size, result.numel() if isinstance(result, torch.Tensor) else 0)
        return results


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("nt_xent", {"pairing": "labels"}),
        ("nt_xent", {}),
        ("multi_similarity", {}),
        ("contrastive", {}),
        ("in_batch_hinge", {"hard": True}),
        ("refiner_ms", {}),
        ("refiner_contrastive", {}),
    ],
)
def test_no_tensor_is_larger_than_all_similarities(name, settings):
    # Peers compare all pairs dimension by dimension, or all triplets, and ask for 34 GB at 2048 samples.
    x = torch.randn(64, 64, requires_grad=True)
    others = [] if name == "nt_xent" else [torch.randn(64, 64)]
    if name == "multi_similarity" or settings.get("pairing"):
        others = [torch.arange(64) // 4]
    with LargestTensor() as largest:
        create_loss(name, **settings)(x, *others).backward()
    assert largest.size == 64 * 64
