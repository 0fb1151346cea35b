"""What a criterion costs beside the same sum written by hand with torch's functions, eagerly, on tensors of 32 numbers.

python -m benchmarks.criterion [--runs N]

On tensors as small as these, all that is measured is the time that Python and the dispatcher take. It is the time of
the processor, so that other programs disturb it little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import losskit

_CALLS = 200
_WEIGHT = 0.5


def cases() -> dict[str, tuple[str, str, Callable[[Tensor, Tensor], Tensor], Callable[[], tuple[Tensor, Tensor]]]]:
    """For each name: the feature type, the loss, torch's function, and a batch."""

    def numbers() -> tuple[Tensor, Tensor]:
        return torch.randn(32), torch.randn(32)

    def labels() -> tuple[Tensor, Tensor]:
        return torch.randn(32), torch.randint(2, (32,)).float()

    def classes() -> tuple[Tensor, Tensor]:
        return torch.randn(8, 4), torch.randint(4, (8,))

    return {
        "mean_squared_error": ("number", "mse", F.mse_loss, numbers),
        "mean_absolute_error": ("number", "mae", F.l1_loss, numbers),
        "huber": ("number", "huber", F.huber_loss, numbers),
        "bce_with_logits": ("binary", "bce_with_logits", F.binary_cross_entropy_with_logits, labels),
        "softmax_cross_entropy": ("category", "cross_entropy", F.cross_entropy, classes),
    }


def measure(name: str, number: int, runs: int) -> None:
    """Prints a line for a criterion of so many losses of one kind."""
    feature_type, loss, function, make = cases()[name]
    features = [
        {"name": f"f{index}", "type": feature_type, "loss": {"type": loss, "weight": _WEIGHT}}
        for index in range(number)
    ]
    criterion = losskit.build({"output_features": features})
    batches = {str(feature["name"]): make() for feature in features}
    predictions = {feature: inputs.requires_grad_() for feature, (inputs, _) in batches.items()}
    targets = {feature: labels for feature, (_, labels) in batches.items()}
    pairs = [(predictions[feature], targets[feature]) for feature in batches]

    def by_hand() -> None:
        total: Tensor = sum(_WEIGHT * function(*pair) for pair in pairs)  # type: ignore[assignment]
        total.backward()  # type: ignore[no-untyped-call]

    def by_losskit() -> None:
        criterion(predictions, targets).total.backward()

    times: dict[Callable[[], None], list[float]] = {by_hand: [], by_losskit: []}
    for run in range(runs + 1):
        for call, found in times.items():
            start = time.process_time()
            for _ in range(_CALLS):
                call()
            if run:  # the first one warms up
                found.append((time.process_time() - start) / _CALLS * 1e6)
    hand, ours = (statistics.median(found) for found in times.values())
    print(f"{name:<22} x {number}{hand:>10.0f}{ours:>10.0f}{ours / hand:>9.2f}{(ours - hand) / number:>14.1f}")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="of which the median is taken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'microseconds a step':<26}{'by hand':>10}{'losskit':>10}{'ratio':>9}{'more per loss':>14}")
    for name in cases():
        for number in (1, 4, 8):
            measure(name, number, options.runs)


if __name__ == "__main__":
    main()
