"""What is special to a loss: papers' numbers, hard corners, values that are refused."""

import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from losskit import create_loss, debug
from losskit.modules import dice_loss, focal_loss, softmax_cross_entropy_loss
from losskit.modules.tempered import log_tempered_softmax


def test_plain_torch_losses_agree_to_the_last_digits():
    torch.manual_seed(0)
    x, y = torch.randn(1000), torch.randn(1000)
    z, ids, w = torch.randn(100, 7), torch.randint(7, (100,)), torch.rand(7)
    exact = {"rtol": 3e-7, "atol": 0}
    torch.testing.assert_close(create_loss("mse")(x, y), F.mse_loss(x, y), **exact)
    torch.testing.assert_close(create_loss("mae")(x, y), F.l1_loss(x, y), **exact)
    torch.testing.assert_close(create_loss("huber", delta=0.3)(x, y), F.huber_loss(x, y, delta=0.3), **exact)
    torch.testing.assert_close(create_loss("cross_entropy")(z, ids), F.cross_entropy(z, ids), **exact)
    loss = create_loss("cross_entropy", class_weights=w.tolist(), label_smoothing=0.1, ignore_index=3)
    expected = F.cross_entropy(z, ids, weight=w, label_smoothing=0.1, ignore_index=3)
    torch.testing.assert_close(loss(z, ids), expected, **exact)
    probabilities = torch.rand(100, 7).softmax(1)
    loss = create_loss("cross_entropy", class_weights=w.tolist())
    torch.testing.assert_close(loss(z, probabilities), F.cross_entropy(z, probabilities, weight=w), **exact)


@pytest.mark.parametrize(("num_classes", "scale"), [(10, 1.0), (1000, 5.0), (20_000, 20.0)])
@pytest.mark.parametrize("t", [0.5, 1.05, 1.4, 2.0, 4.0])
def test_tempered_softmax_is_normalised(num_classes, scale, t):
    # The published iteration leaves the sum off by 0.59 at 20,000 classes.
    logits = scale * torch.randn(16, num_classes, generator=torch.Generator().manual_seed(0))
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-13)):
        sums = log_tempered_softmax(logits.to(dtype), t).double().exp().sum(-1)
        assert (sums - 1).abs().max() < tolerance


def test_tempered_loss_is_continuous_at_temperature_one():
    logits, ids = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    expected = F.cross_entropy(logits, ids)
    for t1, t2 in ((1.0, 1.0), (1 - 1e-9, 1 + 1e-9), (1 - 1e-9, 1 - 1e-9)):
        loss = create_loss("tempered_softmax_cross_entropy", t1=t1, t2=t2)
        torch.testing.assert_close(loss(logits, ids), expected, rtol=1e-7, atol=0)


def test_tempered_loss_is_bounded():
    # For t1 < 1 no label can cost more than log_t1(0) and the norm of certainty: 1/(1 - t1) + 1/(2 - t1) - 1/(2 - t1).
    loss = create_loss("tempered_softmax_cross_entropy", t1=0.5, t2=1.0)
    wrong = loss(torch.tensor([[1e4, 0.0]]), torch.tensor([1]))
    torch.testing.assert_close(wrong, torch.tensor(2.0))


def test_focal_loss_of_gamma_zero_is_cross_entropy():
    z, labels = torch.randn(50), torch.randint(2, (50,)).float()
    torch.testing.assert_close(
        focal_loss(z, labels, alpha=None, gamma=0.0), F.binary_cross_entropy_with_logits(z, labels)
    )
    logits, ids = torch.randn(50, 5), torch.randint(5, (50,))
    torch.testing.assert_close(focal_loss(logits, ids, gamma=0.0), F.cross_entropy(logits, ids))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [20.0, 100.0, 1e4])
def test_focal_loss_of_small_gamma_has_a_gradient_where_it_saturates(gamma, size):
    z = torch.tensor([size, -size, size, -size], requires_grad=True)
    focal_loss(z, torch.tensor([1.0, 0.0, 0.0, 1.0]), gamma=gamma).backward()
    assert torch.isfinite(z.grad).all()
    logits = torch.tensor([[size, 0.0], [0.0, size]], requires_grad=True)
    focal_loss(logits, torch.tensor([0, 0]), gamma=gamma).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_ignores_items_whose_first_class_cannot_be(gamma):
    logits = torch.tensor([[-math.inf, 1.0, 0.0], [-math.inf, 0.0, 2.0]], requires_grad=True)
    loss = create_loss("focal", activation="softmax", gamma=gamma)
    loss(logits, torch.tensor([1, -100])).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[1].abs().sum() == 0


