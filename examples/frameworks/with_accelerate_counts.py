"""accelerate where micro-batches count unequally: the gradient of each step is that of its whole batch."""

import contextlib
import itertools

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import losskit

LOSSES = """
output_features:
  - {name: digit, type: category, loss: {type: cross_entropy, class_weights: [1, 1, 1, 1, 1, 1, 1, 1, 2, 2]}}
"""
STEPS = 4  # how many micro-batches a step of the optimizer has

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
labels[::3] = -100  # a third of the labels is missing
dataset = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))

accelerator = Accelerator(cpu=True)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
criterion = losskit.build(text=LOSSES)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
model, optimizer, dataloader = accelerator.prepare(model, optimizer, DataLoader(dataset, batch_size=16, shuffle=True))

for epoch in range(3):
    batches = iter(dataloader)
    while step := list(itertools.islice(batches, STEPS)):
        counts = losskit.distributed.counts(criterion, [{"digit": targets} for _, targets in step])
        for number, (inputs, targets) in enumerate(step, 1):
            # Gradients travel between processes in the last backward pass only.
            with contextlib.nullcontext() if number == len(step) else accelerator.no_sync(model):
                loss, parts = criterion({"digit": model(inputs)}, {"digit": targets}, normalizers=counts)
                accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    known = dataset.tensors[1] >= 0
    accuracy = (model(dataset.tensors[0]).argmax(1) == dataset.tensors[1])[known].float().mean()
    accelerator.print(f"epoch {epoch + 1}: accuracy {accuracy:.3f}")
