"""Lightning where micro-batches count unequally: the gradient of each step is that of its whole batch."""

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

import losskit

LOSSES = """
output_features:
  - {name: digit, type: category, loss: {type: cross_entropy, class_weights: [1, 1, 1, 1, 1, 1, 1, 1, 2, 2]}}
"""


class LitClassifier(L.LightningModule):
    """Reads digits; a step takes its batch in parts of 16 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.criterion = losskit.build(text=LOSSES)

    def training_step(self, batch, batch_idx):
        parts = list(zip(*(tensor.split(16) for tensor in batch), strict=True))
        counts = losskit.distributed.counts(self.criterion, [{"digit": y} for _, y in parts])
        for x, y in parts:
            loss, _ = self.criterion({"digit": self.model(x)}, {"digit": y}, normalizers=counts)
            self.manual_backward(loss)
        optimizer = self.optimizers()
        optimizer.step()
        optimizer.zero_grad()
        self.criterion.step()

    def configure_optimizers(self):
        return optim.Adam(self.parameters(), lr=1e-2)


if __name__ == "__main__":
    L.seed_everything(0)
    images, labels = load_digits(return_X_y=True)
    labels[::3] = -100  # a third of the labels is missing
    dataset = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    module = LitClassifier()
    trainer.fit(module, DataLoader(dataset, batch_size=64, shuffle=True))
    images, labels = dataset[dataset.tensors[1] >= 0]
    print(f"accuracy {(module.model(images).argmax(1) == labels).float().mean():.3f}")
