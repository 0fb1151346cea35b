"""Ray Train with two workers on a CPU, and a loss of our own, which the workers find by LOSSKIT_PLUGINS."""

import tempfile
from pathlib import Path

import ray
import ray.train.torch
import torch
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import losskit

HERE = Path(__file__).parent


def train_func() -> None:
    """What each worker does."""
    torch.manual_seed(0)
    X, y = load_diabetes(return_X_y=True, scaled=True)
    y = (y - y.mean()) / y.std()
    dataset = TensorDataset(torch.tensor(X, dtype=torch.float32) * 20, torch.tensor(y, dtype=torch.float32))
    train_loader = ray.train.torch.prepare_data_loader(DataLoader(dataset, batch_size=32, shuffle=True))
    model = ray.train.torch.prepare_model(nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0)))
    criterion = losskit.create_loss("log_cosh_of_our_own", sharpness=2.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(3):
        train_loader.sampler.set_epoch(epoch)
        for inputs, targets in train_loader:
            loss = criterion(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with tempfile.TemporaryDirectory() as folder:
            torch.save(model.state_dict(), Path(folder, "model.pt"))
            ray.train.report({"loss": loss.item()}, checkpoint=Checkpoint.from_directory(folder))


if __name__ == "__main__":
    # The folder of the module goes to the workers, and its name says what losskit imports there.
    ray.init(num_cpus=2, runtime_env={"working_dir": str(HERE), "env_vars": {"LOSSKIT_PLUGINS": "my_losses"}})
    trainer = TorchTrainer(
        train_func,
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=tempfile.mkdtemp()),
    )
    result = trainer.fit()
    print(f"loss {result.metrics['loss']:.3f}")
