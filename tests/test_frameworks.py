"""The frameworks that people train with: the examples run, and what each asks of a loss holds.

A test is skipped where its framework is not installed; with CI_REQUIRES_FRAMEWORKS=1 it fails.
"""

import copy
import importlib
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import losskit
from losskit.modules import BceWithLogitsLoss, FocalLoss, NllLoss, SoftmaxCrossEntropyLoss

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples" / "frameworks"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(EXAMPLES.parent.parent), os.environ.get("PYTHONPATH", "")]),
    "OMP_NUM_THREADS": "1",
    # What the frameworks would ask or tell others on the network.
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def need(name):
    """The framework; else the test is skipped, or fails where CI asks for it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("CI_REQUIRES_FRAMEWORKS") == "1":
            pytest.fail(f"CI_REQUIRES_FRAMEWORKS is 1, but {error}")
        pytest.skip(f"{name} is not installed: pip install 'losskit[frameworks]'")


def run(path, *arguments, folder, **environment):
    """What a script prints, which must not fail."""
    result = subprocess.run(
        [sys.executable, path, *arguments],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def last_number(pattern, text):
    return float(re.findall(pattern, text)[-1])


# Whether a missing framework is told


def test_a_missing_framework_skips_and_fails_in_ci(monkeypatch):
    monkeypatch.delenv("CI_REQUIRES_FRAMEWORKS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no_such_framework is not installed"):
        need("no_such_framework")
    monkeypatch.setenv("CI_REQUIRES_FRAMEWORKS", "1")
    with pytest.raises(pytest.fail.Exception, match="CI_REQUIRES_FRAMEWORKS is 1, but No module"):
        need("no_such_framework")


# The examples


def test_the_loop_of_torch_learns(tmp_path):
    out = run(EXAMPLES / "with_torch.py", folder=tmp_path)
    assert last_number(r"accuracy ([\d.]+)", out) > 0.9


def test_the_loop_of_accelerate_learns(tmp_path):
    need("accelerate")
    out = run(EXAMPLES / "with_accelerate.py", folder=tmp_path)
    assert last_number(r"loss ([\d.]+)", out) < 0.5 < float(re.findall(r"loss ([\d.]+)", out)[0])


@pytest.mark.parametrize("framework", ["accelerate", "lightning"])
def test_steps_of_unequal_micro_batches_learn(framework, tmp_path):
    need(framework)
    out = run(EXAMPLES / f"with_{framework}_counts.py", folder=tmp_path)
    assert last_number(r"accuracy ([\d.]+)", out) > 0.9


def test_the_module_of_lightning_learns_and_logs_each_loss(tmp_path):
    need("lightning")
    out = run(EXAMPLES / "with_lightning.py", folder=tmp_path)
    assert last_number(r"image/mean_squared_error: ([\d.]+)", out) < 0.1
    assert last_number(r"digit/softmax_cross_entropy: ([\d.]+)", out) < 1.5


def test_the_trainer_of_transformers_learns(tmp_path):
    need("transformers")
    out = run(EXAMPLES / "with_transformers.py", tmp_path / "out", folder=tmp_path)
    assert last_number(r"accuracy ([\d.]+)", out) > 0.5


def test_an_app_of_hydra_sweeps_over_a_setting(tmp_path):
    need("hydra")
    out = run(EXAMPLES / "with_hydra.py", "--multirun", "output_features.0.loss.gamma=0,2", folder=tmp_path)
    assert re.findall(r"gamma=(\d\.\d)", out) == ["0.0", "2.0"]
    assert all(float(accuracy) > 0.9 for accuracy in re.findall(r"accuracy ([\d.]+)", out))


def test_a_classifier_of_skorch_is_searched(tmp_path):
    need("skorch")
    out = run(EXAMPLES / "with_skorch.py", folder=tmp_path)
    assert "neuralnetclassifier__criterion__label_smoothing" in out
    assert last_number(r"accuracy ([\d.]+)", out) > 0.9


@pytest.mark.xdist_group("ray")
def test_workers_of_ray_train_with_a_loss_of_a_plugin(tmp_path):
    need("ray")
    out = run(EXAMPLES / "with_ray.py", folder=tmp_path)
    assert 0 < last_number(r"\nloss ([\d.]+)\n", f"\n{out}") < 2


# Lightning


FEATURES = """
output_features:
  - {name: image, type: vector, loss: mse}
  - name: digit
    type: category
    loss:
      - {type: cross_entropy, class_weights: [1, 2, 3]}
      # It owns parameters, which must be optimised and saved like those of the model.
      - type: linear_cross_entropy
        in_features: 4
        num_classes: 3
        weight: {schedule: linear, from: 0.0, to: 1.0, steps: 12}