def test_focal_loss_keeps_the_digits_of_easy_examples():
    z = torch.tensor([-15.0])
    expected = 0.75 * math.exp(-15.0) ** 3
    torch.testing.assert_close(focal_loss(z, torch.zeros(1)).double().item(), expected, rtol=1e-5, atol=0)


def test_dice_of_half_precision_is_that_of_float32():
    torch.manual_seed(0)
    logits, ids = torch.randn(1, 3, 256, 256), torch.randint(3, (1, 256, 256))
    expected = create_loss("dice")(logits.half().float(), ids)
    assert expected == pytest.approx(2 / 3, abs=0.02)
    torch.testing.assert_close(create_loss("dice")(logits.half(), ids), expected)


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_of_nothing_is_a_perfect_fit(smooth):
    loss = create_loss("dice", smooth=smooth)
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 4), -100))
    value.backward()
    assert value == 0
    assert (logits.grad == 0).all()


def test_dice_of_single_masks():
    logits = torch.full((1, 2, 2), 100.0)
    masks = torch.tensor([[[1, 1], [0, 0]]])
    # Two of four predicted pixels are right: 1 - 2 * 2 / (4 + 2).
    torch.testing.assert_close(create_loss("dice", smooth=0.0)(logits, masks), torch.tensor(1 / 3))
    with pytest.raises(ValueError, match="one class only"):
        create_loss("dice", include_background=False)(logits, masks)


def test_cross_entropy_with_classes_that_cannot_be():
    # Logits of -inf mark impossible classes; torch gives inf with label smoothing and NaN for soft labels.
    logits = torch.tensor([[2.0, 0.0, -math.inf]], requires_grad=True)
    for settings in ({}, {"label_smoothing": 0.1}, {"confidence_penalty": 0.1}):
        value = create_loss("cross_entropy", **settings)(logits, torch.tensor([0]))
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value), settings
        assert torch.isfinite(gradient).all(), settings
    value = create_loss("cross_entropy")(logits, torch.tensor([[0.7, 0.3, 0.0]]))
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(value, F.cross_entropy(logits[:, :2], torch.tensor([[0.7, 0.3]])))
    assert torch.isfinite(gradient).all()


def test_class_weight_of_zero_on_the_only_class_gives_zero():
    value = create_loss("cross_entropy", class_weights=[0.0, 1.0])(torch.randn(3, 2), torch.zeros(3, dtype=torch.long))
    assert value == 0


def test_robust_lambda_and_penalty_do_not_depend_on_the_rest_of_the_batch():
    loss = create_loss("binary_weighted_cross_entropy", confidence_penalty=0.5, robust_lambda=0.1, reduction="sum")
    rows = torch.tensor([3.0, -0.1]), torch.tensor([1.0, 0.0])
    apart = sum(loss(z.reshape(1), y.reshape(1)) for z, y in zip(*rows))
    torch.testing.assert_close(loss(*rows), apart)


def test_triplet_of_equal_embeddings_has_a_finite_gradient():
    x = torch.zeros(2, 3, requires_grad=True)
    for settings in ({}, {"eps": 0.0}, {"p": 1.0}):
        (gradient,) = torch.autograd.grad(create_loss("triplet_margin", **settings)(x, x, x), x)
        assert torch.isfinite(gradient).all()


def test_count_of_a_loss_without_targets_says_what_to_do():
    with pytest.raises(TypeError, match=r"len\(anchors\)"):
        create_loss("triplet_margin").count()
    with pytest.raises(TypeError, match="no sum over items"):
        create_loss("dice").count(torch.zeros(1))


def test_normalizer_needs_a_mean():
    with pytest.raises(ValueError, match="the reduction is 'sum'"):
        create_loss("mse", reduction="sum")(torch.ones(2), torch.ones(2), normalizer=3)


