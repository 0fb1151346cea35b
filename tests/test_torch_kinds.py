"""Losses that are torch's own under another name are instances of torch's classes, and nothing else changes by that."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

from losskit import create_loss, losses
from losskit.registry import registry

KINDS = {
    nn.CrossEntropyLoss: {
        "softmax_cross_entropy",
        "sequence_softmax_cross_entropy",
        "next_token_softmax_cross_entropy",
        "label_smoothing_cross_entropy",
        "soft_label_cross_entropy",
    },
    nn.NLLLoss: {"nll"},
    # The losses of sets alone are not among them: skorch would make two columns of each label.
    nn.BCEWithLogitsLoss: {"bce_with_logits", "binary_weighted_cross_entropy", "logit_bce"},
    nn.BCELoss: {"bce"},
}
NAMES = sorted(set().union(*KINDS.values()))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_these_losses_are_of_torchs_class_and_no_others(kind):
    assert {name for name in losses() if issubclass(registry.get(name).module.load(), kind)} == KINDS[kind]


@pytest.mark.parametrize("name", NAMES)
def test_no_setting_comes_from_torchs_constructor(name):
    loss = create_loss(name)
    given = set(inspect.signature(type(loss)).parameters)
    assert set(loss.settings()) == given
    # torch's constructors would add buffers of their own, of which checkpoints would then speak.
    assert dict(loss.named_buffers()) == {}
    assert {"size_average", "reduce"}.isdisjoint(dir(loss))


def test_torchs_name_of_the_class_weights_is_understood():
    # What asks for an nn.CrossEntropyLoss may read its settings too.
    loss = create_loss("cross_entropy", class_weights=[1, 2, 3], label_smoothing=0.1)
    assert loss.weight.tolist() == [1, 2, 3]
    assert (loss.ignore_index, loss.label_smoothing, loss.reduction) == (-100, 0.1, "mean")
    assert create_loss("binary_weighted_cross_entropy").weight is None


def test_a_checkpoint_without_class_weights_loads_with_them():
    # A tensor of torch's, though None, would make the keys of the two differ.
    plain, weighted = create_loss("cross_entropy"), create_loss("cross_entropy", class_weights=[1, 2, 3])
    weighted.load_state_dict(plain.state_dict())
    plain.load_state_dict(weighted.state_dict())
    assert weighted.class_weights.tolist() == [1, 2, 3]


def copied(loss):
    return copy.deepcopy(loss)


def pickled(loss):
    return pickle.loads(pickle.dumps(loss))


def saved(loss):
    file = io.BytesIO()
    torch.save(loss, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("again", [copied, pickled, saved])
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_the_same_when_it_is_copied_or_saved(name, again):
    with_weights = "class_weights" in registry.get(name).schema["properties"]
    loss = create_loss(name, **({"class_weights": [1.0, 3.0]} if with_weights else {}))
    twin = again(loss)
    assert repr(twin) == repr(loss)
    assert type(twin) is type(loss)
    twin.double().to("meta").to_empty(device="cpu")  # what moves modules must find all that torch's class would have
    assert repr(twin) == repr(loss)