"""


def lightning_module(text=FEATURES, *, steps=True):
    """A small module whose criterion has class weights, parameters and a schedule, and one that is told each step."""
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Linear(6, 4), nn.Linear(4, 3)
            self.decoder = nn.Linear(4, 6)
            self.criterion = losskit.build(text=text)
            self.values = []

        def training_step(self, batch, batch_idx):
            x, y = batch
            z = self.encoder(x)
            predictions = {"image": self.decoder(z), "digit": {"logits": self.head(z), "hidden": z}}
            total, parts = self.criterion(predictions, {"image": x, "digit": y})
            self.log_dict(parts)
            self.values.append(total.item())
            return total

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            if steps:
                optimizer.register_step_post_hook(lambda *_: self.criterion.step())
            return optimizer

    torch.manual_seed(0)
    return Module()


@pytest.fixture
def three_classes():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(24, 6, generator=generator), torch.randint(3, (24,), generator=generator))


def fit(module, dataset, folder, *, batch_size=4, checkpoint=None, **options):
    L = need("lightning")
    options = {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False, **options}
    options = {"accelerator": "cpu", "default_root_dir": folder, "enable_checkpointing": False, **options}
    trainer = L.Trainer(**options)
    trainer.fit(module, DataLoader(dataset, batch_size=batch_size), ckpt_path=checkpoint)
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_lightning_logs_and_trains_in_bfloat16(three_classes, tmp_path):
    need("lightning")
    module = lightning_module()
    trainer = fit(module, three_classes, tmp_path, precision="bf16-true")
    assert module.head.weight.dtype == module.criterion.losses[2].linear.weight.dtype == torch.bfloat16
    # The config's numbers are not rounded, and losses are not in half precision: torch's own would refuse the weights.
    assert module.criterion.losses[1].class_weights.dtype == torch.float64
    assert set(trainer.callback_metrics) == set(module.criterion.keys)
    assert all(value.isfinite() for value in trainer.callback_metrics.values())
    assert module.values[-1] != module.values[0]


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_with_the_criterions_parameters_and_schedule(three_classes, tmp_path):
    need("lightning")
    whole = lightning_module()
    fit(whole, three_classes, tmp_path, max_epochs=2)
    assert whole.criterion.weights["digit/linear_cross_entropy"] == 1.0

    half = lightning_module()
    path = tmp_path / "half.ckpt"
    fit(half, three_classes, tmp_path, max_epochs=1).save_checkpoint(path)
    assert half.criterion.weights["digit/linear_cross_entropy"] == 0.5  # in the middle of the schedule
    state = torch.load(path, weights_only=True)["state_dict"]
    saved = {key for key in state if key.startswith("criterion")}
    assert saved == {"criterion.num_steps", "criterion.losses.2.linear.weight"}

    resumed = lightning_module()
    nn.init.zeros_(resumed.criterion.losses[2].linear.weight)
    fit(resumed, three_classes, tmp_path, max_epochs=2, checkpoint=path)
    assert half.values + resumed.values == whole.values
    assert resumed.criterion.weights == whole.criterion.weights


@pytest.mark.filterwarnings("ignore")
def test_lightning_accumulates_equal_batches_to_the_gradient_of_the_whole(three_classes, tmp_path):
    need("lightning")
    # Without weights of classes, all parts count the same, so that the mean of the means is the mean.
    text = "output_features: [{name: image, type: vector, loss: mse}, {name: digit, type: category, loss: focal}]"
    once, four = lightning_module(text, steps=False), lightning_module(text, steps=False)
    fit(once, three_classes, tmp_path, batch_size=24)
    fit(four, three_classes, tmp_path, batch_size=6, accumulate_grad_batches=4)
    for a, b in zip(once.parameters(), four.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore")
def test_lightning_steps_by_the_gradient_of_the_whole_where_parts_count_unequally(tmp_path, monkeypatch):
    need("lightning")
    monkeypatch.syspath_prepend(EXAMPLES)
    from with_lightning_counts import LOSSES, LitClassifier

    class Module(LitClassifier):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 64, generator=generator), torch.randint(10, (64,), generator=generator)
    y[:20] = -100  # all of the first part, and some of the second
    module = Module()
    whole = copy.deepcopy(module.model)
    fit(module, TensorDataset(x, y), tmp_path, batch_size=64)
    losskit.build(text=LOSSES)({"digit": whole(x)}, {"digit": y}).total.backward()
    for found, before in zip(module.model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(found, before - before.grad)


# transformers


def token_dataset(generator, *, num_rows=8, steps=6, vocabulary=11, num_labels=5):
    """Rows of which the labels are ignored in unequal numbers, one row altogether."""
    ids = torch.randint(vocabulary, (num_rows, steps), generator=generator)
    labels = torch.randint(num_labels, (num_rows, steps), generator=generator)
    for row in range(num_rows):
        labels[row, : row * steps // (num_rows - 1)] = -100
    return [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]


def token_classifier():
    from transformers import BertConfig, BertForTokenClassification

    config = BertConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        num_labels=5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForTokenClassification(config)


def language_model():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=8,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def gradients(make_model, dataset, folder, *, batch, accumulation, base=None, **options):
    """What one step of the Trainer with a learning rate of 1 takes from the parameters."""
    transformers = need("transformers")
    torch.manual_seed(0)
    model = make_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        learning_rate=1.0,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    (base or transformers.Trainer)(model, arguments, train_dataset=dataset, **options).train()
    return {name: before[name] - parameter.detach() for name, parameter in model.named_parameters()}


def assert_same(found, expected):
    assert max(value.abs().max() for value in expected.values()) > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(("name", "make_model"), [("tokens", token_classifier), ("next token", language_model)])
def test_the_trainer_of_transformers_has_the_same_gradient_however_a_step_is_cut(name, make_model, tmp_path):
    need("transformers")
    from losskit.integrations.transformers import compute_loss_func

    dataset = token_dataset(torch.Generator().manual_seed(1))
    is_next = name == "next token"
    loss = compute_loss_func("next_token_softmax_cross_entropy" if is_next else "cross_entropy")
    found = [
        gradients(make_model, dataset, tmp_path, batch=batch, accumulation=8 // batch, compute_loss_func=loss)
        for batch in (8, 2, 1)
    ]
    torch.manual_seed(0)
    model = make_model()
    batch = {key: torch.stack([row[key] for row in dataset]) for key in ("input_ids", "labels")}
    logits, labels = model(input_ids=batch["input_ids"]).logits, batch["labels"]
    if is_next:
        logits, labels = logits[:, :-1], labels[:, 1:]
    F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    expected = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    for gradient in found:
        assert_same(gradient, expected)


class TwoHeads(nn.Module):
    """A model with two tasks, as it would be written for the Trainer."""

    def __init__(self):
        super().__init__()
        self.encoder, self.word, self.score = nn.Embedding(11, 8), nn.Linear(8, 5), nn.Linear(8, 1)

    def forward(self, input_ids, labels=None):
        hidden = self.encoder(input_ids)
        return {"word": self.word(hidden), "score": self.score(hidden.mean(1)).squeeze(-1), "hidden": hidden}


TWO = """
output_features:
  - {name: word, type: text, loss: {type: cross_entropy, class_weights: [1, 2, 3, 4, 5]}}
  - {name: score, type: number, loss: [huber, {type: mae, weight: 0.3}], missing: mask}
