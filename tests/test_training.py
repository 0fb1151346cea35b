"""What changes from step to step, what is computed once, and what is said when something goes wrong."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import losskit

SCHEDULED = """
output_features:
  - {name: a, type: number, loss: {type: mse, weight: {schedule: linear, from: 0.0, to: 1.0, steps: 4, warmup: 1}}}
  - {name: b, type: number, loss: [huber, {type: mae, weight: {schedule: cyclical, from: 0.5, to: 2.0, steps: 2}}]}
"""


def scheduled():
    return losskit.build(text=SCHEDULED)


def batch():
    torch.manual_seed(0)
    return {"a": torch.randn(5, requires_grad=True), "b": torch.randn(5)}, {"a": torch.randn(5), "b": torch.randn(5)}


def test_a_weight_follows_its_schedule():
    criterion, (predictions, targets) = scheduled(), batch()
    for weight_a, weight_b in zip([0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0], [0.5, 2.0] * 4):
        total, parts = criterion(predictions, targets)
        mse, huber, mae = parts.values()
        torch.testing.assert_close(total, weight_a * mse + huber + weight_b * mae)
        assert list(criterion.weights.values()) == [weight_a, 1.0, weight_b]
        criterion.step()


def test_training_resumes_in_the_middle_of_a_schedule():
    criterion, (predictions, targets) = scheduled(), batch()
    for _ in range(3):
        criterion.step()
    saved = io.BytesIO()
    torch.save(criterion.state_dict(), saved)
    saved.seek(0)
    resumed = scheduled()
    resumed.load_state_dict(torch.load(saved))
    for other in (resumed, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        assert other.weights == criterion.weights
        assert other(predictions, targets).total == criterion(predictions, targets).total
    resumed.step()
    assert resumed.weights["a/mean_squared_error"] == 0.75


def test_a_schedule_is_saved_as_tensors_alone_and_its_weights_are_those_of_the_config():
    assert list(scheduled().state_dict()) == ["num_steps"]
    assert all(isinstance(value, torch.Tensor) for value in scheduled().state_dict().values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_are_not_rounded_when_the_model_is_converted(dtype):
    criterion = losskit.build(
        {"output_features": [{"name": "a", "type": "number", "loss": {"type": "mse", "weight": SLOW}}]}
    )
    for _ in range(7):
        criterion.step()
    criterion.to(dtype)
    x = torch.ones(3, dtype=dtype)
    assert criterion({"a": x}, {"a": torch.zeros_like(x)}).total == pytest.approx(0.007)
    criterion.step()
    assert criterion({"a": x}, {"a": torch.zeros_like(x)}).total == pytest.approx(0.008)


SLOW = {"schedule": "linear", "steps": 1000}


# Compiling


def test_a_schedule_is_one_graph_that_is_compiled_once():
    criterion, (predictions, targets) = scheduled(), batch()
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(criterion, fullgraph=True, backend=counter)
    for _ in range(5):
        expected = criterion(predictions, targets).total
        torch.testing.assert_close(compiled(predictions, targets).total, expected)
        criterion.step()
    assert counter.frame_count == 1


MANY = """
output_features:
  - {name: a, type: number, loss: [mse, huber], missing: mask}
  - {name: b, type: category, loss: [cross_entropy, {type: focal, weight: {schedule: cosine, steps: 5}}]}
  - {name: c, type: binary, loss: bce_with_logits}
  - {name: v, type: vector, loss: triplet_margin}
