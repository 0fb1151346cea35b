"""Balancing of losses: each strategy against a truth written from its paper, and what all of them keep."""

import copy
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import losskit
from losskit.distributed import Counts
from losskit.modules.balancing import balanced
from losskit.modules.balancing_by_gradient import (
    GradNormBalancing,
    NashMTLBalancing,
    PCGradBalancing,
)
from losskit.modules.balancing_by_value import (
    DWABalancing,
    FAMOBalancing,
    LogTransformBalancing,
    NoneBalancing,
    ParetoMTLBalancing,
    UncertaintyBalancing,
)
from losskit.strategies import strategies

ALL = [strategies.get(name).module.load() for name in strategies.names()]
BY_VALUE = [cls for cls in ALL if not cls.needs_gradients]
BY_GRADIENT = [cls for cls in ALL if cls.needs_gradients]
LOSSES = torch.tensor([0.5, 2.0, 30.0])
WEIGHTS = torch.tensor([1.0, 0.5, 0.1])


def name_of(cls):
    return cls.__name__


def numpy(tensor):
    return tensor.detach().double().numpy()


class Tasks(nn.Module):
    """Tasks that share a layer and have one each of their own; in float64, so that truths can be exact."""

    def __init__(self, num_tasks=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Linear(4, 5).double()
        self.heads = nn.ModuleList(nn.Linear(5, 1).double() for _ in range(num_tasks))
        self.inputs = torch.randn(6, 4, dtype=torch.float64)
        # On scales that differ, and partly against each other.
        self.targets = [torch.randn(6, dtype=torch.float64) * 3**task for task in range(num_tasks)]

    def losses(self, batch=0):
        hidden = torch.tanh(self.encoder(self.inputs.roll(batch, 0) + 0.1 * batch))
        pairs = zip(self.heads, self.targets)
        return [(head(hidden).squeeze(1) - target).square().mean() for head, target in pairs]

    def gradients(self):
        """A row per task: the gradient of its loss for the shared layer."""
        shared = list(self.encoder.parameters())
        rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in self.losses()]
        return np.stack([np.concatenate([numpy(part).ravel() for part in row]) for row in rows])

    def shared_gradient(self):
        """What `backward` has left in the shared layer."""
        return np.concatenate([numpy(p.grad).ravel() for p in self.encoder.parameters()])


def total_of(balancing, tasks, weights=(1.0, 0.5, 2.0), batch=0, present=(True, True, True), **keywords):
    losses = [loss if is_there else loss * 0 for loss, is_there in zip(tasks.losses(batch), present)]
    shared = list(tasks.encoder.parameters())
    return balanced(balancing, losses, weights, shared=shared, present=present, **keywords)


# Closed forms


def test_none_is_the_weighted_sum():
    assert NoneBalancing(3)(LOSSES, WEIGHTS) == pytest.approx(0.5 + 1.0 + 3.0)


def test_log_transform_is_the_logarithm_of_one_more():
    expected = numpy(WEIGHTS) @ np.log(1 + numpy(LOSSES))
    assert LogTransformBalancing(3)(LOSSES, WEIGHTS) == pytest.approx(expected)


def test_log_transform_of_losses_below_zero_stays_finite_and_smooth():
    # Likelihoods of narrow densities have no lower bound; 1 + loss would be 0 at -1.
    losses = torch.tensor([-0.4999, -0.5001, -1.0, -100.0], dtype=torch.float64, requires_grad=True)
    total = LogTransformBalancing(4)(losses, torch.ones(4))
    total.backward()
    truth = np.log1p(-0.4999) + sum(np.log(0.5) + 2 * (loss + 0.5) for loss in (-0.5001, -1.0, -100.0))
    assert total.item() == pytest.approx(truth)
    assert numpy(losses.grad) == pytest.approx([1 / 0.5001, 2, 2, 2], rel=1e-3)


def test_uncertainty_is_kendall_s_form_for_classification():
    balancing = UncertaintyBalancing(3)
    spread = np.array([0.3, -1.0, 25.0])
    balancing.log_variances.data = torch.tensor(spread, dtype=torch.float32)
    kept = np.clip(spread, -20, 20)
    expected = numpy(WEIGHTS) @ (np.exp(-kept) * numpy(LOSSES) + kept / 2)
    total = balancing(LOSSES, WEIGHTS)
    assert total.item() == pytest.approx(expected)
    total.backward()
    gradient = numpy(WEIGHTS) * (0.5 - np.exp(-kept) * numpy(LOSSES)) * (spread == kept)
    assert numpy(balancing.log_variances.grad) == pytest.approx(gradient)