"""


def two_targets():
    rows = token_dataset(torch.Generator().manual_seed(2))
    for number, row in enumerate(rows):
        score = torch.tensor(float("nan") if number % 3 == 0 else number / 8)
        row["labels"] = {"word": row["labels"], "score": score}
    return rows


def collate(rows):
    labels = {name: torch.stack([row["labels"][name] for row in rows]) for name in ("word", "score")}
    return {"input_ids": torch.stack([row["input_ids"] for row in rows]), "labels": labels}


def test_the_trainer_of_transformers_has_the_same_gradient_for_several_targets(tmp_path):
    transformers = need("transformers")
    from losskit.integrations.transformers import CountsLabels, compute_loss_func

    class Trainer(CountsLabels, transformers.Trainer):
        pass

    options = {"compute_loss_func": compute_loss_func(losskit.build(text=TWO)), "data_collator": collate}
    data = two_targets()
    found = [
        gradients(TwoHeads, data, tmp_path, batch=batch, accumulation=8 // batch, base=Trainer, **options)
        for batch in (8, 2)
    ]
    torch.manual_seed(0)
    model, batch = TwoHeads(), collate(data)
    outputs = model(batch["input_ids"])
    outputs.pop("hidden")
    losskit.build(text=TWO)(outputs, batch["labels"]).total.backward()
    for gradient in found:
        assert_same(gradient, {name: parameter.grad for name, parameter in model.named_parameters()})


def test_the_trainer_of_transformers_says_where_it_cannot_count(tmp_path):
    need("transformers")
    from losskit.integrations.transformers import compute_loss_func

    options = {"compute_loss_func": compute_loss_func(losskit.build(text=TWO)), "data_collator": collate}
    with pytest.raises(ValueError, match="the Trainer cannot count labels that are a dict"):
        gradients(TwoHeads, two_targets(), tmp_path, batch=2, accumulation=4, **options)


RANKS = """
import pickle, sys
from tests.test_frameworks import *
from losskit.integrations.transformers import CountsLabels, compute_loss_func

