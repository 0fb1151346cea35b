"""Losses for yes-or-no labels, one or several: torch's and MMF's values, infinite logits, masks, what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from losskit import build, create_loss, debug, validate
from losskit.modules import bce_loss, bce_with_logits_loss

INF = math.inf
EXACT = {"rtol": 3e-7, "atol": 1e-9}


def compare(loss, expected, *inputs):
    """Value and gradient with respect to the first input."""
    first = inputs[0].detach().requires_grad_()
    results = [
        (value, *torch.autograd.grad(value, first)) for value in (f(first, *inputs[1:]) for f in (loss, expected))
    ]
    torch.testing.assert_close(*results, **EXACT)


def in_torch(function, reduction, num_samples, **settings):
    """torch's loss with one of our reductions."""
    if reduction != "batchmean":
        return lambda x, y: function(x, y, reduction=reduction, **settings)
    return lambda x, y: function(x, y, reduction="sum", **settings) / num_samples


@pytest.mark.parametrize("reduction", ["mean", "sum", "batchmean"])
@pytest.mark.parametrize("feature_type", ["binary", "set", "image"])
def test_losses_have_the_values_of_torch(feature_type, reduction):
    torch.manual_seed(0)
    shape, along = {
        "binary": ((50,), None),
        "set": ((50, 7), (7,)),
        "image": ((4, 7, 5, 6), (7, 1, 1)),
    }[feature_type]
    logits, targets = 3 * torch.randn(shape), torch.rand(shape)
    numbers = [{}, {"pos_weight": 3.0}] if along is None else [{}, {"pos_weight": torch.rand(7) * 5}]
    for settings in numbers:
        for weights in (None,) if along is None else (None, torch.rand(7)):
            tensors = {name: torch.as_tensor(v).reshape(along or ()) for name, v in settings.items()}
            weight = None if weights is None else weights.reshape(along)
            ours = {name: v if isinstance(v, float) else v.tolist() for name, v in settings.items()}
            ours |= {"class_weights": None if weights is None else weights.tolist(), "reduction": reduction}
            loss = create_loss("bce_with_logits", feature_type=feature_type, **ours)
            function = F.binary_cross_entropy_with_logits
            expected = in_torch(function, reduction, len(logits), weight=weight, **tensors)
            compare(loss, expected, logits, targets)
            smooth = create_loss("bce_with_logits", feature_type=feature_type, label_smoothing=0.2, **ours)
            compare(smooth, lambda x, y, f=expected: f(x, 0.8 * y + 0.1), logits, targets)
    probabilities = logits.sigmoid()
    probabilities.view(-1)[:2] = torch.tensor([0.0, 1.0])
    ours.pop("pos_weight", None)
    loss = create_loss("bce", feature_type=feature_type, **{**ours, "reduction": reduction})
    compare(loss, in_torch(F.binary_cross_entropy, reduction, len(logits), weight=weight), probabilities, targets)


def test_losses_have_the_values_of_mmf():
    torch.manual_seed(0)
    logits, targets = torch.randn(6, 5), torch.rand(6, 5).round(decimals=1)
    mean = F.binary_cross_entropy_with_logits
    compare(create_loss("logit_bce"), lambda x, y: mean(x, y) * 5, logits, targets)
    compare(create_loss("triple_logit_bce"), lambda x, y: mean(x, y) * 5, logits, targets)
    branches = torch.randn(6, 3, 5)
    compare(
        create_loss("triple_logit_bce"), lambda x, y: sum(mean(x[:, b], y) for b in range(3)) * 5, branches, targets
    )
    bce = create_loss("bce", reduction="batchmean")
    compare(bce, lambda x, y: F.binary_cross_entropy(x, y) * 5, logits.sigmoid(), targets)
    compare(
        create_loss("attention_supervision"),
        lambda x, y: F.binary_cross_entropy(x, y, weight=y) * 5,
        logits.softmax(1),
        targets,
    )
    logits, targets, mask = torch.randn(6, 4, 5), torch.rand(6, 4, 5), torch.randint(2, (6, 4)).float()

    def masked_mean(x, y):
        values = F.binary_cross_entropy_with_logits(x, y, reduction="none") * mask.unsqueeze(-1)
        return values.sum() / max(mask.sum(), 1)

    loss = create_loss("m4c_decoding_bce_with_mask")
    compare(lambda x, y: loss(x, y, mask=mask), masked_mean, logits, targets)
    compare(lambda x, y: loss(x[:, 0], y[:, 0], mask=mask[:, 0] * 0), lambda x, y: x.sum() * 0, logits, targets)


