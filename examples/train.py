"""Trains one model with several output features on real data, with the losses that a config file declares."""

from __future__ import annotations

import argparse
import collections
import math
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.metrics import accuracy_score, jaccard_score, r2_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

import losskit
from losskit.constants import BINARY, CATEGORY, IMAGE, NUMBER
from losskit.modules import MultiTaskLoss

CONFIG = Path(__file__).with_name("train.yaml")
PICTURE = Path(__file__).parent / "output" / "curves.png"
SEED = 0
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
# The tabular data sets have a few hundred rows each, so they need both of these.
WEIGHT_DECAY = 1.0
DROPOUT = 0.5
WIDTH = 128
NOISE = 0.5  # its standard deviation, where paper is 0 and the darkest ink is 1
AVERAGED_STEPS = 25  # losses jump too much from step to step to be shown as they are
REQUIRED_SHARE = 0.25  # of the way from the baseline's score to a perfect one, which is 1 in all measures

# What the score of a feature type is called, and what its baseline always answers.
MEASURES = {
    NUMBER: ("R²", "the mean"),
    BINARY: ("accuracy", "the most frequent class"),
    CATEGORY: ("accuracy", "the most frequent class"),
    IMAGE: ("IoU", "ink where most images have it"),
}

History = dict[str, list[float]]  # what each `feature/loss` was, step by step


class Dataset(NamedTuple):
    """Inputs, the targets of one or more features, and which rows are to learn from and which are held out."""

    inputs: Tensor
    targets: dict[str, Tensor]
    train: Tensor
    test: Tensor


class Score(NamedTuple):
    """How well a feature is predicted on held-out rows."""

    feature: str
    model: float
    baseline: float
    measure: str
    baseline_name: str

    @property
    def is_clearly_better(self) -> bool:
        """Whether the model goes a fair share of the way from the baseline to a perfect score."""
        return self.model >= self.baseline + REQUIRED_SHARE * (1 - self.baseline)


def load_datasets() -> dict[str, Dataset]:
    """The data that scikit-learn ships, and the features that can be predicted from it."""
    diabetes, wine, cancer, digits = load_diabetes(), load_wine(), load_breast_cancer(), load_digits()
    images = digits.images / digits.images.max()
    # Without noise, a mask would be its input above a threshold, and there would be nothing to learn. With this much, a
    # threshold does worse than the baseline.
    noisy = images + NOISE * np.random.default_rng(SEED).normal(size=images.shape)
    return {
        "diabetes": make_dataset(diabetes.data, {"progression": diabetes.target}),
        "wine": make_dataset(wine.data, {"cultivar": wine.target}),
        "cancer": make_dataset(cancer.data, {"malignant": cancer.target == 0}),
        "digits": make_dataset(noisy.reshape(len(noisy), -1), {"digit": digits.target, "ink": images >= 0.5}),
    }


def make_dataset(inputs: np.ndarray, targets: dict[str, np.ndarray]) -> Dataset:
    """Holds out a quarter of the rows, and standardises inputs and real-valued targets by the rows to learn from."""
    train, test = (torch.from_numpy(rows) for rows in train_test_split(np.arange(len(inputs)), random_state=SEED))
    tensors = {feature: torch.from_numpy(values) for feature, values in targets.items()}
    standardised = {name: standardise(t, train) if t.is_floating_point() else t for name, t in tensors.items()}
    return Dataset(standardise(torch.from_numpy(inputs), train), standardised, train, test)


def standardise(values: Tensor, train: Tensor) -> Tensor:
    """Gives each column mean 0 and deviation 1 in the rows to learn from."""
    return ((values - values[train].mean(0)) / values[train].std(0)).float()


class Model(nn.Module):
    """An encoder for each data set, and a head for each feature."""

    def __init__(self, datasets: dict[str, Dataset], feature_types: dict[str, str]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict()
        self.heads = nn.ModuleDict()
        self.sources: dict[str, str] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for source, data in datasets.items():
            features = [feature for feature in data.targets if feature in feature_types]
            if features:
                hidden = nn.Linear(data.inputs.shape[1], WIDTH)
                self.encoders[source] = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(DROPOUT))
            for feature in features:
                targets = data.targets[feature]
                # A category has a logit per class. All else is shaped like its targets, for losses never broadcast:
                # targets (batch,) want predictions (batch,), not (batch, 1).
                is_category = feature_types[feature] == CATEGORY
                shape = (int(targets.max()) + 1,) if is_category else tuple(targets.shape[1:])
                self.sources[feature], self.shapes[feature] = source, shape
                self.heads[feature] = nn.Linear(WIDTH, math.prod(shape))

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The predictions of each feature, from the inputs of each data set."""
        encoded = {source: encoder(inputs[source]) for source, encoder in self.encoders.items()}
        flat = {feature: head(encoded[self.sources[feature]]) for feature, head in self.heads.items()}
        return {feature: values.reshape(-1, *self.shapes[feature]) for feature, values in flat.items()}


def mixed_batch(datasets: dict[str, Dataset], model: Model) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A mini-batch from each data set: inputs by data set, and targets by feature."""
    rows = {source: data.train[torch.randperm(len(data.train))[:BATCH_SIZE]] for source, data in datasets.items()}
    inputs = {source: data.inputs[rows[source]] for source, data in datasets.items()}
    targets = {name: datasets[source].targets[name][rows[source]] for name, source in model.sources.items()}
    return inputs, targets