def test_uncertainty_finds_the_optimum_that_the_page_names():
    balancing = UncertaintyBalancing(3)
    optimizer = torch.optim.Adam(balancing.parameters(), lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        balancing(LOSSES, WEIGHTS).backward()
        optimizer.step()
    assert numpy(balancing.log_variances.exp()) == pytest.approx(2 * numpy(LOSSES), rel=1e-3)


@pytest.mark.parametrize("mixed", [0.0, 0.25, 1.0])
def test_pareto_mtl_blends_the_sum_with_the_largest(mixed):
    preferred = np.array([1, 2, 5]) / 8 * numpy(WEIGHTS) * numpy(LOSSES)
    balancing = ParetoMTLBalancing(3, preference_vector=[1, 2, 5], tchebycheff_weight=mixed)
    expected = (1 - mixed) * preferred.sum() + mixed * preferred.max()
    assert balancing(LOSSES, WEIGHTS).item() == pytest.approx(expected)


def test_pareto_mtl_pulls_losses_to_the_inverse_of_the_preferences():
    # Of two losses with a straight front, L1 + L2 = 1, the sum alone would leave one of them as it is.
    position = torch.tensor(0.5, requires_grad=True)
    balancing = ParetoMTLBalancing(2, preference_vector=[3, 1], tchebycheff_weight=1.0)
    optimizer = torch.optim.SGD([position], lr=1e-3)
    for _ in range(2000):
        optimizer.zero_grad()
        balancing(torch.stack([position, 1 - position]), torch.ones(2)).backward()
        optimizer.step()
    assert position.item() == pytest.approx(0.25, abs=2e-3)


# What Ludwig's own classes gave for these losses and weights.
LUDWIG = {
    NoneBalancing: 4.5,
    LogTransformBalancing: 1.2981699705123901,
    UncertaintyBalancing: 4.5,
    ParetoMTLBalancing: 1.25,
}


@pytest.mark.parametrize("cls", LUDWIG, ids=name_of)
def test_closed_forms_have_ludwig_s_values(cls):
    assert cls(3)(LOSSES, WEIGHTS).item() == pytest.approx(LUDWIG[cls])


# FAMO


def softmax(x):
    powers = np.exp(x - x.max())
    return powers / powers.sum()


class Adam:
    """As in the paper, with weight decay added to the gradient."""

    def __init__(self, value, lr):
        self.value, self.lr, self.m, self.v, self.t = np.array(value, float), lr, 0.0, 0.0, 0

    def step(self, gradient):
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        self.value -= self.lr * (self.m / (1 - 0.9**self.t)) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8)


def famo_gradient(xi, before, now, gamma):
    z = softmax(xi)
    jacobian = np.diag(z) - np.outer(z, z)
    return jacobian.T @ (np.log(before + 1e-8) - np.log(now + 1e-8)) + gamma * xi


def falling(step, num_tasks=3):
    """Losses of different scales that fall at different speeds, with some noise."""
    noise = np.random.default_rng(step).uniform(0.9, 1.1, num_tasks)
    return noise * 10.0 ** np.arange(num_tasks) * np.exp(-0.05 * step * np.arange(1, num_tasks + 1))


def test_famo_s_value_and_gradient_are_the_paper_s():
    balancing = FAMOBalancing(3).double().eval()
    xi = np.array([0.4, -0.2, 1.1])
    balancing.logits.data = torch.tensor(xi)
    losses = LOSSES.double().requires_grad_()
    total = balancing(losses, torch.ones(3))
    excess = numpy(LOSSES) + 1e-8
    scale = 1 / (softmax(xi) / excess).sum()
    assert total.item() == pytest.approx(scale * softmax(xi) @ np.log(excess))
    (gradient,) = torch.autograd.grad(total, losses)
    # The step goes along a mean of the gradients.
    assert numpy(gradient) == pytest.approx(scale * softmax(xi) / excess)
    assert gradient.sum() == pytest.approx(1.0)


def test_famo_learns_as_a_reference_by_hand_with_adam():
    balancing = FAMOBalancing(3, gamma=0.01).double()
    optimizer = torch.optim.Adam(balancing.parameters(), lr=0.025)
    xi, before = Adam(np.zeros(3), 0.025), None
    for step in range(30):
        now = falling(step)
        optimizer.zero_grad()
        balancing(torch.tensor(now), torch.ones(3)).backward()
        optimizer.step()
        balancing.step()
        # The first step has no losses to compare with; all weights are alike, so nothing decays either.
        xi.step(famo_gradient(xi.value, now if before is None else before, now, 0.01))
        before = now
        assert numpy(balancing.logits) == pytest.approx(xi.value, abs=1e-5)
    # The loss that falls least gains weight.
    assert xi.value.argmax() == 0


def test_famo_updates_from_one_batch_before_and_after_the_step():
    balancing = FAMOBalancing(3, gamma=0.01).double()
    optimizer = torch.optim.Adam(balancing.parameters(), lr=0.025)
    xi = Adam(np.zeros(3), 0.025)
    for step in range(10):
        before, after = falling(step), falling(step + 100)
        balancing(torch.tensor(before), torch.ones(3)).backward()
        balancing.update([torch.tensor(loss) for loss in after])
        optimizer.step()
        balancing.step()
        xi.step(famo_gradient(xi.value, before, after, 0.01))
        assert numpy(balancing.logits) == pytest.approx(xi.value, abs=1e-5)


def test_famo_compares_steps_and_not_the_parts_of_one():
    # Two calls before a step, as with accumulated gradients: their mean counts.
    balancing = FAMOBalancing(2, gamma=0.0).double()
    for losses in ([1.0, 1.0], [3.0, 5.0]):
        balancing(torch.tensor(losses), torch.ones(2)).backward()
    balancing.step()
    balancing.logits.grad = None
    balancing(torch.tensor([1.0, 3.0]), torch.ones(2)).backward()
    expected = famo_gradient(np.zeros(2), np.array([2.0, 3.0]), np.array([1.0, 3.0]), 0.0)
    assert numpy(balancing.logits.grad) == pytest.approx(expected, rel=1e-5)


def test_famo_measures_from_the_least_losses():
    losses = torch.tensor([-1.0, 2.0], dtype=torch.float64, requires_grad=True)
    total = FAMOBalancing(2, min_losses=[-3.0, 0.0])(losses, torch.ones(2))
    assert total.item() == pytest.approx(np.log(2) * 2, rel=1e-6)
    total.backward()
    assert numpy(losses.grad) == pytest.approx([0.5, 0.5])


def test_famo_of_a_loss_below_its_least_value_stays_finite_and_lowers_it():
    losses = torch.tensor([-1.0, 2.0], requires_grad=True)
    FAMOBalancing(2)(losses, torch.ones(2)).backward()
    assert losses.grad[0] > 0.99
    assert torch.isfinite(losses.grad).all()