WITH_INFINITE_LOGITS = [
    ("bce_with_logits", {}),
    ("bce_with_logits", {"pos_weight": 3.0}),
    ("bce_with_logits", {"pos_weight": [3.0, 0.5, 2.0], "class_weights": [1.0, 2.0, 3.0]}),
    ("bce_with_logits", {"label_smoothing": 0.1}),
    ("binary_weighted_cross_entropy", {"positive_class_weight": 2.0}),
    ("binary_weighted_cross_entropy", {"robust_lambda": 0.1, "confidence_penalty": 0.5}),
    ("sigmoid_cross_entropy", {}),
    ("sigmoid_cross_entropy", {"class_weights": [1.0, 2.0, 3.0]}),
    ("triple_logit_bce", {}),
    ("m4c_decoding_bce_with_mask", {}),
]


@pytest.mark.parametrize(("name", "settings"), WITH_INFINITE_LOGITS)
def test_infinite_logits_that_are_right_cost_no_more_than_large_ones(name, settings):
    loss = create_loss(name, reduction="sum", **settings)
    targets = torch.tensor([[0.0, 1.0, 0.3], [1.0, 0.0, 1.0]])
    infinite = torch.tensor([[-INF, INF, 0.5], [-0.5, -INF, 2.0]], requires_grad=True)
    value = loss(infinite, targets)
    (gradient,) = torch.autograd.grad(value, infinite)
    assert (gradient[infinite.isinf()] == 0).all()
    if "label_smoothing" in settings:
        # A large logit is a belief, whose certainty costs; an infinite one rules the label out.
        apart = bce_with_logits_loss(infinite.detach(), targets, reduction="none", **settings)
        assert (apart[infinite.isinf()] == 0).all()
        large = apart[~infinite.isinf()].sum()
    else:
        large = loss(infinite.detach().clamp(-200, 200), targets)
    torch.testing.assert_close(value, large)


def test_infinite_logits_that_are_wrong_pull_as_large_ones_do():
    logits = torch.tensor([-INF, INF, INF], requires_grad=True)
    value = bce_with_logits_loss(logits, torch.tensor([1.0, 0.0, 0.4]), reduction="sum")
    assert value == INF
    assert torch.autograd.grad(value, logits)[0].tolist() == pytest.approx([-1.0, 1.0, 0.6])
    assert bce_with_logits_loss(torch.tensor([math.nan]), torch.zeros(1)).isnan()
    with debug():
        assert bce_with_logits_loss(torch.tensor([-INF, 0.0]), torch.zeros(2), reduction="sum") == pytest.approx(
            math.log(2)
        )
        with pytest.raises(ValueError, match=r"targets hold a value outside 0 to 1: 1.5 at index \(0,\)"):
            bce_with_logits_loss(torch.zeros(1), torch.tensor([1.5]))
    for loss in (bce_loss, bce_with_logits_loss):
        with pytest.raises(ValueError, match=r"outside 0 to 1: 2 at index \(\d.*; class ids go to a loss for"):
            loss(torch.ones(2), torch.tensor([0, 2]))


@pytest.mark.parametrize("name", ["bce", "bce_with_logits", "logit_bce", "attention_supervision", "triple_logit_bce"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.float16, torch.float64])
def test_targets_may_be_of_any_dtype(name, dtype):
    inputs, targets = torch.rand(4, 3), torch.randint(2, (4, 3))
    value = create_loss(name)(inputs, targets.to(dtype))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, create_loss(name)(inputs, targets.float()))


def test_what_masks_leave_out_may_hold_anything():
    loss = create_loss("m4c_decoding_bce_with_mask")
    mask = torch.tensor([[True, True, False], [True, False, False]])
    logits, targets = torch.randn(2, 3, 4), torch.randint(2, (2, 3, 4))
    spoilt = logits.masked_fill(~mask.unsqueeze(-1), math.nan).requires_grad_()
    labels = targets.float().masked_fill(~mask.unsqueeze(-1), math.nan)
    with debug():
        value = loss(spoilt, labels, mask=mask)
    (gradient,) = torch.autograd.grad(value, spoilt)
    kept = F.binary_cross_entropy_with_logits(logits[mask], targets[mask].float(), reduction="sum") / 3
    torch.testing.assert_close(value, kept)
    assert (gradient[~mask] == 0).all()
    count = loss.count(targets, mask=mask)
    parts = [loss(logits[i : i + 1], targets[i : i + 1], mask=mask[i : i + 1], normalizer=count) for i in (0, 1)]
    torch.testing.assert_close(sum(parts), kept)
    criterion = build({"output_features": [{"name": "x", "type": "sequence", "loss": "m4c_decoding_bce_with_mask"}]})
    torch.testing.assert_close(criterion({"x": logits}, {"x": {"targets": targets, "mask": mask}}).total, kept)