loss_balancing: uncertainty
"""


def many():
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    predictions = {"a": random(6), "b": random(6, 3), "c": random(6)}
    predictions["v"] = {role: random(6, 4) for role in ("anchor", "positive", "negative")}
    targets = {"a": random(6), "b": torch.arange(6) % 3, "c": torch.arange(6) % 2}
    targets["a"][2] = torch.nan
    targets["b"] = {"targets": targets["b"], "mask": torch.tensor([1, 1, 0, 1, 1, 1]), "sample_weight": random(6).abs()}
    return predictions, targets


def test_masks_balancing_and_schedules_are_one_graph():
    criterion, (predictions, targets) = losskit.build(text=MANY), many()
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(criterion, fullgraph=True, backend=counter)
    optimizer = torch.optim.SGD(criterion.parameters(), 0.1)
    for _ in range(4):
        optimizer.zero_grad()
        expected = criterion(predictions, targets)
        output = compiled(predictions, targets)
        torch.testing.assert_close(output.total, expected.total)
        torch.testing.assert_close(output.parts, expected.parts)
        output.total.backward()
        optimizer.step()
        criterion.step()
    assert counter.frame_count == 1


def test_normalizers_are_no_reason_to_compile_anew():
    criterion, (predictions, targets) = scheduled(), batch()
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(criterion, fullgraph=True, backend=counter)
    for count in (5, 7, 9):
        normalizers = dict.fromkeys(criterion.keys, torch.tensor(count))
        torch.testing.assert_close(
            compiled(predictions, targets, normalizers).total, criterion(predictions, targets, normalizers).total
        )
    assert counter.frame_count == 1


class WithLoss(torch.nn.Module):
    """A model that computes its loss itself, as it is exported."""

    def __init__(self, text):
        super().__init__()
        self.heads = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 1), "b": torch.nn.Linear(4, 3)})
        self.criterion = losskit.build(text=text)

    def forward(self, x, a, b):
        predictions = {"a": self.heads["a"](x).squeeze(-1), "b": self.heads["b"](x)}
        total, parts = self.criterion(predictions, {"a": a, "b": b})
        return total, parts


@pytest.mark.parametrize("strict", [False, True])
def test_a_model_with_its_criterion_is_exported(strict):
    text = """
output_features:
  - {name: a, type: number, loss: [huber, {type: mse, weight: {schedule: linear, from: 0.5, steps: 5}}]}
  - {name: b, type: category, loss: [cross_entropy, focal]}
"""
    model = WithLoss(text)
    inputs = torch.randn(6, 4), torch.randn(6), torch.arange(6) % 3
    batch_size = torch.export.Dim("batch_size", min=2)
    program = torch.export.export(model, inputs, dynamic_shapes=[{0: batch_size}] * 3, strict=strict)
    other = torch.randn(9, 4), torch.randn(9), torch.arange(9) % 3
    torch.testing.assert_close(program.module()(*other), model(*other))


# What is computed once


class Counted(TorchDispatchMode):
    """Counts the kernels that are called."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls.append(function.name().removeprefix("aten::").split(".")[0])
        return function(*args, **(kwargs or {}))


def kernels(config, predictions, targets):
    criterion = losskit.build(config)
    with Counted() as counted:
        criterion(predictions, targets)
    return counted.calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_of_one_feature_share_their_softmax_and_one_hot(dtype):
    logits, ids = torch.randn(2, 3, 4, 4, dtype=dtype, requires_grad=True), torch.randint(3, (2, 4, 4))
    names = ["cross_entropy", "focal", "poly", "dice", {"type": "dice", "average": "class"}, "lovasz_softmax"]
    feature = {"name": "x", "type": "image", "loss": names}
    calls = kernels({"output_features": [feature]}, {"x": logits}, {"x": ids})
    assert calls.count("_log_softmax") == 1
    assert calls.count("_softmax") == 1
    assert calls.count("scatter") == 1
    alone = [
        losskit.build({"output_features": [{**feature, "loss": [name]}]})({"x": logits}, {"x": ids}) for name in names
    ]
    together = losskit.build({"output_features": [feature]})({"x": logits}, {"x": ids})
    torch.testing.assert_close(together.total, sum(output.total for output in alone))
    (gradient,) = torch.autograd.grad(together.total, logits)
    expected = torch.autograd.grad(sum(output.total for output in alone), logits)[0]
    torch.testing.assert_close(gradient, expected)


def test_features_share_nothing_and_nothing_is_kept():
    config = {"output_features": [{"name": n, "type": "category", "loss": ["focal", "poly"]} for n in "ab"]}
    x, ids = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    y = x.clone()
    assert kernels(config, {"a": x, "b": y}, {"a": ids, "b": ids}).count("_log_softmax") == 2
    criterion = losskit.build(config)
    first = criterion({"a": x, "b": y}, {"a": ids, "b": ids}).total
    x.mul_(2)  # the same tensor, as a buffer that is filled anew
    assert criterion({"a": x, "b": y}, {"a": ids, "b": ids}).total != first


