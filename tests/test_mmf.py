"""Loss classes written for MMF are registered unchanged, through one adapter."""

import copy
import pickle

import pytest
import torch
from torch import nn

import losskit
from losskit import register_loss
from losskit.modules import from_mmf
from losskit.modules.mmf import SampleList


class AnswerGap(nn.Module):
    """As MMF's classes are: it reads a key of the output, an attribute of the sample list, and has a setting."""

    def __init__(self, margin: float = 0.5):
        super().__init__()
        self.margin = margin
        self.seen = []

    def forward(self, sample_list, model_output):
        self.seen.append(type(sample_list))
        gap = (model_output["scores"] - sample_list.targets).abs() + self.margin
        if hasattr(sample_list, "train_loss_mask"):
            gap = gap * sample_list["train_loss_mask"]
        return gap.mean().view(1)


class Parts(nn.Module):
    """Returns a dict, in which a part may be a plain number."""

    def forward(self, sample_list, model_output):
        return {"pull": (model_output["a"] - model_output["b"]).abs().sum(), "push": 0}


@pytest.mark.usefixtures("losses")
def test_a_class_is_registered_unchanged():
    register_loss("answer_gap", ["number"])(from_mmf(AnswerGap))
    criterion = losskit.build({"losses": [{"type": "answer_gap", "params": {"margin": 1.0}}]})
    scores = torch.tensor([3.0, 1.0], requires_grad=True)
    output = criterion({"scores": scores}, {"targets": torch.tensor([1.0, 1.0])})
    output.total.backward()
    assert output.total == 2
    assert output.total.shape == ()
    assert scores.grad is not None
    problem = losskit.validate({"losses": [{"type": "answer_gap", "params": {"margin": "x"}}]})
    assert problem[0].message.startswith("`margin` of `answer_gap` must be a number")


@pytest.mark.usefixtures("losses")
def test_a_feature_gives_all_that_it_has():
    register_loss("answer_gap", ["number"])(from_mmf(AnswerGap))
    criterion = losskit.build({"output_features": [{"name": "x", "type": "number", "loss": "answer_gap"}]})
    ones, zeros = torch.ones(2), torch.zeros(2)
    assert criterion({"x": ones}, {"x": zeros}).total == 1.5
    targets = {"targets": zeros, "train_loss_mask": torch.tensor([1.0, 0.0])}
    assert criterion({"x": {"scores": ones}}, {"x": targets}).total == 0.75

    class Own(SampleList):
        pass

    assert criterion({"x": ones}, {"x": Own(targets)}).total == 0.75
    assert criterion.losses[0].seen == [SampleList, SampleList, Own]


@pytest.mark.usefixtures("losses")
def test_a_dict_of_parts_and_no_targets():
    register_loss("parts")(from_mmf(Parts))
    total, parts = losskit.build({"losses": ["parts"]})({"a": torch.ones(2), "b": torch.zeros(2)})
    assert total == 2
    assert parts == {"parts/pull": 2, "parts/push": 0}


def test_adapted_losses_can_be_copied_and_saved():
    loss = from_mmf(AnswerGap)(margin=2.0)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other(torch.ones(1), torch.ones(1)) == 2
        assert type(other) is type(loss)
    assert from_mmf(AnswerGap) is from_mmf(AnswerGap)


MODEL_OUTPUT = {
    "scores": torch.rand(4, 5, 3),
    "fused_embedding": torch.randn(4, 6),
    "embedding_1": torch.randn(4, 6),
    "embedding_2": torch.randn(4, 6),
    "temperature": torch.tensor(0.5),
}
SAMPLE_LIST = {
    "targets": torch.randint(3, (4, 5)),
    "train_loss_mask": torch.eye(4, 5),
    "caption_len": torch.full((4,), 3),
}


@pytest.mark.parametrize(
    ("loss", "model_output", "sample_list", "expected"),
    [
        ("caption_cross_entropy", {}, {}, lambda f, o, s: f(o["scores"], s["targets"], lengths=s["caption_len"])),
        (
            "m4c_decoding_bce_with_mask",
            {},
            {"targets": torch.rand(4, 5, 3)},
            lambda f, o, s: f(o["scores"], s["targets"], mask=s["train_loss_mask"]),
        ),
        (
            "contrastive_loss",
            {},
            {},
            lambda f, o, s: f(o["embedding_1"], o["embedding_2"], temperature=o["temperature"]),
        ),
        ("bce", {}, {"targets": torch.rand(4, 5, 3)}, lambda f, o, s: f(o["scores"], s["targets"])),
        ("ms_loss", {"scores": None}, {"targets": torch.tensor([0, 0, 1, 1])}, None),
    ],
)
def test_a_list_of_losses_knows_the_keys_of_mmf(loss, model_output, sample_list, expected):
    output = {key: value for key, value in {**MODEL_OUTPUT, **model_output}.items() if value is not None}
    samples = {**SAMPLE_LIST, **sample_list}
    criterion = losskit.build({"losses": [loss]})
    total = criterion(output, samples).total
    if expected is None:
        assert total == losskit.create_loss(loss)(output["fused_embedding"], samples["targets"])
    else:
        assert total == expected(losskit.create_loss(loss), output, samples)


def test_features_with_a_name_keep_their_keys_apart():
    criterion = losskit.build({"output_features": [{"name": "x", "type": "set", "loss": "logit_bce"}]})
    with pytest.raises(ValueError, match="nothing fills its input 'logits'"):
        criterion({"x": {"scores": torch.randn(2, 3)}}, {"x": torch.rand(2, 3)})