folder, kind = sys.argv[1:]
if kind == "tokens":
    dataset, options = token_dataset(torch.Generator().manual_seed(1)), {"compute_loss_func": compute_loss_func("mse")}
    options = {"compute_loss_func": compute_loss_func("cross_entropy")}
    found = gradients(token_classifier, dataset, folder, batch=2, accumulation=2, **options)
else:
    import transformers
    class Trainer(CountsLabels, transformers.Trainer): pass
    options = {"compute_loss_func": compute_loss_func(losskit.build(text=TWO)), "data_collator": collate}
    found = gradients(TwoHeads, two_targets(), folder, batch=2, accumulation=2, base=Trainer, **options)
if int(os.environ["RANK"]) == 0:
    with open(f"{folder}/found.pkl", "wb") as file:
        pickle.dump(found, file)
"""


@pytest.mark.parametrize("kind", ["tokens", "several"])
def test_the_trainer_of_transformers_has_the_same_gradient_on_two_ranks(kind, tmp_path):
    transformers = need("transformers")
    from losskit.integrations.transformers import CountsLabels, compute_loss_func

    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    result = subprocess.run(
        [*command, tmp_path, kind], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    found = pickle.loads((tmp_path / "found.pkl").read_bytes())
    if kind == "tokens":
        options = {"compute_loss_func": compute_loss_func("cross_entropy")}
        dataset = token_dataset(torch.Generator().manual_seed(1))
        expected = gradients(token_classifier, dataset, tmp_path, batch=8, accumulation=1, **options)
    else:

        class Trainer(CountsLabels, transformers.Trainer):
            pass

        options = {"compute_loss_func": compute_loss_func(losskit.build(text=TWO)), "data_collator": collate}
        expected = gradients(TwoHeads, two_targets(), tmp_path, batch=8, accumulation=1, base=Trainer, **options)
    assert_same(found, expected)


def test_the_trainer_of_transformers_saves_and_resumes_a_criterion_in_the_model(tmp_path):
    transformers = need("transformers")
    from losskit.integrations.transformers import compute_loss_func

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(6, 4)
            # Its weight is learned with the model's, and its schedule goes on where it was.
            self.criterion = losskit.build(
                {"losses": [{"type": "linear_cross_entropy", "in_features": 4, "num_classes": 3, "weight": SCHEDULE}]}
            )

        def forward(self, x, labels=None):
            return {"hidden": self.encoder(x)}

    class Step(transformers.TrainerCallback):
        def on_optimizer_step(self, args, state, control, model=None, **_):
            model.criterion.step()

    generator = torch.Generator().manual_seed(0)
    rows = [{"x": torch.randn(6, generator=generator), "labels": i % 3} for i in range(16)]

    def train(folder, steps, resume=None):
        torch.manual_seed(0)
        model = Model()
        args = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=4,
            save_steps=2,
            learning_rate=0.1,
            lr_scheduler_type="constant",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        loss = compute_loss_func(model.criterion)
        trainer = transformers.Trainer(model, args, train_dataset=rows, compute_loss_func=loss, callbacks=[Step()])
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "half", 2)
    resumed = train(tmp_path / "half", 4, resume=str(tmp_path / "half" / "checkpoint-2"))
    assert whole.criterion.weights == resumed.criterion.weights == {"linear_cross_entropy": 0.4}
    start = losskit.build({"losses": [{"type": "linear_cross_entropy", "in_features": 4, "num_classes": 3}]})
    assert whole.criterion.losses[0].linear.weight.shape == start.losses[0].linear.weight.shape
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


SCHEDULE = {"schedule": "linear", "from": 0.0, "to": 1.0, "steps": 10}


# accelerate


def test_accelerate_accumulates_equal_batches_to_the_gradient_of_the_whole():
    accelerate = need("accelerate")
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator))

    def stepped(batch_size, accumulation):
        accelerator = accelerate.Accelerator(gradient_accumulation_steps=accumulation, cpu=True)
        torch.manual_seed(0)
        model, loss = nn.Linear(6, 3), losskit.create_loss("cross_entropy")
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data, batch_size=batch_size))
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                accelerator.backward(loss(model(inputs), targets))
                optimizer.step()
                optimizer.zero_grad()
        return model.weight.detach().clone()

    torch.testing.assert_close(stepped(8, 1), stepped(2, 4))


def test_accelerate_prepares_a_criterion_with_parameters_like_a_model(tmp_path):
    accelerate = need("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, project_dir=tmp_path)
    model = nn.Linear(6, 4)
    criterion = losskit.build(
        {"losses": [{"type": "linear_cross_entropy", "in_features": 4, "num_classes": 3, "weight": SCHEDULE}]}
    )
    optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1)
    model, criterion, optimizer = accelerator.prepare(model, criterion, optimizer)
    before = criterion.losses[0].linear.weight.detach().clone()
    for _ in range(2):
        total, _ = criterion({"hidden": model(torch.randn(5, 6))}, torch.tensor([0, 1, 2, 0, 1]))
        accelerator.backward(total)
        optimizer.step()
        criterion.step()
    assert not torch.equal(criterion.losses[0].linear.weight, before)
    accelerator.save_state(tmp_path / "state")
    saved = copy.deepcopy(criterion.state_dict())
    nn.init.zeros_(criterion.losses[0].linear.weight)
    criterion.step()
    accelerator.load_state(tmp_path / "state")
    torch.testing.assert_close(dict(criterion.state_dict()), dict(saved))
    assert criterion.weights == {"linear_cross_entropy": 0.2}


# Hydra


def test_hydra_makes_losses_of_targets():
    need("hydra")
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    cfg = OmegaConf.create(
        """
        smoothing: 0.2
        by_name: {_target_: losskit.create_loss, loss: focal, alpha: [0.2, 0.3, 0.5]}
        by_type: {_target_: losskit.create_loss, type: cross_entropy, label_smoothing: "${smoothing}"}
        by_class: {_target_: losskit.modules.SoftmaxCrossEntropyLoss, class_weights: [1, 2, 3]}
        partly: {_target_: losskit.create_loss, _partial_: true, loss: focal}
        criterion: {_target_: losskit.build, source: {output_features: "${features}"}}
        features: [{name: digit, type: category, loss: {type: cross_entropy, label_smoothing: "${smoothing}"}}]
        """
    )
    made = instantiate(cfg)
    # A ListConfig is no list, which torch's own losses trip over.
    assert made.by_name.alpha.tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert made.by_class.class_weights.tolist() == [1, 2, 3]
    assert made.by_type.label_smoothing == made.criterion.losses[0].label_smoothing == 0.2
    assert made.partly(gamma=3.0).gamma == 3.0


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("output_features.0.loss.gamma=-1", r"error\[LK203\] output_features\[0\].loss.gamma: `gamma` .* must be .*-1"),
        ("output_features.0.loss.type=focl", r'no loss named "focl", did you mean `focal`\?'),
        ("+output_features.0.loss.gama=1", r"`focal` has no setting `gama`, did you mean `gamma`\?"),
        ("output_features.0.type=number", r"is a loss for .*, not for number"),
    ],
)
def test_a_wrong_override_of_hydra_is_told_like_a_wrong_config(override, problem, tmp_path):
    need("hydra")
    command = [sys.executable, EXAMPLES / "with_hydra.py", override]
    result = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert re.search(problem, result.stderr), result.stderr


def test_hydras_error_of_a_wrong_target_says_what_is_wrong():
    need("hydra")
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    with pytest.raises(InstantiationException, match="`focal` has no setting `gama`, did you mean `gamma`") as error:
        instantiate({"_target_": "losskit.create_loss", "loss": "focal", "gama": 1})
    assert isinstance(error.value.__cause__, losskit.ConfigError)


# skorch


class Classifier(nn.Module):
    """Gives logits, or what a function makes of them, as `softmax` in skorch's quickstart."""

    def __init__(self, num_outputs=3, last=None):
        super().__init__()
        self.layer, self.last = nn.Linear(4, num_outputs), last

    def forward(self, X):
        out = self.layer(X)
        return out if self.last is None else self.last(out)


