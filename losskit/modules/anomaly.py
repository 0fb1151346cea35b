"""Losses that draw what is normal together and leave the rest outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import ANOMALY, ANOMALY_SCORE
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss, Loss, ones
from losskit.modules.reduction import reduce
from losskit.modules.shapes import alike, floating
from losskit.registry import register_loss
from losskit.schema.anomaly import DeepSadLossConfig, DeepSvddLossConfig, DroccLossConfig

ScoreFunction = Callable[[Tensor], Tensor]


def deep_svdd_loss(scores: Tensor, *, nu: float = 0.1, reduction: str = "mean") -> Tensor:
    """See `DeepSvddLoss`."""
    scores = _squared_distances(scores)
    if nu > 0 and scores.shape[0] > 0:
        radius = _quantile(scores.detach(), 1 - nu)
        scores = radius + (scores - radius).clamp_min(0) / nu
    return reduce(scores, reduction)


@register_loss("deep_svdd", [ANOMALY], schema=DeepSvddLossConfig)
class DeepSvddLoss(Loss):
    r"""Draws samples into a small sphere around a centre, so that distance tells what is not normal.

    With squared distances $d$ and their $(1 - \nu)$ quantile $R$: $L = R + \max(0, d - R) / \nu$, and $L = d$ for
    $\nu = 0$. The gradient does not go through $R$, so that only samples outside the sphere or on it are drawn in;
    it is that of the value where exactly $\nu N$ samples lie outside.

    Shapes: scores `(batch,)`, squared distances to the centre; a scalar, or `(batch,)` unreduced. It takes no targets.
    Dtypes: any floating-point; computed in float32 at least. The quantile is that of the batch: the loss of a batch is
    not that of its parts.
    Source: Ruff et al., "Deep One-Class Classification", 2018, with Ludwig's quantile in place of a line search.

    >>> DeepSvddLoss(nu=0.5)(torch.tensor([0.0, 1.0, 4.0]))  # R is 1
    tensor(3.)
    """

    def __init__(self, *, nu: float = 0.1, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.nu = nu

    @classmethod
    def get_loss_inputs(cls) -> str:
        return ANOMALY_SCORE

    @classmethod
    def get_loss_targets(cls) -> tuple[str, ...]:
        return ()

    def forward(self, scores: Tensor) -> Tensor:
        return deep_svdd_loss(scores, **self.settings())

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Ten samples, a tenth of which is a whole number."""
        return (torch.rand(10, generator=generator),), ()


