"""Whoever comes from torch.nn, Ludwig or MMF finds every loss that they had, and the tables say how to write it."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import losskit
from losskit.registry import registry

DOCS = Path(__file__).parent.parent / "docs"
TORCH = " ".join([*torch.nn.modules.loss.__all__, "AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"])
LUDWIG = """
    mean_squared_error mean_absolute_error mean_absolute_percentage_error root_mean_squared_error
    root_mean_squared_percentage_error huber binary_weighted_cross_entropy softmax_cross_entropy
    sequence_softmax_cross_entropy next_token_softmax_cross_entropy sigmoid_cross_entropy corn entropic_open_set
    objectosphere focal dice lovasz_softmax nt_xent poly sparsemax entmax15 deep_svdd deep_sad drocc
"""
MMF = """
    logit_bce triple_logit_bce bce caption_cross_entropy nll_loss attention_supervision weighted_softmax softmax_kldiv
    wrong bce_kl_combined bce_kl m4c_decoding_bce_with_mask cross_entropy soft_label_cross_entropy
    label_smoothing_cross_entropy in_batch_hinge contrastive_loss mse cos_emb_loss multi ms_loss refiner_ms
    refiner_contrastive_loss
"""
REGRESSION = "mean_squared_error mean_absolute_error mean_absolute_percentage_error huber"
LUDWIG_TYPES = {
    "number": f"{REGRESSION} root_mean_squared_error root_mean_squared_percentage_error",
    "timeseries": REGRESSION,
    "vector": f"{REGRESSION} softmax_cross_entropy nt_xent",
    "binary": "binary_weighted_cross_entropy entropic_open_set objectosphere focal",
    "category": "softmax_cross_entropy corn entropic_open_set objectosphere focal poly sparsemax entmax15",
    "image": "softmax_cross_entropy focal dice lovasz_softmax",
    "sequence": "sequence_softmax_cross_entropy next_token_softmax_cross_entropy sparsemax entmax15",
    "text": "sequence_softmax_cross_entropy next_token_softmax_cross_entropy sparsemax entmax15",
    "set": "sigmoid_cross_entropy",
    "anomaly": "deep_svdd deep_sad drocc",
}


def table(page):
    """What stands in the first two columns of the page's table of losses."""
    text = (DOCS / f"coming-from-{page}.md").read_text("utf-8").partition("## Loss balancing")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", text, re.MULTILINE))


@pytest.mark.parametrize(("page", "names"), [("torch", TORCH), ("ludwig", LUDWIG), ("mmf", MMF)])
def test_table_has_every_loss_and_each_entry_builds(page, names):
    rows = table(page)
    assert set(rows) == set(names.split())
    for theirs, ours in rows.items():
        losses = yaml.safe_load(ours)
        assert losskit.validate({"losses": [losses]}) == [], theirs
        assert len(losskit.build({"losses": [losses]}).losses) >= 1


def test_losses_of_ludwig_fit_the_features_that_they_fit_there():
    assert set(" ".join(LUDWIG_TYPES.values()).split()) == set(LUDWIG.split())
    for feature_type, names in LUDWIG_TYPES.items():
        missing = set(names.split()) - set(registry.names(feature_type))
        assert not missing, feature_type


def test_names_of_torch_classes_lead_to_ours():
    for theirs, ours in table("torch").items():
        name = yaml.safe_load(ours) if ours.startswith("{") else ours
        name = name["type"] if isinstance(name, dict) else name
        found = registry.suggest(theirs)
        assert registry.get(found[0]).name == registry.get(name).name, theirs