@pytest.fixture
def flowers():
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True)
    return X.astype(np.float32), y.astype(np.int64)


def softmax(logits):
    return logits.softmax(-1)


def first_column(logits):
    return logits[:, 0]


@pytest.mark.parametrize(
    ("criterion", "settings", "last"),
    [
        (SoftmaxCrossEntropyLoss, {"label_smoothing": 0.1}, None),
        (SoftmaxCrossEntropyLoss, {"class_weights": [1.0, 2.0, 3.0]}, None),
        (losskit.create_loss, {"loss": "cross_entropy", "label_smoothing": 0.1}, None),
        (losskit.create_loss, {"type": "label_smoothing_cross_entropy"}, None),
        (losskit.create_loss("cross_entropy"), {}, None),
        # skorch takes the logarithm for what is an nn.NLLLoss, as its quickstart's module needs it.
        (NllLoss, {}, softmax),
    ],
)
def test_skorch_gives_probabilities_for_the_cross_entropies(criterion, settings, last, flowers):
    skorch = need("skorch")
    torch.manual_seed(0)
    options = {f"criterion__{name}": value for name, value in settings.items()}
    net = skorch.NeuralNetClassifier(
        Classifier,
        module__last=last,
        criterion=criterion,
        optimizer=torch.optim.Adam,
        lr=0.1,
        max_epochs=40,
        iterator_train__shuffle=True,
        verbose=0,
        **options,
    )
    net.fit(*flowers)
    probabilities = net.predict_proba(flowers[0])
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert probabilities.min() >= 0
    assert net.score(*flowers) > 0.8
    for name, value in settings.items():
        if name not in ("loss", "type", "class_weights"):
            assert getattr(net.criterion_, name) == value
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict_proba(flowers[0]), probabilities)