def deep_sad_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    eta: float = 1.0,
    eps: float = 1e-6,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `DeepSadLoss`."""
    scores, labels = alike(scores, targets, ("scores", "targets"))
    scores = _squared_distances(scores)
    # Rounding makes squared distances negative, and one of -eps would divide by 0.
    inverse = eta / (scores.clamp_min(0) + eps)
    return reduce(torch.where(labels == 1, inverse, scores), reduction, normalizer=normalizer)


@register_loss("deep_sad", [ANOMALY], schema=DeepSadLossConfig)
class DeepSadLoss(AdditiveLoss):
    r"""Draws normal samples to a centre and pushes the few labelled anomalies away from it.

    With squared distances $d$: $L = \eta / (d + \varepsilon)$ for labelled anomalies, those of target 1, and $L = d$
    for all others. So labels are Ludwig's; the paper's -1 and 1 mean anomaly and normal, and its $\eta$ also weighs
    samples that are labelled as normal, which here count like unlabelled ones.

    Shapes: scores and targets `(batch,)`, alike; a scalar, or `(batch,)` unreduced.
    Dtypes: scores any floating-point, computed in float32 at least; targets bool, integer or float.
    Source: Ruff et al., "Deep Semi-Supervised Anomaly Detection", 2020; Ludwig, whose values it has.

    >>> DeepSadLoss()(torch.tensor([0.5, 4.0]), torch.tensor([0, 1]))
    tensor(0.3750)
    """

    def __init__(self, *, eta: float = 1.0, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.eta = eta
        self.eps = eps

    @classmethod
    def get_loss_inputs(cls) -> str:
        return ANOMALY_SCORE

    def forward(self, scores: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return deep_sad_loss(scores, targets, **self.settings(), normalizer=normalizer)


def drocc_loss(
    scores: Tensor,
    *,
    points: Tensor | None = None,
    score_function: ScoreFunction | None = None,
    perturbation_strength: float = 0.1,
    num_perturbation_steps: int = 5,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `DroccLoss`."""
    scores = _squared_distances(scores)
    if (points is None) != (score_function is None):
        missing = "points" if points is None else "score_function"
        raise ValueError(f"the adversary needs both points and score_function, but {missing} is missing")
    if points is None or score_function is None:
        found = _moved_inwards(scores, perturbation_strength * num_perturbation_steps)
    else:
        if not isinstance(points, Tensor) or points.shape[:1] != scores.shape:
            shape = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
            raise ValueError(f"scores {tuple(scores.shape)} and points {shape} are not of the same samples")
        start = points.detach()
        adversaries = _most_normal_nearby(start, score_function, perturbation_strength, num_perturbation_steps)
        found = _scores_of(score_function, adversaries).to(scores.dtype)
    values = scores + perturbation_strength * F.softplus(-found)
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("drocc", [ANOMALY], schema=DroccLossConfig)
class DroccLoss(AdditiveLoss):
    r"""Draws samples to a centre, and asks that points which an adversary finds near them stay away from it.

    With squared distances $d$, the adversary's $\tilde d$ and $s$ = `perturbation_strength`:
    $L = d + s \log(1 + e^{-\tilde d})$.

    Where `points` and `score_function` are given, the adversary follows the paper's: from each sample it takes
    `num_perturbation_steps` steps of length $s$ along the normalised gradient to where the model sees the most normal
    point, never nearer to the sample than $s$. Unlike the paper's, it starts at the sample and needs no random numbers,
    and one number is step, least distance and weight. The gradient does not go through its search.

    Where they are not, all that is known is the distance. Then the adversary moves each embedding straight towards the
    centre: $\tilde d = \max(0, \sqrt d - s \cdot \mathrm{steps})^2$. This reduced form slows the collapse into the
    centre, but it never sees the model and cannot prevent the collapse.

    Shapes: scores `(batch,)`, squared distances to the centre. Optional: `points` `(batch, ...)`, inputs or embeddings,
    and `score_function`, which takes such points and returns their scores. A scalar, or `(batch,)` unreduced. It takes
    no targets. Dtypes: any floating-point; computed in float32 at least.
    Source: Goyal et al., "DROCC: Deep Robust One-Class Classification", 2020, with squared distances for normal
    samples; the settings are Ludwig's.

    >>> DroccLoss()(torch.tensor([0.25, 1.0]))
    tensor(0.6885)
    """

    def __init__(
        self, *, perturbation_strength: float = 0.1, num_perturbation_steps: int = 5, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.perturbation_strength = perturbation_strength
        self.num_perturbation_steps = num_perturbation_steps

    @classmethod
    def get_loss_inputs(cls) -> str:
        return ANOMALY_SCORE

    @classmethod
    def get_loss_targets(cls) -> tuple[str, ...]:
        return ()

    @classmethod
    def get_optional_loss_inputs(cls) -> tuple[str, ...]:
        return "points", "score_function"

    def forward(
        self,
        scores: Tensor,
        *,
        points: Tensor | None = None,
        score_function: ScoreFunction | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        return drocc_loss(
            scores, points=points, score_function=score_function, **self.settings(), normalizer=normalizer
        )

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1 for each sample."""
        if not inputs:
            raise TypeError("drocc takes no targets; its mean divides by the number of samples, `len(scores)`")
        return ones(inputs[0].shape, inputs[0])


def _squared_distances(scores: Tensor) -> Tensor:
    scores = floating(scores, "scores")
    if scores.ndim != 1:
        cure = "; drop the last axis: scores.squeeze(-1)" if scores.shape[1:] == (1,) else ""
        raise ValueError(f"scores {tuple(scores.shape)} must be one squared distance per sample, (batch,){cure}")
    checking.require_between(scores, "scores", -1e-3, math.inf)
    return scores


def _quantile(values: Tensor, q: float) -> Tensor:
    """`torch.quantile`, which refuses more than 16 million values."""
    # As tensors, for a compiled or exported program would hold for a single size of batch.
    dtype = values.dtype if values.device.type == "mps" else torch.float64
    place = q * torch.full((1,), values.shape[0] - 1, dtype=dtype, device=values.device)
    ordered = values.sort().values
    low, high = ordered.gather(0, place.floor().long()), ordered.gather(0, place.ceil().long())
    return (low + place.frac().to(values.dtype) * (high - low)).squeeze(0)


def _moved_inwards(scores: Tensor, length: float) -> Tensor:
    """The squared distances after a move towards the centre, 0 where it would go beyond."""
    is_outside = scores > length**2
    distances = torch.where(is_outside, scores, torch.ones_like(scores)).sqrt()
    return torch.where(is_outside, (distances - length).square(), torch.zeros_like(scores))


def _most_normal_nearby(points: Tensor, score_function: ScoreFunction, length: float, num_steps: int) -> Tensor:
    """The points to which steps down the gradient of the score lead, at least `length` away from where they start."""
    per_sample = (-1, *[1] * (points.ndim - 1))
    # Where the score is flat, such as in the centre, there is no direction; any that is always the same will do.
    anywhere = points.new_full((), max(points.shape[1:].numel(), 1) ** -0.5)
    moved = torch.zeros_like(points)
    for _ in range(num_steps):
        gradient = _gradient(score_function, points + moved)
        size = gradient.flatten(1).norm(dim=1).reshape(per_sample) if points.ndim > 1 else gradient.abs()
        moved = moved - length * torch.where(size > 0, gradient / torch.where(size > 0, size, 1.0), 0.0)
        distance = moved.flatten(1).norm(dim=1).reshape(per_sample) if points.ndim > 1 else moved.abs()
        direction = torch.where(distance > 0, moved / torch.where(distance > 0, distance, 1.0), anywhere)
        moved = torch.where(distance < length, length * direction, moved)
    return points + moved


def _gradient(score_function: ScoreFunction, points: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        with torch.no_grad():
            of_sum: Callable[[Tensor], Tensor] = torch.func.grad(lambda x: _scores_of(score_function, x).sum())
            return of_sum(points)
    with torch.enable_grad():
        given = points.detach().requires_grad_()
        return torch.autograd.grad(_scores_of(score_function, given).sum(), given)[0]


def _scores_of(score_function: ScoreFunction, points: Tensor) -> Tensor:
    found = floating(score_function(points), "results of score_function")
    if found.shape != points.shape[:1]:
        raise ValueError(
            f"score_function returned {tuple(found.shape)} for points {tuple(points.shape)}, but must return one "
            f"squared distance per sample, {tuple(points.shape[:1])}"
        )
    return found
