"""The packages that losskit is measured beside: how each is imported, and how a loss of theirs is run."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

# For each name in the table: the distribution, and the module that holds its losses.
PACKAGES = {
    "torch": ("torch", "torch.nn"),
    "eager": ("", "benchmarks.eager"),
    "monai": ("monai", "monai.losses"),
    "kornia": ("kornia", "kornia.losses"),
    "smp": ("segmentation-models-pytorch", "segmentation_models_pytorch.losses"),
    "timm": ("timm", "timm.loss"),
    "pml": ("pytorch-metric-learning", "pytorch_metric_learning"),
    "entmax": ("entmax", "entmax.losses"),
    "coral": ("coral-pytorch", "coral_pytorch.losses"),
    "optax": ("optax", "optax.losses"),
}
# Their `__init__` imports models, and with them torchvision, which has no build for the CPU alone. Their losses need
# nothing of it, so they are imported without it.
_WITHOUT_INIT = ("timm", "segmentation_models_pytorch")


class Side(NamedTuple):
    """A loss on a batch: `run()` computes value and gradients, `result()` gives them as tensors of torch."""

    run: Callable[[], object]
    result: Callable[[], tuple[Tensor, tuple[Tensor, ...]]]


@cache
def load(name: str) -> Any:
    """The module of a package's losses; an `ImportError` says why there is none."""
    module = PACKAGES[name][1]
    top = module.partition(".")[0]
    if top in _WITHOUT_INIT and top not in sys.modules:
        spec = importlib.util.find_spec(top)
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError(f"No module named {top!r}", name=top)
        package = types.ModuleType(top)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[top] = package
    if name == "optax":
        # It has as many threads as torch, and no look for a GPU.
        os.environ.setdefault("NPROC", str(torch.get_num_threads()))
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "pml":
            for part in ("losses", "miners"):
                importlib.import_module(f"{module}.{part}")
        return importlib.import_module(module)


def full_name(name: str) -> str:
    """A package's name in full, beside the short one of the tables."""
    full = PACKAGES[name][0]
    return f"{name} ({full})" if full not in ("", name) else name


def version(name: str) -> str:
    """The installed version of a package."""
    distribution = PACKAGES[name][0]
    return importlib.metadata.version(distribution) if distribution else "forms, as they are usually written"


def of_torch(loss: Callable[..., Tensor], inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Side:
    """Forward, and backward to all inputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        value = loss(*leaves, *targets)
        return value, torch.autograd.grad(value, leaves)

    def result() -> tuple[Tensor, tuple[Tensor, ...]]:
        value, gradients = run()
        return value.detach().reshape(()), gradients

    return Side(run, result)


def jax() -> Any:
    """JAX, which is not there for those who do not measure."""
    return importlib.import_module("jax")


def of_jax(loss: Callable[..., Any], inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Side:
    """The same, compiled by XLA, on JAX's own arrays."""
    ready = jax().block_until_ready
    arrays = ready([jax().numpy.array(tensor.numpy()) for tensor in (*inputs, *targets)])
    differentiated = jax().jit(jax().value_and_grad(loss, argnums=tuple(range(len(inputs))))).lower(*arrays).compile()

    def run() -> Any:
        return ready(differentiated(*arrays))

    def result() -> tuple[Tensor, tuple[Tensor, ...]]:
        value, gradients = run()
        return torch.tensor(float(value)), tuple(torch.tensor(jax().device_get(gradient)) for gradient in gradients)

    return Side(run, result)
