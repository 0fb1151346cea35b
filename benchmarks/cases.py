"""What is measured: for each case a batch, our loss, and what the others call the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import losskit
from benchmarks.peers import Side, jax, load, of_jax, of_torch
from losskit.modules.heads import linear_cross_entropy_loss

Loss = Callable[..., Any]
# Inputs, to which the gradient goes, and targets.
Batch = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Peer:
    """A loss of another package. `make` gets its module, and returns what takes the inputs and the targets."""

    package: str
    make: Callable[[Any], Loss]
    # What of the package it is, where it has more than one.
    variant: str = ""
    # What it takes at its peak, where that is more than some machines have.
    gigabytes: float = 0.0
    # The package's own layout of inputs and gradients; it is made before the clock starts.
    layout: Callable[[Tensor], Tensor] = lambda tensor: tensor

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.package} {self.variant}".strip()

    def side(self, batch: Batch) -> Side:
        """Ready to run."""
        inputs, targets = batch
        run = of_jax if self.package == "optax" else of_torch
        return run(self.make(load(self.package)), [self.layout(tensor) for tensor in inputs], targets)


@dataclass(frozen=True)
class Case:
    """Our loss, with settings under which all its peers compute the same."""

    name: str
    batch_of: Callable[..., Batch]
    shape: tuple[int, ...]
    make: Callable[[], Loss]
    peers: list[Peer] = field(default_factory=list)
    # Whether it is one of torch's own losses, which losskit only calls.
    is_plain: bool = False

    def batch(self, scale: str = "full", device: str = "cpu") -> Batch:
        """The same at each call. At the scale `small`, each size is about its own square root."""
        torch.manual_seed(0)
        shape = self.shape if scale == "full" else tuple(2 ** math.ceil(math.log2(n) / 2) for n in self.shape)
        inputs, targets = self.batch_of(*shape)
        return tuple(tensor.to(device) for tensor in inputs), tuple(tensor.to(device) for tensor in targets)

    def side(self, batch: Batch, compiled: bool = False) -> Side:
        """Ours, ready to run."""
        loss = self.make()
        return of_torch(torch.compile(loss, fullgraph=True) if compiled else loss, *batch)


def logits_and_ids(batch: int, classes: int, *sizes: int) -> Batch:
    """For one class out of several, of items or of pixels."""
    return (torch.randn(batch, classes, *sizes),), (torch.randint(classes, (batch, *sizes)),)


def logits_and_labels(batch: int, classes: int) -> Batch:
    """For a yes or no of each class."""
    return (torch.randn(batch, classes),), (torch.randint(2, (batch, classes)).float(),)


def numbers(size: int) -> Batch:
    """For a regression."""
    return (torch.randn(size),), (torch.randn(size),)


def pairs(rows: int, dimensions: int) -> Batch:
    """Embeddings of which each two neighbours belong together."""
    return (torch.randn(rows, dimensions),), ()


def views(rows: int, dimensions: int) -> Batch:
    """Embeddings of two views."""
    return (torch.randn(rows, dimensions), torch.randn(rows, dimensions)), ()


def embeddings_and_ids(rows: int, dimensions: int) -> Batch:
    """Embeddings of samples of which eight belong together, and that are near enough for hard ones to exist."""
    ids = torch.arange(rows) // 8
    return (torch.randn(rows // 8, dimensions)[ids] + torch.randn(rows, dimensions),), (ids,)


def logits_and_ranks(batch: int, thresholds: int) -> Batch:
    """A logit for each threshold between two ranks."""
    return (torch.randn(batch, thresholds),), (torch.randint(thresholds + 1, (batch,)),)


def hidden_states(rows: int, features: int, classes: int) -> Batch:
    """What a model's output layer gets, the layer's weights, and class ids."""
    weight = torch.randn(classes, features) / math.sqrt(features)
    return (torch.randn(rows, features), weight), (torch.randint(classes, (rows,)),)


def ours(name: str, feature_type: str | None = None, **settings: Any) -> Callable[[], Loss]:
    """A loss of the registry."""
    return lambda: losskit.create_loss(name, feature_type=feature_type, **settings)


def channels_last(tensor: Tensor) -> Tensor:
    """Classes as the last axis, as JAX has them."""
    return tensor.movedim(1, -1).contiguous()


def one_hot(ids: Any, logits: Any) -> Any:
    """In JAX."""
    return jax().nn.one_hot(ids, logits.shape[-1])


def multi_similarity(pml: Any) -> Loss:
    """With the miner that the paper takes, and that ours has within."""
    loss, miner = pml.losses.MultiSimilarityLoss(), pml.miners.MultiSimilarityMiner(epsilon=0.1)
    return lambda x, ids: loss(x, ids, miner(x, ids))


def neighbours(x: Any) -> Any:
    """Ids of pairs, for libraries that pair by ids."""
    return torch.arange(len(x), device=x.device) // 2


def nt_xent(rows: int, others: list[Peer]) -> Case:
    """With the peers that can run so many rows."""
    eager = Peer("eager", lambda eager: lambda x: eager.nt_xent(x, 0.1))
    return Case(f"ntxent_{rows}", pairs, (rows, 128), ours("nt_xent", temperature=0.1), [eager, *others])


def plain(name: str, batch_of: Callable[..., Batch], shape: tuple[int, ...], loss: str, function: Loss) -> Case:
    """One of torch's own losses, under its own name."""
    return Case(name, batch_of, shape, ours(loss), [Peer("torch", lambda _: function)], is_plain=True)


