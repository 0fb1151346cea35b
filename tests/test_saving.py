"""A criterion survives all that frameworks do to modules: copies, pickles, checkpoints, and going on in the middle."""

import copy
import io
import pickle

import pytest
import torch

import losskit

CONFIGS = {
    "without state": """
output_features:
  - {name: price, type: number, loss: [huber, {type: mae, weight: 0.5}], missing: mask}
  - {name: kind, type: category, loss: {type: cross_entropy, class_weights: [1, 2, 3]}}
""",
    "parameters": """
output_features:
  - {name: price, type: number, loss: huber}
  - {name: kind, type: category, loss: {type: linear_cross_entropy, in_features: 4, num_classes: 3}}
""",
    "a schedule": """
output_features:
  - {name: price, type: number, loss: {type: huber, weight: {schedule: cosine, from: 0.0, to: 1.0, steps: 6}}}
  - {name: kind, type: category, loss: cross_entropy}
""",
    "learned weights": """
loss_balancing: uncertainty
output_features:
  - {name: price, type: number, loss: huber}
  - {name: kind, type: category, loss: cross_entropy}
""",
    "weights by past losses": """
loss_balancing: dwa
output_features:
  - {name: price, type: number, loss: huber}
  - {name: kind, type: category, loss: cross_entropy}
""",
}


def batches():
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        predictions = {
            "price": torch.randn(5, generator=generator),
            "kind": {
                "logits": torch.randn(5, 3, generator=generator),
                "hidden": torch.randn(5, 4, generator=generator),
            },
        }
        targets = {"price": torch.randn(5, generator=generator), "kind": torch.randint(3, (5,), generator=generator)}
        yield predictions, targets


def trained(criterion, optimizer, steps):
    """The totals of some steps, in which the criterion learns what it can."""
    totals = []
    for predictions, targets in list(batches())[steps]:
        total = criterion(predictions, targets).total
        totals.append(total.item())
        if optimizer is not None:
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        criterion.step()
    return totals


def built(config):
    torch.manual_seed(0)
    criterion = losskit.build(text=CONFIGS[config])
    parameters = list(criterion.parameters())
    return criterion, torch.optim.SGD(parameters, lr=0.1, momentum=0.9) if parameters else None


def saved_whole(criterion):
    file = io.BytesIO()
    torch.save(criterion, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(criterion):
    return pickle.loads(pickle.dumps(criterion))


@pytest.mark.parametrize("again", [copy.deepcopy, pickled, saved_whole])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_twin_in_the_middle_of_training_gives_the_same(config, again):
    criterion, optimizer = built(config)
    trained(criterion, optimizer, slice(3))
    twin = again(criterion)
    assert repr(twin) == repr(criterion)
    assert twin.weights == criterion.weights
    for predictions, targets in batches():
        counts = losskit.distributed.counts(criterion, [targets, targets])
        for normalizers in (None, counts):
            expected = criterion.eval()(predictions, targets, normalizers)
            found = twin.eval()(predictions, targets, normalizers)
            assert found.total == expected.total
            assert found.parts == expected.parts


@pytest.mark.parametrize("config", CONFIGS)
def test_a_resumed_training_goes_on_as_if_nothing_had_happened(config):
    criterion, optimizer = built(config)
    whole = trained(criterion, optimizer, slice(6))

    criterion, optimizer = built(config)
    first = trained(criterion, optimizer, slice(3))
    file = io.BytesIO()
    torch.save([criterion.state_dict(), optimizer and optimizer.state_dict()], file)
    file.seek(0)

    torch.manual_seed(1)  # parameters that start elsewhere come from the checkpoint
    criterion = losskit.build(text=CONFIGS[config])
    states = torch.load(file, weights_only=True)  # so there is nothing but tensors in it
    criterion.load_state_dict(states[0])
    if optimizer is not None:
        optimizer = torch.optim.SGD(criterion.parameters(), lr=0.1, momentum=0.9)
        optimizer.load_state_dict(states[1])
    assert first + trained(criterion, optimizer, slice(3, 6)) == whole


def test_a_criterion_without_state_adds_nothing_to_a_checkpoint():
    criterion, _ = built("without state")
    assert criterion.state_dict() == {}