def test_module_takes_a_reduction_that_a_config_does_not():
    with pytest.raises(ValueError, match="must be mean, sum or none, got 'median'"):
        create_loss("mse").__class__(reduction="median")


def test_config_numbers_stay_exact_in_half_precision():
    loss = create_loss("cross_entropy", class_weights=[0.1, 0.3]).to(torch.bfloat16)
    assert loss.class_weights.tolist() == [0.1, 0.3]


SIMILARITIES = {"class_similarities": torch.eye(3), "class_similarities_temperature": 1.0}
IDS_THAT_DO_NOT_FIT = [
    (
        (4, 3),
        torch.zeros(4),
        r"targets are float32 of shape \(4,\), but class ids must be integers; use targets.long\(\)",
    ),
    ((4, 3), torch.zeros(4, 1, dtype=torch.long), r"\(4, 3\) and targets \(4, 1\) .*targets.squeeze\(-1\)"),
    ((4, 3), torch.zeros(5, dtype=torch.long), r"\(4, 3\) and targets \(5,\) .*must have the shape \(4,\)"),
    ((4, 3, 5, 5), torch.zeros(4, 1, 5, 5, dtype=torch.long), r"targets.squeeze\(1\)"),
    (
        (4, 3),
        torch.tensor([0, 1, 2, 3]),
        r"hold the class id 3 at index \(3,\), but the logits .* have 3 classes: 0 to 2",
    ),
    ((4, 3), torch.tensor([0, 1, 2, -1]), "hold the class id -1"),
    ((4, 1), torch.tensor([0, 1, 0, 1]), r"drop the class axis: logits.squeeze\(1\)"),
    ((4, 1), torch.tensor([0.0, 1.0, 0.0, 1.0]), r"\(4, 1\) and targets \(4,\) .*logits.squeeze\(-1\)"),
]
# The focal loss takes targets shaped like the logits for labels that are yes or no.
IDS_SHAPED_LIKE_LOGITS = [
    ((4, 3), torch.zeros(4, 3, dtype=torch.long), r"int64 targets are class ids; use targets.float\(\)"),
    ((), torch.tensor(0), "must have a class axis"),
]
SOFTMAX_LOSSES = ["softmax_cross_entropy", "tempered_softmax_cross_entropy"]


@pytest.mark.parametrize(
    ("name", "logits", "targets", "message"),
    [
        *((name, *case) for name in [*SOFTMAX_LOSSES, "focal"] for case in IDS_THAT_DO_NOT_FIT),
        *((name, *case) for name in SOFTMAX_LOSSES for case in IDS_SHAPED_LIKE_LOGITS),
    ],
)
def test_class_ids_that_do_not_fit_are_refused(name, logits, targets, message):
    with pytest.raises((TypeError, ValueError), match=message):
        create_loss(name)(torch.randn(logits), targets)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_class_ids_may_be_any_integers(dtype):
    logits, ids = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(create_loss("cross_entropy")(logits, ids.to(dtype)), F.cross_entropy(logits, ids))


def test_lists_are_no_tensors():
    with pytest.raises(TypeError, match="predictions must be a tensor, got list"):
        create_loss("mse")([1.0], torch.ones(1))
    with pytest.raises(TypeError, match="targets must be a tensor, got list"):
        create_loss("mse")(torch.ones(1), [1.0])


def test_classes_may_be_last_where_the_shapes_say_so():
    logits, ids = torch.randn(2, 7, 5), torch.randint(5, (2, 7))
    expected = F.cross_entropy(logits.movedim(-1, 1), ids)
    torch.testing.assert_close(softmax_cross_entropy_loss(logits, ids), expected)


def test_logits_without_a_batch():
    torch.testing.assert_close(
        softmax_cross_entropy_loss(torch.tensor([2.0, 0.0]), torch.tensor(0)),
        F.cross_entropy(torch.tensor([2.0, 0.0]), torch.tensor(0)),
    )