def _with_channel(loss: Loss) -> Loss:
    """For MONAI, whose class ids have an axis of channels."""
    return lambda z, y: loss(z, y[:, None])


def _ids_in_jax(x: Any) -> Any:
    """The same as `neighbours`."""
    return jax().numpy.arange(len(x)) // 2


def _chunked_linear_cross_entropy(nn: Any) -> Loss:
    """Older versions of torch have none."""
    options = nn.LinearCrossEntropyOptions()
    return lambda x, weight, ids: nn.functional.linear_cross_entropy(x, weight, ids, options=options)


SEGMENTATION = (8, 21, 256, 256)

CASES = [
    Case(
        "focal_softmax_seg",
        logits_and_ids,
        SEGMENTATION,
        # MONAI and kornia divide by the number of classes too.
        ours("focal", "image", average_classes=True),
        [
            Peer("eager", lambda eager: lambda z, y: eager.softmax_focal(z, y) / z.shape[1]),
            Peer(
                "kornia", lambda kornia: lambda z, y: kornia.focal_loss(z, y, alpha=None, gamma=2.0, reduction="mean")
            ),
            Peer("monai", lambda monai: _with_channel(monai.FocalLoss(use_softmax=True, to_onehot_y=True))),
        ],
    ),
    Case(
        "focal_softmax_seg_one_vs_all",
        logits_and_ids,
        SEGMENTATION,
        # What segmentation-models-pytorch calls multiclass: a yes or no of each class.
        ours("focal", "image", activation="sigmoid", alpha=None),
        [Peer("smp", lambda smp: smp.FocalLoss("multiclass"))],
    ),
    Case(
        "focal_sigmoid_det",
        logits_and_labels,
        (100_000, 80),
        ours("focal", "set", alpha=0.25, gamma=2.0),
        [
            Peer("eager", lambda eager: eager.sigmoid_focal),
            Peer("monai", lambda monai: monai.FocalLoss(alpha=0.25, gamma=2.0)),
            Peer(
                "kornia",
                lambda kornia: (
                    lambda z, y: kornia.binary_focal_loss_with_logits(z, y, alpha=0.25, gamma=2.0, reduction="mean")
                ),
            ),
            Peer("smp", lambda smp: smp.FocalLoss("binary", alpha=0.25, gamma=2.0)),
            Peer("optax", lambda optax: lambda z, y: optax.sigmoid_focal_loss(z, y, alpha=0.25, gamma=2.0).mean()),
        ],
    ),
    Case(
        "dice_seg",
        logits_and_ids,
        SEGMENTATION,
        ours("dice", "image", smooth=1e-5),
        [
            Peer("eager", lambda eager: eager.dice),
            Peer("monai", lambda monai: _with_channel(monai.DiceLoss(softmax=True, to_onehot_y=True))),
            # Its mean is over the classes that a sample has, which are all of them here.
            Peer("kornia", lambda kornia: lambda z, y: kornia.dice_loss(z, y, average="macro")),
            Peer(
                "optax",
                lambda optax: lambda z, y: optax.dice_loss(z, one_hot(y, z), smooth=5e-6).mean(),
                layout=channels_last,
            ),
        ],
    ),
    Case(
        "dice_seg_batch",
        logits_and_ids,
        SEGMENTATION,
        # Of each class over the whole batch.
        ours("dice", "image", smooth=1e-5, average="class"),
        [
            Peer("monai", lambda monai: _with_channel(monai.DiceLoss(softmax=True, to_onehot_y=True, batch=True))),
            Peer("smp", lambda smp: smp.DiceLoss("multiclass", smooth=5e-6)),
        ],
    ),
    Case(
        "lovasz_softmax_seg",
        logits_and_ids,
        (4, 21, 128, 128),
        ours("lovasz_softmax", "image"),
        [Peer("smp", lambda smp: smp.LovaszLoss("multiclass"))],
    ),
    Case(
        "lovasz_softmax_seg_per_image",
        logits_and_ids,
        (4, 21, 128, 128),
        ours("lovasz_softmax", "image", classes="all", per_image=True),
        [Peer("kornia", lambda kornia: kornia.lovasz_softmax_loss)],
    ),
    nt_xent(
        512,
        [
            Peer("monai", lambda monai: lambda x: monai.ContrastiveLoss(temperature=0.1)(x[0::2], x[1::2])),
            Peer("pml", lambda pml: lambda x: pml.losses.NTXentLoss(temperature=0.1)(x, neighbours(x))),
            Peer("optax", lambda optax: lambda x: optax.ntxent(x, _ids_in_jax(x), 0.1)),
        ],
    ),
    nt_xent(
        2048,
        [
            Peer("monai", lambda monai: lambda x: monai.ContrastiveLoss(temperature=0.1)(x[0::2], x[1::2]), "", 13),
            Peer("pml", lambda pml: lambda x: pml.losses.NTXentLoss(temperature=0.1)(x, neighbours(x)), "", 140),
            Peer("optax", lambda optax: lambda x: optax.ntxent(x, _ids_in_jax(x), 0.1), "", 9),
        ],
    ),
    Case(
        "infonce_2048",
        views,
        (1024, 128),
        ours("contrastive", normalize=True, temperature=0.1, symmetric=False),
        [Peer("eager", lambda eager: lambda one, other: eager.info_nce(one, other, 0.1, symmetric=False))],
    ),
    Case(
        "infonce_2048_symmetric",
        views,
        (1024, 128),
        ours("contrastive", normalize=True, temperature=0.1),
        [Peer("eager", lambda eager: lambda one, other: eager.info_nce(one, other, 0.1, symmetric=True))],
    ),
    Case(
        "multi_similarity_512",
        embeddings_and_ids,
        (512, 128),
        ours("multi_similarity"),
        [Peer("pml", multi_similarity)],
    ),
    Case(
        "sparsemax_10k",
        logits_and_ids,
        (256, 10_000),
        ours("sparsemax", "category"),
        [
            Peer("entmax", lambda entmax: entmax.SparsemaxLoss()),
            Peer("entmax", lambda entmax: entmax.SparsemaxLoss(k=100), "k=100"),
            Peer("optax", lambda optax: lambda z, y: optax.multiclass_sparsemax_loss(z, y).mean()),
        ],
    ),
    Case(
        "entmax15_10k",
        logits_and_ids,
        (256, 10_000),
        ours("entmax15", "category"),
        [
            Peer("entmax", lambda entmax: entmax.Entmax15Loss()),
            Peer("entmax", lambda entmax: entmax.Entmax15Loss(k=100), "k=100"),
        ],
    ),
    Case(
        "label_smoothing_50k",
        logits_and_ids,
        (256, 50_000),
        ours("cross_entropy", "category", label_smoothing=0.1),
        [
            Peer("torch", lambda nn: nn.CrossEntropyLoss(label_smoothing=0.1)),
            Peer("smp", lambda smp: smp.SoftCrossEntropyLoss(smooth_factor=0.1)),
            Peer("timm", lambda timm: timm.LabelSmoothingCrossEntropy(0.1)),
            Peer(
                "optax",
                lambda optax: (
                    lambda z, y: optax.softmax_cross_entropy(z, optax.smooth_labels(one_hot(y, z), 0.1)).mean()
                ),
            ),
        ],
    ),
    Case(
        "poly1_50k",
        logits_and_ids,
        (256, 50_000),
        ours("poly", "category", epsilon=1.0),
        [
            Peer("eager", lambda eager: lambda z, y: eager.poly(z, y, 1.0)),
            Peer("timm", lambda timm: timm.PolyCrossEntropy(epsilon=1.0)),
            Peer(
                "optax", lambda optax: lambda z, y: optax.poly_loss_cross_entropy(z, one_hot(y, z), epsilon=1.0).mean()
            ),
        ],
    ),
    Case(
        "bi_tempered_10k",
        logits_and_ids,
        (256, 10_000),
        ours("bi_tempered_logistic", "category"),
        [Peer("eager", lambda eager: eager.bi_tempered, "fixed point")],
    ),
    Case(
        "bi_tempered_imagenet",
        logits_and_ids,
        (1024, 1000),
        ours("bi_tempered_logistic", "category", label_smoothing=0.1),
        [Peer("eager", lambda eager: lambda z, y: eager.bi_tempered(z, y, label_smoothing=0.1), "fixed point")],
    ),
    Case(
        "corn",
        logits_and_ranks,
        (4096, 99),
        ours("corn"),
        [Peer("coral", lambda coral: lambda z, y: coral.corn_loss(z, y, z.shape[1] + 1))],
    ),
    Case(
        "linear_ce",
        hidden_states,
        (4096, 512, 32_000),
        lambda: lambda hidden, weight, ids: linear_cross_entropy_loss(hidden, ids, weight),
        [
            Peer("torch", lambda _: lambda x, weight, ids: F.cross_entropy(F.linear(x, weight), ids), "two layers"),
            Peer("torch", _chunked_linear_cross_entropy, "linear_cross_entropy"),
        ],
    ),
    *(plain(f"mse_{size:.0e}", numbers, (size,), "mse", F.mse_loss) for size in (100_000, 4_000_000)),
    *(plain(f"l1_{size:.0e}", numbers, (size,), "mae", F.l1_loss) for size in (100_000, 4_000_000)),
    *(plain(f"huber_{size:.0e}", numbers, (size,), "huber", F.huber_loss) for size in (100_000, 4_000_000)),
    *(
        plain(f"cross_entropy_{batch}x1000", logits_and_ids, (batch, 1000), "cross_entropy", F.cross_entropy)
        for batch in (100, 4096)
    ),
    *(
        plain(
            f"bce_with_logits_{batch}x80",
            logits_and_labels,
            (batch, 80),
            "bce_with_logits",
            F.binary_cross_entropy_with_logits,
        )
        for batch in (1250, 10_000)
    ),
]