@pytest.mark.parametrize("criterion", [BceWithLogitsLoss, losskit.create_loss("binary_weighted_cross_entropy")])
def test_skorch_gives_probabilities_for_yes_or_no(criterion, flowers):
    skorch = need("skorch")
    torch.manual_seed(0)
    X, y = flowers[0], (flowers[1] == 0).astype(np.float32)
    net = skorch.NeuralNetBinaryClassifier(
        Classifier,
        module__num_outputs=1,
        module__last=first_column,
        criterion=criterion,
        max_epochs=20,
        lr=0.1,
        verbose=0,
    )
    net.fit(X, y)
    probabilities = net.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    assert net.score(X, y) > 0.95


def test_skorch_is_told_of_softmax_for_losses_that_are_no_cross_entropy(flowers):
    skorch = need("skorch")
    # A focal loss may be one of yes-or-no labels, so it is no nn.CrossEntropyLoss.
    net = skorch.NeuralNetClassifier(
        Classifier, criterion=FocalLoss, criterion__gamma=1.0, predict_nonlinearity=softmax, max_epochs=2, verbose=0
    )
    np.testing.assert_allclose(net.fit(*flowers).predict_proba(flowers[0]).sum(1), 1, rtol=1e-5)


def test_skorch_sets_a_setting_anew_and_says_what_is_wrong_with_it(flowers):
    skorch = need("skorch")
    net = skorch.NeuralNetClassifier(
        Classifier, criterion=losskit.create_loss, criterion__type="focal", max_epochs=1, verbose=0
    ).initialize()
    net.set_params(criterion__gamma=0.5)
    assert net.criterion_.gamma == 0.5
    with pytest.raises(losskit.ConfigError, match="did you mean `gamma`"):
        net.set_params(criterion__gama=0.5)