# Diagnosis


def table_of(criterion, *given):
    out = io.StringIO()
    criterion.describe(*given, file=out)
    return out.getvalue()


def test_a_criterion_describes_its_last_step(capsys):
    text = """
output_features:
  - {name: price, type: number, loss: [{type: huber, delta: 0.5}, {type: mse, weight: 2.0}]}
  - {name: species, type: category, loss: {type: cross_entropy, class_weights: [1, 2]}}
"""
    criterion = losskit.build(text=text)
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    logits = torch.zeros(2, 2, requires_grad=True)
    predictions = {"price": x, "species": logits}
    targets = {"price": torch.tensor([0.0, 3.0]), "species": torch.tensor([0, 1])}
    criterion(predictions, targets).total.backward()
    criterion.describe()
    header, columns, _, huber, mse, entropy = capsys.readouterr().out.splitlines()
    assert header == "3 losses, step 0"
    assert columns.split("  ")[0] == "feature"
    # The losses are 0.375 / 2, 1 / 2 and log 2, the gradients 0.25, 1 (times 2) and |(1/6, 1/6, 1/3, 1/3)| = 0.527.
    assert huber.split() == ["price", "huber", "delta=0.5", "1", "0.1875", "10.0", "%", "9.0", "%"]
    assert mse.split() == ["price", "mean_squared_error", "-", "2", "0.5", "53.2", "%", "72.0", "%"]
    assert entropy.split() == [
        *["species", "softmax_cross_entropy", "class_weights=[1.0,", "2.0]", "1", "0.6931", "36.9", "%", "19.0", "%"]
    ]
    assert x.grad.tolist() == [2.25, 0.0], "describing leaves gradients alone"


def test_before_the_first_step_there_are_weights_alone():
    assert "no values are known yet" in table_of(scheduled())


def test_large_predictions_are_not_kept_alive():
    criterion = losskit.build(text="output_features: [{name: a, type: number, loss: [mse, mae]}]")
    x = torch.randn(5000, requires_grad=True)
    criterion({"a": x}, {"a": torch.zeros(5000)})
    assert "%" in table_of(criterion).splitlines()[3]
    del x
    text = table_of(criterion)
    assert "the predictions of the last step are gone" in text
    assert text.splitlines()[3].endswith("-")
    given = {"a": torch.ones(3)}, {"a": torch.zeros(3)}
    assert table_of(criterion, *given).splitlines()[3].endswith("66.7 %")


def test_effective_weights_are_shown_where_losses_are_balanced():
    criterion = losskit.build(text="output_features: [{name: a, type: number, loss: [mse, mae]}]\nloss_balancing: dwa")
    criterion({"a": torch.ones(2)}, {"a": torch.zeros(2)})
    assert "balanced by dwa" in table_of(criterion)


