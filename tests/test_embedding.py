"""What is special to losses between embeddings: torch's numbers, vectors of 0, shapes that are refused."""

import pytest
import torch
import torch.nn.functional as F

from losskit import create_loss

DISTANCES = {
    "l2": torch.nn.PairwiseDistance(),
    "squared_l2": lambda x, y: (x - y).square().sum(-1),
    "l1": lambda x, y: torch.linalg.vector_norm(x - y, ord=1, dim=-1),
    "cosine": lambda x, y: 1 - F.cosine_similarity(x, y, dim=-1),
}


def value_and_gradients(loss, *inputs):
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return value, torch.autograd.grad(value.sum(), inputs)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("settings", [{}, {"margin": 0.3}, {"swap": True}, {"margin": 3.0, "swap": True}])
@pytest.mark.parametrize("distance", DISTANCES)
def test_triplets_with_distance_have_torch_numbers(distance, settings, reduction):
    torch.manual_seed(0)
    triplets = torch.randn(3, 50, 8)
    ours = create_loss("triplet_margin_with_distance", distance=distance, **settings)
    ours.reduction = reduction
    theirs = torch.nn.TripletMarginWithDistanceLoss(
        distance_function=DISTANCES[distance], reduction=reduction, **settings
    )
    found, expected = value_and_gradients(ours, *triplets), value_and_gradients(theirs, *triplets)
    # Two orders of summation of a cosine differ in its last digit, and 1 minus it in more.
    rtol, atol = (1e-5, 1e-6) if distance == "cosine" else (3e-7, 1e-9)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("margin", [0.0, 0.5, -0.5, 1.0])
def test_cosine_embedding_has_torch_numbers(margin, reduction, dtype):
    torch.manual_seed(0)
    # Small vectors too, for which the 1e-12 that torch adds to squares shows.
    pairs = torch.randn(2, 60, 8, dtype=dtype) * torch.logspace(-7, 3, 60, dtype=dtype).unsqueeze(-1)
    labels = torch.where(torch.rand(60) < 0.5, 1, -1)
    ours = create_loss("cosine_embedding", margin=margin)
    ours.reduction = reduction
    theirs = torch.nn.CosineEmbeddingLoss(margin=margin, reduction=reduction)
    found = value_and_gradients(lambda x, y: ours(x, y, labels), *pairs)
    expected = value_and_gradients(lambda x, y: theirs(x, y, labels), *pairs)
    # torch has 1e-12 as a float32, which is off by 4e-9.
    rtol, atol = (3e-7, 1e-7) if dtype == torch.float32 else (1e-8, 1e-15)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def test_labels_of_pairs_come_in_several_forms():
    pairs = torch.randn(2, 4, 3)
    loss = create_loss("cosine_embedding")
    expected = loss(*pairs, torch.tensor([1, -1, -1, 1]))
    for labels in ([1.0, 0.0, 0.0, 1.0], [True, False, False, True], [1, 0, 0, 1]):
        assert loss(*pairs, torch.tensor(labels)) == expected
    assert loss(*pairs, torch.tensor([1, 0, 0, 1], dtype=torch.uint8)) == expected
    with pytest.raises(ValueError, match="other than -1 and 1, or 0 and 1"):
        loss(*pairs, torch.tensor([1, 2, 1, 1]))
    with pytest.raises(ValueError, match=r"embedding_1 \(4, 3\) and targets \(3,\) .*one target per pair.* \(4,\)"):
        loss(*pairs, torch.tensor([1, 1, 1]))
    with pytest.raises(ValueError, match=r"embedding_1 \(4, 3\) and embedding_2 \(4, 2\) differ in shape"):
        loss(pairs[0], pairs[1][:, :2], torch.ones(4))


def test_vectors_of_zero_have_no_gradient():
    # torch's is 1e6 times that of other vectors.
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    y = torch.tensor([[3.0, 4.0], [0.0, 0.0], [2.0, -0.5]])
    anchors = torch.zeros(3, 2)
    losses = {
        "cosine_embedding": lambda a, b: create_loss("cosine_embedding")(a, b, torch.tensor([1, -1, 1])),
        "cos_emb_loss": create_loss("cos_emb_loss"),
        "triplet": lambda a, b: create_loss("triplet_margin_with_distance", distance="cosine")(a, b, anchors),
    }
    for name, loss in losses.items():
        _, (gradient, other) = value_and_gradients(loss, x, y)
        assert (gradient[:2] == 0).all(), name
        assert (other[:2] == 0).all(), name
        assert gradient[2].abs().sum() > 0, name


def test_cosine_of_half_precision_is_that_of_float32():
    # A norm of 300 squared is more than float16 can hold.
    x, y = torch.full((1, 4), 300.0), torch.tensor([[300.0, 300.0, 300.0, -300.0]])
    for name in ("cos_emb_loss", "cosine_embedding"):
        labels = [torch.ones(1)] if name == "cosine_embedding" else []
        value = create_loss(name)(x.half(), y.half(), *labels)
        torch.testing.assert_close(value, torch.tensor(0.5))


def test_cos_emb_is_torch_loss_where_all_pairs_belong_together():
    predictions, targets = torch.randn(2, 30, 7)
    expected = value_and_gradients(lambda x: F.cosine_embedding_loss(x, targets, torch.ones(30)), predictions)
    found = value_and_gradients(lambda x: create_loss("cos_emb_loss")(x, targets), predictions)
    torch.testing.assert_close(found, expected, rtol=3e-7, atol=1e-8)


def test_mean_of_cosines_divides_by_vectors():
    predictions, targets = torch.randn(2, 4, 3, 5)
    loss = create_loss("cos_emb_loss")
    assert loss.count(targets) == 12
    torch.testing.assert_close(loss(predictions, targets), (1 - F.cosine_similarity(predictions, targets, -1)).mean())


def test_distances_are_refused_by_name():
    loss = create_loss("triplet_margin_with_distance")
    loss.distance = "euclid"
    with pytest.raises(ValueError, match="distance must be l2, squared_l2, l1 or cosine, got 'euclid'"):
        loss(*torch.randn(3, 2, 2))
    with pytest.raises(ValueError, match=r"anchors \(2, 2\) and negatives \(2, 3\) differ in shape"):
        create_loss("triplet_margin_with_distance")(torch.randn(2, 2), torch.randn(2, 2), torch.randn(2, 3))