def test_numbers_per_class_need_a_class_axis():
    for name, setting in (("bce", "class_weights"), ("bce_with_logits", "pos_weight")):
        config = {"output_features": [{"name": "x", "type": "binary", "loss": {"type": name, setting: [1.0, 2.0]}}]}
        assert "a binary feature has a single output" in validate(config)[0].message
        role = "probabilities" if name == "bce" else "logits"
        loss = create_loss(name, **{setting: [1.0, 2.0]})
        with pytest.raises(ValueError, match=rf"{setting} has a number per class, but {role} \(2,\) have no"):
            loss(torch.rand(2), torch.rand(2))
        with pytest.raises(ValueError, match=rf"{setting} has 2 values, but the {role} \(2, 3\) have 3 classes"):
            loss(torch.rand(2, 3), torch.rand(2, 3))
        for_images = create_loss(name, feature_type="image", **{setting: [1.0, 2.0]})
        with pytest.raises(ValueError, match=r"\(4, 2, 2\) have no class axis"):
            for_images(torch.rand(4, 2, 2), torch.rand(4, 2, 2))
        masks = create_loss(name, feature_type="image")
        assert masks(torch.rand(4, 2, 2), torch.rand(4, 2, 2)) > 0


@pytest.mark.parametrize(
    ("name", "inputs", "targets", "message"),
    [
        (
            "bce_with_logits",
            (4, 1),
            (4,),
            r"\(4, 1\) and targets \(4,\) .*to \(4, 4\); .*logits.squeeze\(-1\)",
        ),
        ("bce", (4, 1), (4,), r"probabilities \(4, 1\) and targets \(4,\) .*probabilities.squeeze\(-1\)"),
        ("attention_supervision", (4, 1), (4, 3), r"attentions \(4, 1\) and targets \(4, 3\) .*same shape"),
        ("triple_logit_bce", (4, 3, 1), (4, 3), r"logits \(4, 3, 1\) and targets \(4, 3\) .*logits.squeeze\(-1\)"),
        ("triple_logit_bce", (4, 3, 5), (4, 3), r"logits \(4, 3, 5\) and targets \(4, 3\) differ in shape"),
        ("triple_logit_bce", (4, 5), (4, 3, 5), r"logits \(4, 5\) and targets \(4, 3, 5\) differ in shape"),
        ("m4c_decoding_bce_with_mask", (4, 3, 5), (4, 3), r"logits \(4, 3, 5\) and targets \(4, 3\) differ in shape"),
        ("m4c_decoding_bce_with_mask", (), (), "must have a class axis"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name, inputs, targets, message):
    with pytest.raises(ValueError, match=message):
        create_loss(name)(torch.rand(inputs), torch.rand(targets))


def test_masks_and_probabilities_that_do_not_fit_are_refused():
    x = torch.rand(2, 3, 4)
    loss = create_loss("m4c_decoding_bce_with_mask")
    with pytest.raises(ValueError, match=r"mask \(2, 4\) does not fit logits \(2, 3, 4\); .*class axis: \(2, 3\)"):
        loss(x, x, mask=torch.ones(2, 4))
    with pytest.raises(TypeError, match="mask must be a tensor, got list"):
        loss(x, x, mask=[[1, 1, 1]] * 2)
    with pytest.raises(TypeError, match="logits are int64, but must be floating-point"):
        loss(x.long(), x, mask=torch.ones(2, 3))
    for name, role in (("bce", "probabilities"), ("attention_supervision", "attentions")):
        for wrong in (1.5, -0.1, math.nan):
            with pytest.raises(
                ValueError, match=rf"{role} hold a value outside 0 to 1: .* at index \(.*\); logits need"
            ):
                create_loss(name)(torch.tensor([[0.5, wrong]]), torch.ones(1, 2))