# DWA


@pytest.mark.parametrize("period", [1, 4])
def test_dwa_weighs_by_the_fall_from_period_to_period(period):
    balancing = DWABalancing(3, temperature=0.7, period=period).double()
    means = []
    for start in range(6):
        losses = [falling(start * period + step) for step in range(period)]
        expected = np.ones(3) if len(means) < 2 else 3 * softmax(means[-1] / means[-2] / 0.7)
        for now in losses:
            total = balancing(torch.tensor(now), torch.tensor([1.0, 0.5, 2.0]))
            assert total.item() == pytest.approx(expected * [1.0, 0.5, 2.0] @ now, rel=1e-5)
            balancing.step()
        means.append(np.mean(losses, axis=0))


def test_dwa_counts_parts_of_a_batch_as_the_whole():
    whole, parts = (DWABalancing(2, period=1).double() for _ in range(2))
    for step in range(4):
        one, other = falling(2 * step, 2), falling(2 * step + 1, 2)
        expected = whole(torch.tensor(0.25 * one + 0.75 * other), torch.ones(2))
        found = [
            parts(torch.tensor(share * losses), torch.ones(2), share=share)
            for share, losses in ((0.25, one), (0.75, other))
        ]
        assert sum(found).item() == pytest.approx(expected.item(), rel=1e-6)
        whole.step()
        parts.step()


@pytest.mark.parametrize("losses", [[0.0, 1.0], [1e-40, 1.0], [-1.0, 1.0]])
def test_dwa_of_losses_that_are_nothing_or_negative_is_finite(losses):
    balancing = DWABalancing(2, period=1)
    for factor in (1.0, 1.0, 1e6, 1.0):
        total = balancing(torch.tensor(losses) * factor, torch.ones(2))
        balancing.step()
        assert torch.isfinite(total)


# GradNorm


def gradnorm_truth(tasks, task_weights, initial, alpha):
    """The gradient of the paper's L_grad for its weights, by differentiating through the norms."""
    shared = list(tasks.encoder.parameters())
    raw = torch.tensor(task_weights, requires_grad=True)
    losses = tasks.losses()
    norms = []
    for weight, loss in zip(raw, losses):
        gradients = torch.autograd.grad(weight * loss, shared, create_graph=True)
        norms.append(torch.cat([g.flatten() for g in gradients]).norm())
    norms = torch.stack(norms)
    quotients = torch.stack([loss.detach() / start for loss, start in zip(losses, initial)])
    targets = (norms.mean() * (quotients / quotients.mean()) ** alpha).detach()
    (gradient,) = torch.autograd.grad((norms - targets).abs().sum(), raw)
    return gradient.numpy()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_gradnorm_has_the_gradient_of_the_paper_s_loss(alpha):
    tasks, balancing = Tasks(), GradNormBalancing(3, alpha=alpha).double()
    start = [loss.item() for loss in tasks.losses()]
    optimizer = torch.optim.SGD([{"params": tasks.parameters()}, {"params": balancing.parameters()}], lr=0.02)
    for _ in range(5):
        used = numpy(balancing.task_weights)
        expected = gradnorm_truth(tasks, used, start, alpha)
        losses = [loss.item() for loss in tasks.losses()]
        optimizer.zero_grad()
        total = total_of(balancing, tasks)
        assert total.item() == pytest.approx((np.array([1.0, 0.5, 2.0]) * used) @ losses)
        total.backward()
        assert numpy(balancing.task_weights.grad) == pytest.approx(expected, rel=1e-5)
        optimizer.step()
        balancing.step()
        assert balancing.task_weights.sum().item() == pytest.approx(3.0)
        assert (balancing.task_weights > 0).all()
    assert not np.allclose(numpy(balancing.task_weights), 1, atol=0.01)


def test_gradnorm_evens_out_the_norms():
    tasks, balancing = Tasks(), GradNormBalancing(3, alpha=0.0)
    optimizer = torch.optim.Adam(balancing.parameters(), lr=0.01)
    for _ in range(600):
        optimizer.zero_grad()
        total_of(balancing, tasks).backward()
        optimizer.step()
        balancing.step()
    norms = numpy(balancing.task_weights) * np.linalg.norm(tasks.gradients(), axis=1)
    assert norms == pytest.approx(norms.mean(), rel=0.1)


def test_gradnorm_s_weights_stay_positive_whatever_the_step():
    balancing = GradNormBalancing(2)
    balancing.task_weights.data = torch.tensor([3.0, -1.0])
    balancing.step()
    assert (balancing.task_weights > 0).all()
    assert balancing.task_weights.sum().item() == pytest.approx(2.0)


# Nash-MTL


def gram_matrices():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        num_tasks = 2 + seed % 5
        vectors = rng.normal(size=(num_tasks, num_tasks + 3)) * 10.0 ** rng.integers(-4, 5, num_tasks)[:, None]
        if seed % 2:
            # Nearly against each other.
            vectors[0] = -vectors[1] * (np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1])) + 0.05 * vectors[0]
        yield vectors @ vectors.T


@pytest.mark.parametrize("gram", list(gram_matrices()), ids=lambda gram: str(len(gram)))
@pytest.mark.parametrize("normalize", [True, False])
def test_nash_mtl_solves_the_bargaining_equation(gram, normalize):
    size = len(gram)
    balancing = NashMTLBalancing(size, normalize=normalize).double()
    losses = torch.ones(size, dtype=torch.float64, requires_grad=True)
    balancing(losses, torch.ones(size), gram=torch.tensor(gram)).backward()
    alpha = numpy(losses.grad)
    scaled = gram / np.linalg.norm(gram) if normalize else gram
    assert (alpha > 0).all()
    assert alpha * (scaled @ alpha) == pytest.approx(np.ones(size), rel=1e-6)


