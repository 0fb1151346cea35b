"""A Hydra app whose config declares the losses: `with_hydra.py --multirun output_features.0.loss.gamma=0,1,2`."""

import hydra
import torch
from omegaconf import DictConfig
from sklearn.datasets import load_digits
from torch import nn

import losskit


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Trains, and returns the accuracy for sweepers that look for the best."""
    criterion = losskit.build(cfg)
    torch.manual_seed(cfg.seed)
    images, labels = load_digits(return_X_y=True)
    X, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.lr)
    for _ in range(cfg.steps):
        rows = torch.randperm(len(X))[:64]
        loss = criterion({"digit": model(X[rows])}, {"digit": y[rows]}).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    accuracy = (model(X).argmax(1) == y).float().mean().item()
    print(f"{criterion.losses[0]}: accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
