"""torch's classes, for losses that are the same here: skorch asks for them to learn what a model's outputs mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

__all__ = ["BceKind", "BceWithLogitsKind", "CrossEntropyKind", "NllKind"]

if TYPE_CHECKING:
    # torch types its settings otherwise: there, an `ignore_index` is always a number, and a `weight` can be assigned.
    from torch.nn import Module as BceKind
    from torch.nn import Module as BceWithLogitsKind
    from torch.nn import Module as CrossEntropyKind
    from torch.nn import Module as NllKind
else:

    class _Kind(nn.Module):
        """Stands before a class of torch, whose constructor never runs: the loss keeps its settings by itself."""

        def __init__(self) -> None:
            nn.Module.__init__(self)

        @property
        def weight(self) -> Tensor | None:
            """The class weights, by torch's name; the `weight` of a config belongs to the sum of losses."""
            return getattr(self, "class_weights", None)

    class CrossEntropyKind(_Kind, nn.CrossEntropyLoss):
        """Takes logits; their softmax has the probabilities of the classes."""

    class NllKind(_Kind, nn.NLLLoss):
        """Takes the logarithms of the probabilities of the classes."""

    class BceWithLogitsKind(_Kind, nn.BCEWithLogitsLoss):
        """Takes logits; their sigmoids are the probabilities of the labels."""

    class BceKind(_Kind, nn.BCELoss):
        """Takes the probabilities of the labels."""