def test_nash_mtl_finds_what_a_general_optimizer_finds():
    gram = next(gram_matrices())
    gram = gram / np.linalg.norm(gram)

    def cost(logarithms):
        alpha = np.exp(logarithms)
        return alpha @ gram @ alpha / 2 - logarithms.sum()

    found = optimize.minimize(cost, np.zeros(len(gram)), method="BFGS", options={"gtol": 1e-9}).x
    balancing = NashMTLBalancing(len(gram))
    balancing(torch.ones(len(gram)), torch.ones(len(gram)), gram=torch.tensor(gram))
    assert numpy(balancing.alphas) == pytest.approx(np.exp(found), rel=1e-4)


def test_nash_mtl_takes_the_gradients_of_the_shared_layer():
    tasks, balancing = Tasks(), NashMTLBalancing(3, normalize=False)
    total_of(balancing, tasks, (1.0, 1.0, 1.0)).backward()
    gradients = tasks.gradients()
    step = tasks.shared_gradient()
    # Of each task, the step's gain is the inverse of its weight; the step's norm follows from the number of tasks.
    assert gradients @ step == pytest.approx(1 / numpy(balancing.alphas), rel=1e-5)
    assert np.linalg.norm(step) == pytest.approx(np.sqrt(3), rel=1e-5)


def test_nash_mtl_does_not_care_for_the_scale_of_a_loss():
    steps = []
    for scale in (1.0, 1000.0):
        tasks, balancing = Tasks(), NashMTLBalancing(3, normalize=False)
        losses = [loss * factor for loss, factor in zip(tasks.losses(), (1.0, scale, 1.0))]
        shared = list(tasks.encoder.parameters())
        balanced(balancing, losses, [1.0] * 3, shared=shared, present=[True] * 3).backward()
        steps.append(tasks.shared_gradient())
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)


def test_nash_mtl_s_largest_norm_is_that_of_the_shared_gradient():
    tasks, balancing = Tasks(), NashMTLBalancing(3, max_norm=0.125)
    total_of(balancing, tasks).backward()
    assert np.linalg.norm(tasks.shared_gradient()) == pytest.approx(0.125, rel=1e-5)
    tasks.zero_grad()
    total_of(NashMTLBalancing(3, max_norm=1e6), tasks).backward()
    long = tasks.shared_gradient()
    tasks.zero_grad()
    total_of(NashMTLBalancing(3), tasks).backward()
    assert tasks.shared_gradient() == pytest.approx(long)


def test_nash_mtl_computes_its_weights_every_few_steps():
    tasks, balancing = Tasks(), NashMTLBalancing(3, update_every=3)
    seen = []
    for step in range(7):
        assert balancing.wants_gradients == (step % 3 == 0)
        total_of(balancing, tasks, batch=step)
        seen.append(balancing.alphas.tolist())
        balancing.step()
    assert seen[0] == seen[1] == seen[2] != seen[3] == seen[5] != seen[6]


@pytest.mark.parametrize(
    "gram",
    [
        [[1.0, -1.0], [-1.0, 1.0]],  # they oppose each other: nothing can be gained
        [[1.0, 1.0], [1.0, 1.0]],  # they are the same
        [[0.0, 0.0], [0.0, 1.0]],  # one has nothing to gain
        [[0.0, 0.0], [0.0, 0.0]],
        [[1e-30, 0.0], [0.0, 1e30]],
        [[torch.inf, 0.0], [0.0, 1.0]],  # an overflow
    ],
)
def test_nash_mtl_is_finite_where_there_is_no_solution(gram):
    balancing = NashMTLBalancing(2)
    total = balancing(torch.ones(2), torch.ones(2), gram=torch.tensor(gram))
    assert torch.isfinite(total)
    assert torch.isfinite(balancing.alphas).all()
    assert (balancing.alphas >= 0).all()


# PCGrad


def pcgrad_truth(gradients, weights, order):
    total = 0
    for task, gradient in enumerate(gradients):
        projected = gradient.copy()
        for other in order[task]:
            product = projected @ gradients[other]
            if other != task and product < 0:
                projected = projected - product / (gradients[other] @ gradients[other]) * gradients[other]
        total = total + weights[task] * projected
    return total


@pytest.mark.parametrize("seed", range(8))
def test_pcgrad_is_the_projection_of_the_vectors(seed):
    num_tasks = 2 + seed % 4
    tasks, balancing = Tasks(num_tasks, seed), PCGradBalancing(num_tasks, seed=seed)
    weights = list(np.random.default_rng(seed).uniform(0.5, 2, num_tasks))
    for _ in range(3):
        gradients, order = tasks.gradients(), balancing.order().numpy()
        assert sorted(order[0]) == list(range(num_tasks))
        tasks.zero_grad()
        total = total_of(balancing, tasks, weights, present=[True] * num_tasks)
        total.backward()
        assert tasks.shared_gradient() == pytest.approx(pcgrad_truth(gradients, weights, order), rel=1e-6)
        assert total.item() == pytest.approx(weights @ np.array([loss.item() for loss in tasks.losses()]))


def test_some_of_those_gradients_do_conflict():
    grams = [Tasks(2 + seed % 4, seed).gradients() for seed in range(8)]
    assert sum((gradients @ gradients.T < 0).any() for gradients in grams) >= 5


def test_pcgrad_s_order_changes_from_call_to_call_and_follows_from_the_seed():
    one, same, other = PCGradBalancing(5, seed=1), PCGradBalancing(5, seed=1), PCGradBalancing(5, seed=2)
    gram = torch.eye(5)
    orders = []
    for _ in range(4):
        assert torch.equal(one.order(), same.order())
        assert not torch.equal(one.order(), other.order())
        orders.append(one.order().tolist())
        for balancing in (one, same, other):
            balancing(torch.ones(5), torch.ones(5), gram=gram)
    assert len({str(order) for order in orders}) == 4