def test_skorch_trains_and_saves_what_a_loss_learns(flowers, tmp_path):
    skorch = need("skorch")
    options = {"criterion__type": "linear_cross_entropy", "criterion__in_features": 4, "criterion__num_classes": 3}
    net = skorch.NeuralNet(Classifier, module__num_outputs=4, criterion=losskit.create_loss, verbose=0, **options)
    net.set_params(max_epochs=1, lr=0.1, train_split=None)
    net.initialize()
    before = net.criterion_.linear.weight.detach().clone()
    net.partial_fit(*flowers)
    assert not torch.equal(net.criterion_.linear.weight, before)
    net.save_params(f_criterion=tmp_path / "criterion.pt")
    twin = net.__class__(Classifier, module__num_outputs=4, criterion=losskit.create_loss, verbose=0, **options)
    twin.initialize().load_params(f_criterion=tmp_path / "criterion.pt")
    torch.testing.assert_close(twin.criterion_.linear.weight, net.criterion_.linear.weight)


# Ray


@pytest.mark.xdist_group("ray")
def test_a_worker_of_ray_says_how_a_loss_of_the_driver_is_found(tmp_path):
    need("ray")
    script = tmp_path / "driver.py"
    script.write_text(
        """
import losskit, ray
from losskit import register_loss

@register_loss("only_on_the_driver", ["number"])
def loss(predictions, targets):
    return (predictions - targets).abs().mean()

losskit.create_loss("only_on_the_driver")
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)

@ray.remote
def work():
    import losskit
    losskit.create_loss("only_on_the_driver")

try:
    ray.get(work.remote())
except losskit.ConfigError as error:
    print(error)
"""
    )
    out = run(script, folder=tmp_path)
    assert 'no loss named "only_on_the_driver"' in out
    assert "LOSSKIT_PLUGINS or an entry point" in out
