"""What is special to losses that align a sequence with labels."""

import pytest
import torch
import torch.nn.functional as F

import losskit
from losskit import create_loss

STEP_LENGTHS, LABEL_LENGTHS = torch.tensor([12, 9, 4, 12]), torch.tensor([5, 2, 4, 0])


def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 12, 5, generator=generator)
    labels = torch.randint(0, 4, (4, 5), generator=generator)
    labels[2] = 1  # four equal labels need seven steps, and there are four
    return logits, labels + (labels >= 2)  # 2 is the blank


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("zero_infinity", [True, False])
@pytest.mark.parametrize("from_logits", [True, False])
def test_ctc_agrees_with_torch_to_the_last_digits(reduction, zero_infinity, from_logits):
    logits, labels = batch()
    settings = {"blank": 2, "zero_infinity": zero_infinity, "reduction": reduction}
    given = logits if from_logits else logits.log_softmax(-1)
    scores, others = given.clone().requires_grad_(), given.clone().requires_grad_()
    loss = losskit.get_loss_cls("text", "ctc")(**settings, from_logits=from_logits)
    found = loss(scores, labels, input_lengths=STEP_LENGTHS, target_lengths=LABEL_LENGTHS)
    theirs = (others.log_softmax(-1) if from_logits else others).transpose(0, 1)
    expected = F.ctc_loss(theirs, labels, STEP_LENGTHS, LABEL_LENGTHS, **settings)
    torch.testing.assert_close(found, expected, rtol=3e-7, atol=0)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(scores.grad, others.grad, rtol=3e-7, atol=1e-8, equal_nan=True)
    swapped = losskit.get_loss_cls("text", "ctc")(**settings, from_logits=from_logits, layout="time_first")
    value = swapped(given.transpose(0, 1), labels.int(), input_lengths=STEP_LENGTHS, target_lengths=LABEL_LENGTHS)
    torch.testing.assert_close(value, found.detach(), rtol=0, atol=0)


def test_ctc_compiles_with_lengths_and_exports_them():
    logits, labels = batch()
    loss = create_loss("ctc", blank=2)

    class Named(torch.nn.Module):
        def forward(self, logits, labels, steps, lengths):
            return loss(logits, labels, input_lengths=steps, target_lengths=lengths)

    given = (labels, STEP_LENGTHS, LABEL_LENGTHS)
    expected = Named()(eager := logits.clone().requires_grad_(), *given)
    expected.backward()
    torch._dynamo.reset()
    value = torch.compile(Named(), fullgraph=True, backend="aot_eager")(
        other := logits.clone().requires_grad_(), *given
    )
    value.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(other.grad, eager.grad)
    exported = torch.export.export(Named(), (logits, *given)).module()
    # Other lengths than those at the time of the export.
    lengths = torch.tensor([1, 5, 0, 3])
    torch.testing.assert_close(
        exported(logits, labels, STEP_LENGTHS, lengths), Named()(logits, labels, STEP_LENGTHS, lengths)
    )
    torch.library.opcheck(
        torch.ops.losskit.ctc.default,
        (logits.log_softmax(-1).transpose(0, 1).contiguous().requires_grad_(), *given, 2, True),
    )


@pytest.mark.parametrize("settings", [{}, {"padding_index": 0}, {"padding_index": None}])
def test_ctc_padding_stands_for_lengths(settings):
    logits, _ = batch()
    index = settings.get("padding_index", -100)
    fill = 3 if index is None else index
    # Padding may stand on either side: what counts is the labels that are left.
    rows = torch.tensor([[1, 2, fill], [fill, 1, 2], [fill, fill, fill], [3, fill, 4]])
    loss = create_loss("ctc", reduction="sum", **settings)
    if index is None:
        expected = F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1), rows, torch.full((4,), 12), torch.full((4,), 3), reduction="sum"
        )
    else:
        packed, lengths = torch.tensor([[1, 2], [1, 2], [0, 0], [3, 4]]), torch.tensor([2, 2, 0, 2])
        expected = loss(logits, packed, target_lengths=lengths)
    torch.testing.assert_close(loss(logits, rows), expected)


def test_ctc_of_an_empty_target_is_the_cost_of_blanks():
    logits, _ = batch()
    blanks = -logits.log_softmax(-1)[:, :, 0].sum(1).mean()
    for targets in (torch.full((4, 3), -100), torch.zeros(4, 0, dtype=torch.long)):
        torch.testing.assert_close(create_loss("ctc")(logits, targets), blanks)
    assert create_loss("ctc")(torch.zeros(2, 0, 3), torch.full((2, 1), -100)) == 0


def test_ctc_refuses_what_torch_would_misread():
    logits, labels = batch()
    loss = create_loss("ctc", blank=2)
    with pytest.raises(ValueError, match=r"logits \(4, 12, 5\).* targets \(12, 5\).*layout='time_first'"):
        loss(logits, torch.ones(12, 5, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r"targets \(20,\) do not fit: targets must be \(4, labels\), a row per sample"
    ):
        loss(logits, labels.flatten())
    with pytest.raises(ValueError, match="input_lengths hold 13, but must lie between 0 and 12"):
        loss(logits, labels, input_lengths=STEP_LENGTHS + 1)
    with pytest.raises(ValueError, match=r"target_lengths hold 6, .* 0 and 5 for targets \(4, 5\)"):
        loss(logits, labels, target_lengths=LABEL_LENGTHS + 1)
    with pytest.raises(ValueError, match=r"target_lengths \(1,\) and targets \(4, 5\)"):
        loss(logits, labels, target_lengths=LABEL_LENGTHS[:1])
    with pytest.raises(TypeError, match=r"input_lengths are bool.*mask.sum\(1\)"):
        loss(logits, labels, input_lengths=STEP_LENGTHS > 4)
    with pytest.raises(ValueError, match="targets hold 2, which is the blank"):
        loss(logits, torch.full_like(labels, 2))
    with pytest.raises(ValueError, match=r"targets \(4, 5\) hold the label 5, but the logits have 5 classes: 0 to 4"):
        loss(logits, torch.full_like(labels, 5))
    with pytest.raises(TypeError, match="targets are float32"):
        loss(logits, labels.float())
    with pytest.raises(ValueError, match="blank is 5, but the logits have 5 classes"):
        create_loss("ctc", blank=5)(logits, labels)
    with pytest.raises(losskit.ConfigError, match="`blank` of `ctc` is 7, but the feature has 5 classes"):
        losskit.load(
            {"output_features": [{"name": "x", "type": "text", "num_classes": 5, "loss": {"type": "ctc", "blank": 7}}]}
        )