def test_pcgrad_leaves_gradients_that_agree_alone():
    balancing = PCGradBalancing(2)
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    balancing(losses, torch.tensor([1.0, 0.5]), gram=torch.tensor([[1.0, 0.3], [0.3, 4.0]])).backward()
    assert losses.grad.tolist() == [1.0, 0.5]


# What all of them keep


def train(cls, steps, states=None):
    """Trains for some steps, from saved states where there are some; returns the states and the totals."""
    tasks, balancing = Tasks(), cls(3, **({"period": 2} if cls is DWABalancing else {}))
    optimizer = torch.optim.Adam([*tasks.parameters(), *balancing.parameters()], lr=0.02)
    parts = (tasks, balancing, optimizer)
    if states is not None:
        for part, state in zip(parts, torch.load(io.BytesIO(states))):
            part.load_state_dict(state)
    totals = []
    for step in steps:
        optimizer.zero_grad()
        total = total_of(balancing, tasks, batch=step, present=(True, step % 3 != 2, True))
        total.backward()
        optimizer.step()
        balancing.step()
        totals.append(total.item())
    saved = io.BytesIO()
    torch.save([part.state_dict() for part in parts], saved)
    return saved.getvalue(), totals


@pytest.mark.parametrize("cls", ALL, ids=name_of)
def test_training_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(cls):
    _, expected = train(cls, range(12))
    states, first = train(cls, range(7))
    _, second = train(cls, range(7, 12), states)
    assert first + second == expected


@pytest.mark.parametrize("cls", [NoneBalancing, LogTransformBalancing, ParetoMTLBalancing], ids=name_of)
def test_what_has_no_state_saves_none(cls):
    assert not cls(3).state_dict()


@pytest.mark.parametrize("cls", ALL, ids=name_of)
def test_nothing_is_learned_in_evaluation_and_without_gradients(cls):
    balancing, tasks = cls(3), Tasks()
    for batch in range(3):
        total_of(balancing, tasks, batch=batch)
        balancing.step()
    before = copy.deepcopy(balancing.state_dict())
    with torch.no_grad():
        total_of(balancing, tasks, batch=5)
    balancing.eval()
    # Without what is shared too, for there are no gradients to take.
    total = balanced(balancing, tasks.losses(), [1.0] * 3, shared=None, present=[True] * 3)
    assert torch.isfinite(total)
    total.backward()
    assert all(parameter.grad is None or cls is UncertaintyBalancing for parameter in balancing.parameters())
    for name, value in balancing.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("cls", ALL, ids=name_of)
def test_an_absent_task_disturbs_nothing(cls):
    # With two tasks, or with three of which the last is never there: the same totals, gradients and state.
    pair, three = Tasks(2), Tasks(3)
    three.load_state_dict({**three.state_dict(), **pair.state_dict()})
    three.inputs, three.targets[:2] = pair.inputs, pair.targets
    one, other = cls(2), cls(3)
    keeps_sum = cls in (DWABalancing, GradNormBalancing)  # 2 or 3, of which an absent task has one
    has_mean = cls is ParetoMTLBalancing  # equal preferences are 1/2 or 1/3
    for step in range(4):
        pair.zero_grad()
        three.zero_grad()
        for balancing in (one, other):
            balancing.zero_grad()
        expected = total_of(one, pair, (1.0, 0.5), step, (True, True))
        found = total_of(other, three, (1.0, 0.5, 2.0), step, (True, True, False))
        expected.backward()
        found.backward()
        factor = 2 / 3 if has_mean else 1.0
        if not (keeps_sum and step) and cls is not PCGradBalancing:
            assert found.item() == pytest.approx(factor * expected.item(), rel=1e-5)
            assert three.shared_gradient() == pytest.approx(factor * pair.shared_gradient(), rel=1e-5)
        # The parameters of its own have a gradient, 0, as DistributedDataParallel asks for.
        assert all(not parameter.grad.any() for parameter in three.heads[2].parameters())
        for mine, theirs in zip(one.parameters(), other.parameters()):
            assert numpy(theirs.grad[:2]) == pytest.approx(numpy(mine.grad), rel=1e-4)
            assert theirs.grad[2] == 0
        one.step()
        other.step()


@pytest.mark.parametrize("cls", ALL, ids=name_of)
def test_a_batch_without_any_task_gives_an_attached_zero(cls):
    tasks, balancing = Tasks(), cls(3)
    for present in ((True,) * 3, (False,) * 3):
        tasks.zero_grad()
        balancing.zero_grad()
        total = total_of(balancing, tasks, present=present)
        total.backward()
        balancing.step()
    assert total.item() == 0
    assert not tasks.shared_gradient().any()
    assert all(not p.grad.any() for p in balancing.parameters())


@pytest.mark.parametrize("cls", ALL, ids=name_of)
def test_a_loss_that_once_overflows_spoils_nothing_that_comes_after(cls):
    balancing = cls(2, **({"period": 1} if cls is DWABalancing else {}))
    shared = torch.ones(3, requires_grad=True)
    for factor in (1.0, float("inf"), 1.0, 1.0, 1.0):
        losses = [factor * shared.square().sum(), shared.exp().sum()]
        total = balanced(balancing, losses, [1.0, 1.0], shared=[shared], present=[True, True])
        balancing.step()
    assert torch.isfinite(total)
    assert all(torch.isfinite(value).all() for value in balancing.state_dict().values())