def test_debug_says_which_value_is_wrong():
    nan = torch.tensor([[0.0, math.nan]])
    assert create_loss("cross_entropy")(nan, torch.tensor([0])).isnan()
    with debug():
        with pytest.raises(ValueError, match=r"logits hold a value that is not finite: nan at index \(0, 1\)"):
            create_loss("cross_entropy")(nan, torch.tensor([0]))
        with pytest.raises(ValueError, match="targets are probabilities that do not sum to 1 over the classes: 1.5"):
            create_loss("cross_entropy")(torch.zeros(1, 2), torch.tensor([[0.9, 0.6]]))
        with pytest.raises(ValueError, match=r"targets hold a value outside 0 to 1: 2 at index \(.*; class ids go to"):
            create_loss("binary_weighted_cross_entropy")(torch.zeros(2), torch.tensor([1, 2]))
        with debug(False):
            assert create_loss("mse")(torch.tensor([math.nan]), torch.zeros(1)).isnan()
    assert create_loss("cross_entropy")(nan, torch.tensor([0])).isnan()


def test_losses_work_under_functional_transforms():
    loss = create_loss("cross_entropy")
    logits, ids = torch.randn(5, 3), torch.randint(3, (5,))
    per_sample = torch.func.vmap(torch.func.grad(lambda z, y: loss(z[None], y[None])))(logits, ids)
    expected = torch.autograd.functional.jacobian(lambda z: F.cross_entropy(z, ids, reduction="sum"), logits)
    torch.testing.assert_close(per_sample, expected)
    loss = create_loss("tempered_softmax_cross_entropy")
    per_sample = torch.func.vmap(torch.func.grad(lambda z, y: loss(z[None], y[None])))(logits, ids)
    expected = torch.autograd.functional.jacobian(lambda z: 5 * loss(z, ids), logits)
    torch.testing.assert_close(per_sample, expected)


def test_every_transform_reaches_the_tempered_loss():
    loss = create_loss("tempered_softmax_cross_entropy", label_smoothing=0.1)
    logits, ids = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    direction = torch.randn_like(logits)
    (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), ids), logits)
    logits = logits.detach()
    _, tangent = torch.func.jvp(lambda z: loss(z, ids), (logits,), (direction,))
    torch.testing.assert_close(tangent, (gradient * direction).sum())
    hessian = torch.func.hessian(lambda z: loss(z, ids))(logits)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(lambda z: loss(z, ids), logits))


@pytest.mark.parametrize("name", ["focal", "cross_entropy", "bi_tempered_logistic"])
def test_small_integers_hold_all_class_ids(name):
    # In uint8 the ignored id -100 would be the class 156.
    loss = create_loss(name, feature_type="category")
    logits, ids = torch.randn(8, 182), torch.full((8,), 156)
    torch.testing.assert_close(loss(logits, ids.byte()), loss(logits, ids))
    assert loss.count(ids.byte()) == 8


def test_alpha_lies_along_the_classes_of_an_image():
    logits, masks = torch.randn(2, 3, 4, 5), torch.randint(2, (2, 3, 4, 5)).float()
    alpha = [0.1, 0.5, 0.9]
    apart = [focal_loss(logits[:, c], masks[:, c], alpha=a) for c, a in enumerate(alpha)]
    loss = create_loss("focal", feature_type="image", alpha=alpha)
    torch.testing.assert_close(loss(logits, masks), sum(apart) / 3)
    with pytest.raises(ValueError, match=r"logits \(2, 4, 5\) have no class axis"):
        loss(logits[:, 0], masks[:, 0])


def test_count_of_probabilities_is_that_of_items():
    loss = create_loss("focal", feature_type="category")
    logits, probabilities = torch.randn(4, 3), torch.rand(4, 3).softmax(-1)
    count = loss.count(probabilities)
    assert count == 4
    torch.testing.assert_close(loss(logits, probabilities, normalizer=count), loss(logits, probabilities))


def test_constants_move_and_stay_as_they_were_set():
    loss = create_loss("cross_entropy", class_weights=[0.1, 0.3])
    loss.class_weights = torch.tensor([10.0, 1.0])
    assert loss.to("cpu").class_weights.tolist() == [10.0, 1.0]
    with torch.device("meta"):
        deferred = create_loss("cross_entropy", class_weights=[0.1, 0.3])
    assert deferred.class_weights.device.type == "meta"
    assert deferred.to_empty(device="cpu").class_weights.tolist() == [0.1, 0.3]

    def refuse_float64(tensor):
        if tensor.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return tensor

    assert loss._apply(refuse_float64).class_weights.tolist() == [10.0, 1.0]


