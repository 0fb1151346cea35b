"""Cosines and dot products of embeddings, never in low precision, and without a gradient that explodes at 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from losskit.modules.shapes import floating, require_tensor, without_autocast

# Added to squared lengths by torch.nn.CosineEmbeddingLoss, whose values `cosines` has.
_EPSILON = 1e-12


def embeddings(tensor: Tensor, name: str) -> Tensor:
    """`tensor`, at least in float32.

    Raises:
        TypeError: it holds no floating-point numbers.
        ValueError: it is not `(batch, dimensions)`.
    """
    tensor = floating(tensor, name)
    if tensor.ndim != 2:
        raise ValueError(f"{name} {tuple(tensor.shape)} must be embeddings, one in each row: (batch, dimensions)")
    return tensor


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """The cosine of each two vectors along the last axis; 0, with gradient 0, where one of them is exactly 0."""
    squares, other_squares = one.square().sum(-1), other.square().sum(-1)
    lengths = ((squares + _EPSILON) * (other_squares + _EPSILON)).sqrt()
    # A vector of length 0 has no direction; the gradient there would be a million times that of other vectors.
    have_directions = (squares > 0) & (other_squares > 0)
    return (one * other).sum(-1) / torch.where(have_directions, lengths, math.inf)


def unit(vectors: Tensor) -> Tensor:
    """Each row divided by its length, as `F.normalize` does it; rows of exactly 0 stay so and have gradient 0."""
    return vectors / lengths(vectors)


def lengths(vectors: Tensor) -> Tensor:
    """What `unit` divides each row by, `(..., 1)`."""
    found = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.where(found > 0, found.clamp_min(_EPSILON), math.inf)


def through_unit_(gradient: Tensor, directions: Tensor, divisors: Tensor) -> Tensor:
    r"""In the place of the gradient $g$ of directions $u = v / |v|$, that of the vectors: $(g - (g \cdot u) u) / |v|$.

    The length of a vector that is next to nothing is a constant, as in `unit`.
    """
    along = torch.linalg.vecdot(gradient, directions).unsqueeze(-1)
    return gradient.addcmul_(along.masked_fill_(divisors <= _EPSILON, 0), directions, value=-1).div_(divisors)


def products(one: Tensor, other: Tensor) -> Tensor:
    """The dot product of each row of `one` with each row of `other`."""
    with without_autocast(one):
        return one @ other.T


def same_ids(ids: Tensor, of: Tensor | None = None) -> Tensor:
    """Which samples, or those of which `of` has the ids, have the id of which samples; each has its own."""
    return (ids if of is None else of).unsqueeze(1) == ids.unsqueeze(0)


def require_ids(targets: Tensor, vectors: Tensor, name: str) -> None:
    """Refuses targets that are no ids of samples.

    Raises:
        TypeError: the targets are no tensor of integers.
        ValueError: there is not one id per row of the vectors, which `name` names.
    """
    require_tensor(targets, "targets")
    if targets.shape != vectors.shape[:1]:
        shapes = f"{name} {tuple(vectors.shape)} and targets {tuple(targets.shape)} do not fit"
        trailing = targets.shape == (len(vectors), 1)
        cure = "drop the last axis: targets.squeeze(-1)" if trailing else f"ids must have the shape ({len(vectors)},)"
        raise ValueError(f"{shapes}; {cure}")
    if targets.is_floating_point() or targets.is_complex():
        dtype = str(targets.dtype).removeprefix("torch.")
        raise TypeError(f"targets are {dtype}, but ids must be integers; use targets.long()")


def diagonal_mask(matrix: Tensor, start: int = 0) -> Tensor:
    """True where a sample meets itself, in a matrix or in its rows from `start` on."""
    mask = torch.zeros(matrix.shape[:2], dtype=torch.bool, device=matrix.device)
    mask.diagonal(start).fill_(True)
    return mask