BAD = {
    "label": (
        {"b": torch.randn(3, 3)},
        {"b": torch.tensor([0, 5, 1])},
        r"b/softmax_cross_entropy: targets hold the class id 5 at index \(1,\), but the logits \(3, 3\) have 3 classes",
    ),
    "logits": (
        {"b": torch.tensor([[0.0, 1.0], [torch.nan, 0.0]])},
        {"b": torch.tensor([0, 1])},
        r"b/softmax_cross_entropy: logits hold a value that is not finite: nan at index \(1, 0\)",
    ),
    "distribution": (
        {"b": torch.randn(2, 2)},
        {"b": torch.tensor([[0.5, 0.5], [0.5, 0.9]])},
        r"b/softmax_cross_entropy: targets are probabilities that do not sum to 1 .*: 1.4 at index \(1,\)",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_the_first_bad_value_is_named(what):
    predictions, targets, message = BAD[what]
    criterion = losskit.build(text="output_features: [{name: b, type: category}]")
    with losskit.debug(), pytest.raises(ValueError, match=message):
        criterion(predictions, targets)


class Explodes(torch.autograd.Function):
    """Its gradient is infinite at the second element."""

    @staticmethod
    def forward(ctx, x):
        return x.sum()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.tensor([1.0, torch.inf, 1.0])


@pytest.mark.usefixtures("losses")
def test_the_first_gradient_that_is_not_finite_is_named():
    losskit.register_loss("explosive", ["number"])(lambda predictions, targets: Explodes.apply(predictions - targets))
    criterion = losskit.build(text="output_features: [{name: a, type: number, loss: [mse, explosive]}]")
    x = torch.zeros(3, requires_grad=True)
    message = r"a/explosive: the gradient of the loss for its logits is not finite: inf at index \(1,\)"
    with losskit.debug():
        total = criterion({"a": x}, {"a": torch.ones(3)}).total
        with pytest.raises(ValueError, match=message):
            total.backward()
    criterion({"a": x}, {"a": torch.ones(3)}).total.backward()


def test_a_loss_by_itself_names_its_gradient_too():
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    with losskit.debug():
        value = losskit.create_loss("mse")(x, torch.ones(2)) * torch.inf
        with pytest.raises(ValueError, match="MeanSquaredErrorLoss: the gradient of the loss for its logits is not"):
            value.backward()
    value = losskit.create_loss("mse")(x, torch.ones(2)) * torch.inf
    value.backward()


# Parts of a batch


def test_normalizers_must_be_those_of_the_losses():
    predictions, targets = batch()
    with pytest.raises(ValueError, match="normalizers hold 'a/mse', but the losses are 'a/mean_squared_error'"):
        scheduled()(predictions, targets, {"a/mse": 3})


def test_sums_and_losses_that_are_no_means_are_divided_too():
    text = "output_features: [{name: a, type: number, loss: [{type: mse, reduction: sum}, rmse]}]"
    criterion = losskit.build(text=text)
    x, y = torch.randn(4), torch.randn(4)
    parts = criterion({"a": x}, {"a": y}, dict.fromkeys(criterion.keys, 4)).parts
    torch.testing.assert_close(parts["a/mean_squared_error"], F.mse_loss(x, y))
    torch.testing.assert_close(parts["a/root_mean_squared_error"], F.mse_loss(x, y).sqrt() / 4)
    assert criterion.kinds == {"a/mean_squared_error": "sum", "a/root_mean_squared_error": "neither"}


def test_the_count_of_positive_items_has_its_limit_for_the_whole_batch_alone():
    loss = {"type": "focal", "normalize_by": "positives"}
    criterion = losskit.build({"output_features": [{"name": "a", "type": "binary", "loss": loss}]})
    (key,) = criterion.keys
    assert criterion.counts({"a": torch.zeros(3)})[key] == 0
    assert criterion.counts({"a": torch.ones(3)})[key] == 3
    assert criterion.least_counts == {key: 1}


def test_counts_are_asked_for_in_the_right_form():
    criterion = losskit.build(text="output_features: [{name: d, type: category}]")
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    for batches in (({"d": x}, {"d": y}), {"d": y}):
        with pytest.raises(TypeError, match="all micro-batches of a step: a list of targets, or of pairs"):
            losskit.distributed.counts(criterion, batches)
    with pytest.raises(ValueError, match="targets hold 'digt', but the features of the config are 'd'"):
        losskit.distributed.counts(criterion, [{"digt": y}])
    with pytest.raises(TypeError, match="targets must be a mapping from feature to tensor, got Tensor"):
        losskit.distributed.counts(criterion, [(x, y)])
    with pytest.raises(TypeError, match="normalizers must be a mapping from loss to number, got int"):
        criterion({"d": x}, {"d": y}, 4)


class Wrapper(torch.nn.Module):
    """As data parallelism wraps a module."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_counts_look_into_a_wrapper():
    criterion = losskit.build(text="output_features: [{name: d, type: number, loss: mse}]")
    counts = losskit.distributed.counts(Wrapper(criterion), [{"d": torch.zeros(3)}, {"d": torch.zeros(2)}])
    assert counts == {"d/mean_squared_error": 5}


@pytest.mark.parametrize("divided_by", [1, 2])
def test_regularisers_count_once_per_batch_whatever_the_loop_divides_by(divided_by):
    text = "output_features: [{name: a, type: number, loss: [mse, mae]}]\nloss_balancing: uncertainty"
    criterion = losskit.build(text=text)
    with torch.no_grad():
        criterion.balancing.log_variances.copy_(torch.tensor([0.7, -0.4]))
    x, y = torch.randn(6), torch.randn(6)
    criterion({"a": x}, {"a": y}).total.backward()
    expected = criterion.balancing.log_variances.grad.clone()
    criterion.zero_grad()
    batches = [{"a": y[:2]}, {"a": y[2:]}]
    counts = losskit.distributed.counts(criterion, batches, divided_by=divided_by)
    for rows in (slice(0, 2), slice(2, 6)):
        (criterion({"a": x[rows]}, {"a": y[rows]}, counts).total / divided_by).backward()
    torch.testing.assert_close(criterion.balancing.log_variances.grad, expected)


def test_a_rank_without_batches_runs_one_of_no_rows():
    criterion = losskit.build(text="output_features: [{name: a, type: number}]\nloss_balancing: uncertainty")
    counts = losskit.distributed.counts(criterion, [])
    assert criterion({"a": torch.zeros(0)}, {"a": torch.zeros(0)}, counts).total == 0


def test_a_sum_that_the_whole_batch_lacks_is_not_regularised():
    loss = "[{type: mse, reduction: sum}]"
    text = f"output_features: [{{name: a, type: number}}, {{name: b, type: number, loss: {loss}}}]"
    criterion = losskit.build(text=f"{text}\nloss_balancing: uncertainty")
    targets = {"a": torch.ones(3)}
    counts = losskit.distributed.counts(criterion, [targets])
    criterion({"a": torch.zeros(3)}, targets, counts).total.backward()
    assert criterion.balancing.log_variances.grad[1] == 0


# What is forgotten


def test_a_schedule_that_never_moves_is_told_once():
    criterion, (predictions, targets) = scheduled(), batch()
    for _ in range(199):
        criterion(predictions, targets)
    with pytest.warns(UserWarning, match=r"has a schedule, but in 200 calls criterion.step\(\) has not been called"):
        criterion(predictions, targets)
    moved = scheduled()
    moved.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(201):
            criterion(predictions, targets)
            moved(predictions, targets)


@pytest.mark.parametrize("is_optimized", [True, False])
def test_parameters_that_no_optimizer_has_are_told(is_optimized):
    text = "output_features: [{name: a, type: number, loss: [mse, mae]}]\nloss_balancing: uncertainty"
    criterion = losskit.build(text=text)
    x = torch.randn(4, requires_grad=True)
    optimizer = torch.optim.SGD([x, *(criterion.parameters() if is_optimized else ())], 0.1)

    def train():
        for _ in range(30):
            criterion({"a": x}, {"a": torch.zeros(4)}).total.backward()
            optimizer.step()
            criterion.step()

    if is_optimized:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train()
    else:
        with pytest.warns(UserWarning, match="balancing.log_variances of the criterion has a gradient but does not"):
            train()


def test_what_is_shared_must_be_something_that_is_trained():
    criterion = losskit.build(text="output_features: [{name: a, type: number}]\nloss_balancing: gradnorm")
    layer = torch.nn.Linear(2, 2)
    for shared in (layer, layer.weight, layer.parameters(), [layer.bias]):
        criterion.share(shared)
        assert all(isinstance(x, torch.Tensor) for x in criterion.shared)
    assert len(criterion.shared) == 1
    with pytest.raises(ValueError, match="no parameters"):
        criterion.share([])
    with pytest.raises(ValueError, match="no parameter that is trained"):
        criterion.share(torch.zeros(2))
    with pytest.raises(TypeError, match="got a tuple among them"):
        criterion.share(layer.named_parameters())


def test_a_copy_of_a_model_shares_its_own_parameters():
    model = torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 2)})
    model["criterion"] = losskit.build(text="output_features: [{name: a, type: number}]\nloss_balancing: gradnorm")
    model["criterion"].share(model["encoder"])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(x is y for x, y in zip(other["criterion"].shared, other["encoder"].parameters()))


# Where the criterion runs


def test_learned_weights_stay_exact_enough_to_learn():
    text = "output_features: [{name: a, type: number, loss: [mse, mae]}]\nloss_balancing: uncertainty"
    criterion = losskit.build(text=text).to(torch.bfloat16)
    assert criterion.balancing.log_variances.dtype == torch.float32
    assert criterion.to(torch.float64).balancing.log_variances.dtype == torch.float64


def test_an_absent_task_may_be_elsewhere():
    text = "output_features: [{name: a, type: number}, {name: b, type: number}]\nloss_balancing: uncertainty"
    criterion = losskit.build(text=text).to("meta")
    x = torch.zeros(3, device="meta")
    assert criterion({"a": x}, {"a": x}).total.device.type == "meta"


def test_a_criterion_is_described_after_evaluation_without_autograd():
    criterion, (_, targets) = scheduled(), batch()
    with torch.inference_mode():
        criterion({"a": torch.randn(5), "b": torch.randn(5)}, targets)
    assert "%" in table_of(criterion)
    torch.func.vmap(lambda x: criterion({"a": x, "b": x}, targets).total)(torch.randn(2, 5))
    assert "%" in table_of(criterion)


@pytest.mark.parametrize("strategy", ["none", "famo", "dwa", "uncertainty", "log_transform", "pareto_mtl"])
def test_gradients_may_be_taken_by_transforms(strategy):
    text = f"output_features: [{{name: a, type: number, loss: [mse, mae]}}]\nloss_balancing: {strategy}"
    criterion, y = losskit.build(text=text), torch.randn(4)
    x = torch.randn(4)
    gradient = torch.func.grad(lambda x: criterion({"a": x}, {"a": y}).total)(x)
    expected = torch.autograd.grad(criterion({"a": x.requires_grad_()}, {"a": y}).total, x)[0]
    torch.testing.assert_close(gradient, expected)


def test_a_step_may_come_before_the_backward_pass():
    criterion, (predictions, targets) = scheduled(), batch()
    criterion.step()
    criterion.step()
    total = criterion(predictions, targets).total
    criterion.step()
    total.backward()
    torch.testing.assert_close(predictions["a"].grad, 0.25 * 2 * (predictions["a"] - targets["a"]).detach() / 5)


def test_describing_leaves_the_modes_of_modules_alone():
    criterion, (predictions, targets) = scheduled(), batch()
    criterion.losses[1].eval()
    criterion(predictions, targets)
    table_of(criterion)
    assert [loss.training for loss in criterion.losses] == [True, False, True]


def test_debug_ends_with_its_block():
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    with losskit.debug():
        value = losskit.create_loss("mse")(x, torch.ones(2)) * torch.inf
    value.backward()


@pytest.mark.usefixtures("losses")
def test_losses_of_others_are_looked_at_too_in_debug():
    losskit.register_loss("plain_error", ["number"])(lambda predictions, targets: (predictions - targets).abs().mean())
    losskit.register_loss("wild_error", ["number"])(lambda predictions, targets: (predictions - targets).sum() / 0)
    criterion = losskit.build(text="output_features: [{name: a, type: number, loss: plain_error}]")
    with (
        losskit.debug(),
        pytest.raises(ValueError, match=r"a/plain_error: logits hold .* not finite: nan at index \(1,\)"),
    ):
        criterion({"a": torch.tensor([0.0, torch.nan])}, {"a": torch.zeros(2)})
    criterion = losskit.build(text="output_features: [{name: a, type: number, loss: wild_error}]")
    with losskit.debug(), pytest.raises(ValueError, match="a/wild_error: the loss is inf, for inputs of which none"):
        criterion({"a": torch.ones(2)}, {"a": torch.zeros(2)})


def test_a_gradient_that_comes_infinite_is_not_the_losss_fault():
    criterion = losskit.build(text="output_features: [{name: a, type: number, loss: mse}]")
    x = torch.ones(2, requires_grad=True)
    with losskit.debug():
        total = criterion({"a": x}, {"a": torch.zeros(2)}).total * torch.inf
        with pytest.raises(
            ValueError, match="the gradient that reaches the loss is not finite; look at what comes after"
        ):
            total.backward()


def test_debug_names_the_label_before_it_is_shifted():
    criterion = losskit.build(text="output_features: [{name: x, type: text, loss: next_token_softmax_cross_entropy}]")
    ids = torch.zeros(2, 4, dtype=torch.long)
    ids[1, 3] = 8
    with losskit.debug(), pytest.raises(ValueError, match=r"the class id 8 at index \(1, 3\)"):
        criterion({"x": torch.randn(2, 4, 5)}, {"x": ids})