@pytest.mark.parametrize("temperatures", [{}, {"t1": 1.0, "t2": 1.0}, {"t1": 0.5, "t2": 1.0}])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_tempered_loss_with_classes_that_cannot_be(temperatures, label_smoothing):
    loss = create_loss("tempered_softmax_cross_entropy", label_smoothing=label_smoothing, **temperatures)
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    for targets in (torch.tensor([0]), torch.tensor([[0.4, 0.6, 0.0]])):
        value = loss(logits, targets)
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value), targets
        assert torch.isfinite(gradient).all(), targets


def test_probabilities_with_classes_that_cannot_be():
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    targets = torch.tensor([[0.4, 0.6, 0.0]])
    for name, settings in (("cross_entropy", {"label_smoothing": 0.1}), ("focal", {"activation": "softmax"})):
        value = create_loss(name, **settings)(logits, targets)
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value), name
        assert torch.isfinite(gradient).all(), name
    with debug():
        create_loss("cross_entropy")(logits, targets)


def test_tracers_are_not_asked_for_values():
    from torch.fx.experimental.proxy_tensor import make_fx

    loss, logits, ids = create_loss("cross_entropy"), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    traced = make_fx(loss, tracing_mode="fake")(logits, ids)
    torch.testing.assert_close(traced(logits, ids), loss(logits, ids))


def test_normalizer_may_have_an_axis_of_one():
    loss = create_loss("mse")
    assert loss(torch.ones(2), torch.zeros(2), normalizer=torch.tensor([4.0])).shape == ()


def test_weights_of_zero_count_nothing_whatever_is_smoothed():
    loss = create_loss("cross_entropy", class_weights=[0.0, 1.0], label_smoothing=0.1)
    assert loss(torch.randn(10, 2), torch.zeros(10, dtype=torch.long)) == 0


def test_a_softmax_over_a_single_mask_is_refused():
    with pytest.raises(ValueError, match="use sigmoid"):
        create_loss("dice", activation="softmax")(torch.randn(2, 4, 4), torch.rand(2, 4, 4))


def test_dice_of_logits_without_pixels():
    loss = create_loss("dice")
    assert loss(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])) > 0


@pytest.mark.slow
def test_a_class_id_out_of_range_does_not_abort_a_compiled_program():
    code = """
import torch, losskit
torch.set_num_threads(2)
loss = torch.compile(losskit.create_loss("cross_entropy", feature_type="category"), fullgraph=True)
ids = torch.randint(37, (4096,))
ids[77] = 37
try:
    loss(torch.randn(4096, 37), ids)
except RuntimeError as error:
    print("refused:", "out of range" in str(error))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "refused: True\n", result.stderr[-500:]


def test_parts_add_up_where_a_part_has_no_positive_items():
    loss = create_loss("focal", feature_type="binary", normalize_by="positives")
    logits = torch.randn(6)
    for labels in (torch.zeros(6), torch.tensor([1.0, 0, 0, 0, 0, 0])):
        count = loss.count(labels)
        parts = sum(loss(logits[rows], labels[rows], normalizer=count) for rows in (slice(0, 3), slice(3, 6)))
        torch.testing.assert_close(parts, loss(logits, labels))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: softmax_cross_entropy_loss(x, x.softmax(1), reduction="avg"),
            "must be mean, batchmean, sum or none",
        ),
        (lambda x: focal_loss(x, x, activation="foo"), "activation must be auto, sigmoid or softmax, got 'foo'"),
        (lambda x: dice_loss(x, x, average="foo"), "average must be sample_class, class, micro or batch"),
        (
            lambda x: softmax_cross_entropy_loss(
                x, x.softmax(1), class_similarities=torch.eye(3), class_similarities_temperature=1.0
            ),
            "are probabilities",
        ),
        (lambda x: create_loss("focal", alpha=[3.0, 1.0, 1.0])(x, x.sigmoid()), "alpha has values above 1"),
    ],
)
def test_functions_refuse_what_configs_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.randn(4, 3))


def test_class_weights_of_a_function_may_be_a_list():
    logits, ids = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = F.cross_entropy(logits, ids, weight=torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(softmax_cross_entropy_loss(logits, ids, class_weights=[1.0, 2.0, 3.0]), expected)