def train(model: Model, criterion: MultiTaskLoss, datasets: dict[str, Dataset], *, steps: int) -> History:
    """Minimises the weighted sum of all losses; returns what each `feature/loss` was at each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    history: History = collections.defaultdict(list)
    lines: dict[str, tqdm] = {}
    # With `disable=None`, tqdm writes nothing where there is no terminal.
    bar = tqdm(total=steps, desc="training", unit="step", disable=None)
    for step in range(steps):
        inputs, targets = mixed_batch(datasets, model)
        loss = criterion(model(inputs), targets)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()

        bar.update()
        for key, value in loss.parts.items():
            history[key].append(value.item())
            if key not in lines:
                lines[key] = tqdm(bar_format="{desc}", disable=None)
            if step % AVERAGED_STEPS == 0 or step == steps - 1:
                lines[key].set_description_str(f"  {key:<45} {np.mean(history[key][-AVERAGED_STEPS:]):8.4f}")
    for line in (bar, *lines.values()):
        line.close()
    return history


@torch.no_grad()
def evaluate(model: Model, datasets: dict[str, Dataset], feature_types: dict[str, str]) -> list[Score]:
    """The scores of the model and of a baseline, fitted to the rows to learn from, on the rows held out."""
    model.eval()
    predictions = model({source: data.inputs[data.test] for source, data in datasets.items()})
    scores = []
    for feature, source in model.sources.items():
        feature_type, data = feature_types[feature], datasets[source]
        seen, truth = data.targets[feature][data.train], data.targets[feature][data.test]
        constant = seen.float().mean(0) if feature_type == NUMBER else seen.mode(0).values
        answers = decide(feature_type, predictions[feature])
        values = score(feature_type, truth, answers), score(feature_type, truth, constant.expand_as(truth))
        scores.append(Score(feature, *values, *MEASURES[feature_type]))
    return scores


def decide(feature_type: str, predictions: Tensor) -> Tensor:
    """Turns what the losses take into answers."""
    if feature_type == NUMBER:
        return predictions
    return predictions.argmax(1) if feature_type == CATEGORY else predictions > 0


def score(feature_type: str, truth: Tensor, answers: Tensor) -> float:
    """The measure of the feature type; 1 is perfect."""
    measure = {NUMBER: r2_score, IMAGE: jaccard_score}.get(feature_type, accuracy_score)
    value = measure(truth.flatten().numpy(), answers.flatten().numpy())
    return round(float(value), 3) + 0.0  # never -0.0


def print_scores(scores: list[Score]) -> None:
    """A table with a row for each feature."""
    print(f"{'held-out rows':<14} {'measure':<9} {'model':>6} {'baseline':>9}  the baseline always answers")
    for row in scores:
        print(f"{row.feature:<14} {row.measure:<9} {row.model:6.3f} {row.baseline:9.3f}  {row.baseline_name}")


def draw(history: History, path: Path) -> None:
    """A picture with the curves of each feature's losses."""
    features = list(dict.fromkeys(key.split("/")[0] for key in history))
    columns = min(3, len(features))
    rows = math.ceil(len(features) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    for place, feature in enumerate(features, start=1):
        axes = figure.add_subplot(rows, columns, place, title=feature, xlabel="step", yscale="log")
        for key, values in history.items():
            if key.split("/")[0] == feature:
                width = min(AVERAGED_STEPS, len(values))
                (line,) = axes.plot(values, alpha=0.25, linewidth=0.8)
                means = np.convolve(values, np.full(width, 1 / width), mode="valid")
                steps = np.arange(width - 1, len(values))
                axes.plot(steps, means, color=line.get_color(), label=key.split("/", 1)[1])
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    figure.suptitle(f"Losses, unweighted: each step, and the mean of {AVERAGED_STEPS} steps")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Trains, prints the scores and draws the curves; gives 1 if a baseline is not clearly beaten."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG, help="the losses; default: train.yaml")
    parser.add_argument("--steps", type=int, default=1000, help="how long to train; default: %(default)s")
    parser.add_argument("--output", type=Path, default=PICTURE, help="a picture of the training curves")
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("--steps must be at least 1")

    try:
        config = losskit.load(options.config)
    except (losskit.ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    feature_types = {feature.name: feature.type for feature in config.features}
    datasets = load_datasets()
    known = [feature for data in datasets.values() for feature in data.targets]
    for feature, feature_type in feature_types.items():
        if feature not in known or feature_type not in MEASURES:
            print(f"no data for {feature!r} of type {feature_type}; there is {', '.join(known)}", file=sys.stderr)
            return 2

    torch.manual_seed(SEED)
    criterion = losskit.build(config)
    model = Model(datasets, feature_types)
    history = train(model, criterion, datasets, steps=options.steps)
    scores = evaluate(model, datasets, feature_types)
    print_scores(scores)
    draw(history, options.output)
    print(f"training curves: {options.output}")
    missed = [row.feature for row in scores if not row.is_clearly_better]
    if missed:
        print(f"no clear gain over the baseline: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