@pytest.mark.parametrize("cls", BY_VALUE, ids=name_of)
def test_it_compiles_into_one_graph_once_and_for_all(cls):
    torch._dynamo.reset()
    compiled, plain = (cls(3, **({"period": 2} if cls is DWABalancing else {})) for _ in range(2))
    counter = CompileCounterWithBackend("aot_eager")

    def total(balancing, values):
        losses = list(values.unbind())
        return balanced(balancing, losses, [1.0, 0.5, 2.0], shared=None, present=[True, True, True])

    fast = torch.compile(total, backend=counter, fullgraph=True)
    for step in range(6):
        inputs = [torch.tensor(falling(step), dtype=torch.float32, requires_grad=True) for _ in range(2)]
        found, expected = fast(compiled, inputs[0]), total(plain, inputs[1])
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)
        for balancing, value in ((compiled, found), (plain, expected)):
            balancing.zero_grad()
            value.backward()
            balancing.step()
        assert numpy(inputs[0].grad) == pytest.approx(numpy(inputs[1].grad), rel=1e-5)
        for one, other in zip(compiled.state_dict().values(), plain.state_dict().values()):
            assert numpy(one) == pytest.approx(numpy(other), rel=1e-5)
    assert counter.frame_count == 1


@pytest.mark.parametrize("cls", BY_GRADIENT, ids=name_of)
def test_with_a_compiled_model_gradients_are_taken_between_graphs(cls):
    torch._dynamo.reset()
    plain, compiled = Tasks(), Tasks()
    one, other = cls(3), cls(3)
    losses_of = torch.compile(compiled.losses, backend="aot_eager")
    with torch._functorch.config.patch(donated_buffer=False):
        for _ in range(2):
            losses = losses_of()
            shared = list(compiled.encoder.parameters())
            found = balanced(other, losses, [1.0, 0.5, 2.0], shared=shared, present=[True] * 3)
            found.backward()
    for _ in range(2):
        expected = total_of(one, plain)
        expected.backward()
    assert found.item() == pytest.approx(expected.item())
    assert compiled.shared_gradient() == pytest.approx(plain.shared_gradient())


@pytest.mark.parametrize("cls", BY_GRADIENT, ids=name_of)
def test_what_is_around_gradients_is_compiled_once(cls):
    torch._dynamo.reset()
    tasks, balancing, counter = Tasks(), cls(3), CompileCounterWithBackend("aot_eager")
    step = torch.compile(lambda: 2 * total_of(balancing, tasks), backend=counter)
    frames = []
    with torch._functorch.config.patch(donated_buffer=False):
        for _ in range(4):
            step().backward()
            balancing.step()
            frames.append(counter.frame_count)
    assert frames[0] == frames[-1]


@pytest.mark.parametrize("cls", BY_VALUE, ids=name_of)
def test_a_whole_criterion_compiles_into_one_graph_once_and_for_all(cls):
    torch._dynamo.reset()
    name, counter = strategy_name(cls), CompileCounterWithBackend("aot_eager")
    ours = {"loss_balancing": {"type": "dwa", "period": 2} if name == "dwa" else name, "losses": ["mse", "huber"]}
    criterion, plain = losskit.build(ours), losskit.build(ours)
    compiled = torch.compile(criterion, backend=counter, fullgraph=True)
    for step in range(5):
        predictions = torch.full((4,), 3.0 - step / 2, requires_grad=True)
        total = compiled(predictions, torch.zeros(4)).total
        assert total.item() == pytest.approx(plain(predictions, torch.zeros(4)).total.item())
        total.backward()
        criterion.step()
        plain.step()
    assert counter.frame_count == 1


@pytest.mark.parametrize("cls", ALL, ids=name_of)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(cls, dtype):
    results = []
    for is_half in (False, True):
        balancing = cls(2)
        if is_half:
            balancing.to(dtype)
        shared = torch.tensor([1.0, 2.0], dtype=dtype if is_half else torch.float32, requires_grad=True)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                losses = [shared.square().sum(), (shared - 3).square().sum()]
                total = balanced(balancing, losses, [1.0, 0.5], shared=[shared], present=[True, True])
            total.backward()
            balancing.step()
        assert total.dtype == torch.float32
        results.append((total.item(), shared.grad.float().tolist()))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-3)
    assert results[1][1] == pytest.approx(results[0][1], rel=0.02)


def test_counts_and_sums_are_not_rounded_by_a_model_in_half_precision():
    balancing = DWABalancing(2, period=1000).bfloat16()
    for _ in range(300):
        balancing(torch.ones(2), torch.ones(2))
        balancing.step()
    # In bfloat16, 256 + 1 is 256.
    assert balancing.period_sums.tolist() == [[300.0, 300.0]] * 2


@pytest.mark.parametrize("cls", [UncertaintyBalancing, NoneBalancing, DWABalancing], ids=name_of)
def test_parts_of_a_batch_add_up_where_the_strategy_says_so(cls):
    whole, parts = cls(2), cls(2)
    if cls is UncertaintyBalancing:
        for balancing in (whole, parts):
            balancing.log_variances.data = torch.tensor([0.5, -0.5])
    losses = [torch.tensor(2.0), torch.tensor(3.0)]
    given = {"shared": None, "present": [True, True]}
    expected = balanced(whole, losses, [1.0, 0.5], **given)
    found = [balanced(parts, [s * loss for loss in losses], [1.0, 0.5], share=s, **given) for s in (0.3, 0.7)]
    assert sum(found).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("cls", [cls for cls in ALL if not cls.is_additive], ids=name_of)
