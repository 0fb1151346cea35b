"""Lightning's autoencoder on scikit-learn's digits, with a second head, and all losses from one config."""

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

import losskit

LOSSES = """
output_features:
  - {name: image, type: vector, loss: mse}
  - {name: digit, type: category, loss: {type: cross_entropy, weight: 0.1}}
"""


class LitAutoEncoder(L.LightningModule):
    """Compresses an image to a few numbers, from which it is drawn anew and its digit is read."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64))
        self.classifier = nn.Linear(8, 10)
        # As a part of the module, it moves with it, and what it learns is optimised and saved.
        self.criterion = losskit.build(text=LOSSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.encoder(x)
        loss, parts = self.criterion({"image": self.decoder(z), "digit": self.classifier(z)}, {"image": x, "digit": y})
        self.log_dict(parts)
        return loss

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    L.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    dataset = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(LitAutoEncoder(), DataLoader(dataset, batch_size=64, shuffle=True))
    for name, value in trainer.callback_metrics.items():
        print(f"{name}: {value:.3f}")
