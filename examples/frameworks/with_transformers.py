"""The Trainer of transformers with a small vision transformer on scikit-learn's digits, and a focal loss."""

import sys
import tempfile

import numpy as np
import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from losskit.integrations.transformers import compute_loss_func

set_seed(0)
digits = load_digits()
examples = [
    {"pixel_values": torch.tensor(image[None] / 16, dtype=torch.float32), "labels": int(label)}
    for image, label in zip(digits.images, digits.target, strict=True)
]
config = ViTConfig(
    image_size=8,
    patch_size=2,
    num_channels=1,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    num_labels=10,
)


def compute_metrics(prediction):
    """The share of digits that are read rightly."""
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


trainer = Trainer(
    model=ViTForImageClassification(config),
    args=TrainingArguments(
        output_dir=tempfile.mkdtemp() if len(sys.argv) < 2 else sys.argv[1],
        num_train_epochs=10,
        per_device_train_batch_size=16,
        gradient_accumulation_steps=2,
        learning_rate=2e-3,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    ),
    train_dataset=examples[:1500],
    eval_dataset=examples[1500:],
    compute_metrics=compute_metrics,
    compute_loss_func=compute_loss_func("focal", gamma=1.0),
)
trainer.train()
print(f"accuracy {trainer.evaluate()['eval_accuracy']:.3f}")