@pytest.mark.parametrize("share", [0.5, torch.tensor(0.5)], ids=["number", "tensor"])
def test_a_part_of_a_batch_is_refused_where_parts_do_not_add_up(cls, share):
    with pytest.raises(ValueError, match="weighs by the losses of the whole batch, so that the parts"):
        balanced(cls(1), [torch.tensor(1.0)], [1.0], shared=None, present=[True], share=share)


@pytest.mark.parametrize("cls", BY_GRADIENT, ids=name_of)
def test_missing_gradients_are_told_with_the_cure(cls):
    leaf = torch.ones(2, requires_grad=True)
    losses, rest = [leaf.sum(), leaf.square().sum()], {"present": [True, True]}
    with pytest.raises(ValueError, match=r"call criterion\.share\(model\.encoder\)"):
        balanced(cls(2), losses, [1.0, 1.0], shared=None, **rest)
    with pytest.raises(ValueError, match="nothing that is shared requires one"):
        balanced(cls(2), losses, [1.0, 1.0], shared=[torch.ones(2)], **rest)
    with pytest.raises(ValueError, match="no loss depends on what is shared"):
        balanced(cls(2), losses, [1.0, 1.0], shared=[torch.ones(2, requires_grad=True)], **rest)


def test_what_the_encoder_gives_may_be_shared_in_place_of_its_parameters():
    tasks, balancing = Tasks(), NashMTLBalancing(3, normalize=False)
    hidden = torch.tanh(tasks.encoder(tasks.inputs))
    losses = [(head(hidden).squeeze(1) - t).square().mean() for head, t in zip(tasks.heads, tasks.targets)]
    balanced(balancing, losses, [1.0] * 3, shared=[hidden], present=[True] * 3)
    rows = np.stack([numpy(torch.autograd.grad(loss, hidden, retain_graph=True)[0]).ravel() for loss in losses])
    alphas = numpy(balancing.alphas)
    assert alphas * (rows @ rows.T @ alphas) == pytest.approx(np.ones(3), rel=1e-5)


def test_parameters_in_pieces_are_refused_with_the_cure():
    code = """
import torch
from torch.distributed import init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor
from losskit.modules.balancing import balanced
from losskit.modules.balancing_by_gradient import GradNormBalancing
init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
piece = torch.nn.Parameter(distribute_tensor(torch.ones(2), init_device_mesh("cpu", (1,))))
try:
    balanced(GradNormBalancing(1), [torch.ones((), requires_grad=True)], [1.0], shared=[piece], present=[True])
except ValueError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "share what the encoder computes: criterion(predictions, targets, shared=hidden)" in result.stdout, result


def test_weights_may_be_tensors_that_a_schedule_changes():
    weights = [1.0, torch.tensor(0.5, dtype=torch.float64)]
    total = balanced(NoneBalancing(2), [torch.tensor(1.0)] * 2, weights, shared=None, present=[True, True])
    assert (total.item(), total.dtype) == (1.5, torch.float32)


@pytest.mark.parametrize("cls", ALL, ids=name_of)
def test_a_strategy_moves_is_copied_and_pickled(cls):
    balancing, tasks = cls(3), Tasks()
    for step in range(3):
        total_of(balancing, tasks, batch=step)
        balancing.step()
    saved = io.BytesIO()
    torch.save(balancing, saved)
    saved.seek(0)
    copies = [copy.deepcopy(balancing), torch.load(saved, weights_only=False)]
    totals = [total_of(each, tasks).item() for each in (balancing, *copies)]
    assert totals[0] == totals[1] == totals[2]
    assert all(value.device.type == "meta" for value in balancing.to("meta").state_dict().values())


@pytest.mark.parametrize("cls", ALL, ids=name_of)
def test_the_docstring_has_what_a_reader_needs_and_its_defaults_those_of_the_config(cls):
    for part in ("$", "Source: ", ">>> "):
        assert part in cls.__doc__
    entry = next(e for e in strategies.entries() if e.module.load() is cls)
    config = entry.config.load()()
    shown = repr(cls(3))
    for field in config.setting_fields():
        assert field.metadata["description"]
        assert f"{field.name}={getattr(config, field.name)!r}" in shown


CHANGES = {
    "gamma": 0.5,
    "min_losses": [-1.0, -2.0, 0.0],
    "alpha": 0.5,
    "update_every": 2,
    "max_norm": 0.5,
    "normalize": False,
    "preference_vector": [1.0, 2.0, 3.0],
    "tchebycheff_weight": 0.1,
    "temperature": 0.5,
    "period": 2,
    "seed": 7,
}
SETTINGS = [
    (entry.module.load(), field.name)
    for entry in strategies.entries()
    if entry.module.path.startswith("losskit.modules")
    for field in entry.config.load().setting_fields()
]


@pytest.mark.parametrize(("cls", "setting"), SETTINGS, ids=lambda part: getattr(part, "__name__", part))
def test_every_setting_acts(cls, setting):
    results = []
    base = {"period": 1} if cls is DWABalancing else {}
    for settings in (base, {**base, setting: CHANGES[setting]}):
        tasks, balancing = Tasks(), cls(3, **settings)
        optimizer = torch.optim.Adam([*tasks.parameters(), *balancing.parameters()], lr=0.1)
        for step in range(8):
            optimizer.zero_grad()
            total_of(balancing, tasks, batch=step).backward()
            optimizer.step()
            balancing.step()
        results.append(tasks.encoder.weight.tolist())
    assert results[0] != results[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoneBalancing(0), "num_tasks must be at least 1, got 0"),
        (lambda: ParetoMTLBalancing(2, preference_vector=[1.0]), "a number for each of the 2 tasks, got 1"),
        (lambda: ParetoMTLBalancing(2, preference_vector=[0.0, 0.0]), "one above 0"),
        (lambda: ParetoMTLBalancing(2, preference_vector=[-1.0, 2.0]), "numbers from 0 up"),
        (lambda: FAMOBalancing(2, min_losses=[0.0] * 3), "a number for each of the 2 tasks, got 3"),
    ],
)
def test_what_cannot_be_built_is_told(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Several ranks

RANK = """
import sys
import numpy as np, torch
import torch.distributed as dist
sys.path.insert(0, sys.argv[3])
from tests.test_balancing import ALL, Tasks, parts_of_a_batch, total_of
from losskit.modules.balancing import balanced
from torch.nn.parallel import DistributedDataParallel as DDP

