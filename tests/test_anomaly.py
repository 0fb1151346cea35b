"""What is special to losses of squared distances to a centre."""

import math

import pytest
import torch
from torch import nn

import losskit
from losskit import create_loss


@pytest.mark.parametrize("nu", [0.01, 0.1, 0.5, 1.0])
def test_soft_boundary_is_that_of_the_quantile(nu):
    scores = torch.rand(1003, generator=torch.Generator().manual_seed(0)).requires_grad_()
    radius = torch.quantile(scores.detach(), 1 - nu)
    expected = radius + (scores - radius).clamp_min(0).mean() / nu
    found = create_loss("deep_svdd", nu=nu)(scores)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(value, scores)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients)
    # Only samples outside the sphere or on it are drawn in.
    assert ((gradients[0] > 0) == (scores >= radius)).all()


def test_soft_boundary_of_many_samples():
    # torch.quantile refuses more than 2**24 values.
    scores = torch.linspace(0, 1, 2**24 + 2)
    torch.testing.assert_close(create_loss("deep_svdd", nu=0.5)(scores), torch.tensor(0.75), rtol=1e-4, atol=0)


def test_soft_boundary_is_exported_for_batches_of_every_size():
    loss, scores = create_loss("deep_svdd"), torch.rand(23)
    dynamic = {"scores": {0: torch.export.Dim.DYNAMIC}}
    exported = torch.export.export(loss, (scores[:7],), dynamic_shapes=dynamic).module()
    torch.testing.assert_close(exported(scores), loss(scores))


def test_hard_boundary_is_the_mean_distance():
    scores = torch.tensor([1.0, 2.0, 6.0])
    assert create_loss("deep_svdd", nu=0)(scores) == 3
    assert create_loss("deep_svdd", nu=0, reduction="sum")(scores) == 9


def test_sad_takes_labels_of_every_dtype_and_only_1_is_an_anomaly():
    scores = torch.tensor([0.5, 4.0, 0.0, 2.0])
    loss = create_loss("deep_sad", eta=2.0, eps=0.5)
    expected = torch.tensor((0.5 + 2 / 4.5 + 2 / 0.5 + 2.0) / 4)
    labels = torch.tensor([0, 1, 1, 0])
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.int64, torch.float32):
        torch.testing.assert_close(loss(scores, labels.to(dtype)), expected)
    torch.testing.assert_close(loss(scores, torch.tensor([-1, 1, 1, 0])), expected)


def test_sad_of_an_anomaly_in_the_centre_is_finite():
    scores = torch.tensor([0.0, -1e-6]).requires_grad_()
    value = create_loss("deep_sad")(scores, torch.ones(2))
    (gradient,) = torch.autograd.grad(value, scores)
    assert value.item() == pytest.approx(1e6)
    assert torch.isfinite(gradient).all()


def test_reduced_adversary_is_deterministic_and_finite_in_the_centre():
    scores = torch.tensor([0.0, 0.25, 0.2500001, 4.0]).requires_grad_()
    for settings in ({}, {"perturbation_strength": 0.0}, {"num_perturbation_steps": 1}):
        loss = create_loss("drocc", **settings)
        (gradient,) = torch.autograd.grad(loss(scores), scores)
        assert torch.isfinite(gradient).all()
        assert loss(scores[:1]) == loss(scores[:1])
    assert create_loss("drocc", perturbation_strength=0.0)(scores) == scores.mean()


def embed(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def test_adversary_finds_points_that_look_more_normal_than_random_ones():
    net, points = embed(), torch.randn(32, 5)
    seen = []

    def score(x):
        seen.append(x.detach())
        return net(x).square().sum(1)

    create_loss("drocc", perturbation_strength=0.3)(score(points), points=points, score_function=score)
    found = seen[-1]
    distances = (found - points).norm(dim=1)
    assert (distances >= 0.3 * (1 - 1e-5)).all()
    assert (distances <= 5 * 0.3 * (1 + 1e-5)).all()
    away = torch.randn_like(points)
    random = points + away * (distances / away.norm(dim=1)).unsqueeze(1)
    assert (score(found) < score(random)).float().mean() > 0.9
    assert len(seen) == 1 + 5 + 1 + 2  # the scores, five gradients, the adversary's points, and the line above


def test_adversary_trains_the_model_but_not_through_its_search():
    net, points = embed(), torch.randn(6, 5).requires_grad_()

    def score(x):
        return net(x).square().sum(1)

    loss = create_loss("drocc")
    value = loss(score(points), points=points, score_function=score)
    with_adversary = torch.autograd.grad(value, list(net.parameters()))
    without = torch.autograd.grad(score(points).mean(), list(net.parameters()))
    assert not torch.allclose(with_adversary[0], without[0])
    assert all(torch.isfinite(g).all() for g in with_adversary)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: loss(score(x), points=x, score_function=score), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(points), value)


def test_adversary_of_an_empty_batch_finds_nothing():
    points = torch.zeros(0, 5).requires_grad_()
    net = embed()
    value = create_loss("drocc")(
        net(points).square().sum(1), points=points, score_function=lambda x: net(x).square().sum(1)
    )
    assert value == 0
    assert torch.autograd.grad(value, points)[0].shape == (0, 5)


def test_adversary_leaves_a_flat_centre():
    # The gradient of the score is 0 in the centre; the point must still move.
    points = torch.zeros(2, 4)
    value = create_loss("drocc", num_perturbation_steps=1)(
        points.square().sum(1), points=points, score_function=lambda x: x.square().sum(1)
    )
    torch.testing.assert_close(value, torch.tensor(0.1 * math.log(1 + math.exp(-0.01))))


def test_what_is_no_distance_per_sample_is_refused():
    for name, given in (("deep_svdd", ()), ("drocc", ()), ("deep_sad", (torch.zeros(3),))):
        with pytest.raises(ValueError, match=r"scores \(3, 1\) .* scores.squeeze\(-1\)"):
            create_loss(name)(torch.ones(3, 1), *given)
        with losskit.debug(), pytest.raises(ValueError, match="scores hold a value outside"):
            create_loss(name)(-torch.ones(3), *given)
    with pytest.raises(ValueError, match=r"scores \(3,\) and targets \(3, 1\)"):
        create_loss("deep_sad")(torch.ones(3), torch.ones(3, 1))
    loss = create_loss("drocc")
    with pytest.raises(ValueError, match="needs both points and score_function, but score_function is missing"):
        loss(torch.ones(3), points=torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"scores \(3,\) and points \(2, 2\)"):
        loss(torch.ones(3), points=torch.ones(2, 2), score_function=lambda x: x.sum(1))
    with pytest.raises(ValueError, match=r"score_function returned \(3, 1\) for points \(3, 2\)"):
        loss(torch.ones(3), points=torch.ones(3, 2), score_function=lambda x: x.sum(1, keepdim=True))


def test_anomaly_features_have_a_default_loss_and_need_no_targets():
    criterion = losskit.build({"output_features": [{"name": "odd", "type": "anomaly"}]})
    total, parts = criterion({"odd": torch.tensor([1.0, 2.0])})
    assert list(parts) == ["odd/deep_svdd"]
    assert total > 0