rank, path = int(sys.argv[1]), sys.argv[2]


class Step(torch.nn.Module):
    def __init__(self, cls):
        super().__init__()
        self.tasks, self.balancing = Tasks(), cls(3, **({"period": 2} if "DWA" in cls.__name__ else {}))

    def forward(self, rows, batch):
        inputs, targets = self.tasks.inputs, self.tasks.targets
        self.tasks.inputs, self.tasks.targets = inputs.roll(batch, 0)[rows], [t[rows] for t in targets]
        total = total_of(self.balancing, self.tasks)
        self.tasks.inputs, self.tasks.targets = inputs, targets
        return total


def trained(cls, rows, wrap):
    step = Step(cls)
    wrapped, optimizer = wrap(step), torch.optim.SGD(step.parameters(), lr=0.01)
    totals, gradients = [], []
    for batch in range(6):
        optimizer.zero_grad()
        total = wrapped(rows, batch)
        total.backward()
        totals.append(total.detach())
        gradients.append([p.grad.clone() for p in step.parameters()])
        optimizer.step()
        step.balancing.step()
    return torch.stack(totals), gradients


alone = {cls: trained(cls, slice(0, 6), lambda step: step) for cls in ALL}
whole = {cls: parts_of_a_batch(cls, [slice(0, 8)], 1) for cls in ALL if cls.is_additive}
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
for cls, (totals, gradients) in alone.items():
    # Each rank has half of the rows, so that the mean of the halves is that of the whole.
    found_totals, found_gradients = trained(cls, slice(3 * rank, 3 * rank + 3), DDP)
    if cls.is_additive:
        dist.all_reduce(found_totals)
        found_totals /= 2
    np.testing.assert_allclose(found_totals, totals, rtol=1e-5, err_msg=cls.__name__)
    for found, expected in zip(found_gradients, gradients):
        for mine, theirs in zip(found, expected):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6, err_msg=cls.__name__)
    if not cls.needs_gradients and not cls.is_additive:
        # A task that one rank alone has counts with that rank's loss, and not with half of it.
        values = torch.tensor([2.0, 4.0 * rank])
        given = {"shared": None, "present": [True, rank == 1]}
        np.testing.assert_allclose(
            balanced(cls(2), list(values), [1.0, 1.0], **given).item(),
            cls(2)(torch.tensor([2.0, 4.0]), torch.ones(2)).item(),
            rtol=1e-6,
            err_msg=cls.__name__,
        )
for cls, expected in whole.items():
    # Rank 0 has two parts, rank 1 one; they wait for each other only at the end of a step.
    parts = [[slice(0, 1), slice(1, 5)], [slice(5, 8)]][rank]
    for mine, theirs in zip(parts_of_a_batch(cls, parts, 2), expected):
        dist.all_reduce(mine)
        np.testing.assert_allclose(mine / 2, theirs, rtol=1e-4, atol=1e-6, err_msg=cls.__name__)
print("alike")
dist.destroy_process_group()
"""


def parts_of_a_batch(cls, parts, num_ranks):
    """The gradients of one batch of 8 rows whose second feature has only rows 0 and 2, seen in parts."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    rows, targets = torch.randn(8, 4, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    is_there = torch.tensor([True, False, True, *[False] * 5])
    criterion = losskit.build(
        {
            "loss_balancing": {"type": "dwa", "period": 1} if cls is DWABalancing else strategy_name(cls),
            "output_features": [{"name": name, "type": "number", "loss": "mse"} for name in "abc"],
        }
    )
    counts = {f"{name}/mean_squared_error": torch.tensor(number / num_ranks) for name, number in zip("abc", (8, 2, 0))}
    for _ in range(3):
        model.zero_grad()
        criterion.zero_grad()
        for part in parts:
            predictions = dict(zip("abc", model(rows[part]).unbind(1)))
            labels = {"a": targets[part, 0]}
            if is_there[part].any():
                labels["b"] = {"targets": targets[part, 1], "mask": is_there[part]}
            criterion(predictions, labels, Counts(counts, len(parts))).total.backward()
        criterion.step()
    return [parameter.grad for parameter in (*model.parameters(), *criterion.parameters())]


def strategy_name(cls):
    return next(entry.name for entry in strategies.entries() if entry.module.load() is cls)


@pytest.mark.parametrize("cls", [NoneBalancing, UncertaintyBalancing, DWABalancing], ids=name_of)
def test_parts_of_a_batch_that_lack_a_task_add_up_to_the_batch(cls):
    expected = parts_of_a_batch(cls, [slice(0, 8)], 1)
    found = parts_of_a_batch(cls, [slice(0, 1), slice(1, 5), slice(5, 8)], 1)
    for mine, theirs in zip(found, expected):
        assert numpy(mine) == pytest.approx(numpy(theirs), rel=1e-5)
    if cls is UncertaintyBalancing:
        # No regulariser for the feature that the whole batch has nothing of, and a whole one for that of few parts.
        assert found[-1][2] == 0
        assert found[-1][1] != 0


def test_two_ranks_with_half_of_the_batch_each_weigh_as_one_with_all(tmp_path):
    root = str(Path(__file__).parent.parent)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store"), root],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert out == "alike\n", err
