"""The option `--feature`, which several commands have."""

from __future__ import annotations

import argparse

from losskit.constants import FEATURE_TYPES
from losskit.spelling import nearest


def add_feature_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the option; `what` says what the feature type is for."""
    parser.add_argument(
        "--feature",
        type=_feature_type,
        choices=FEATURE_TYPES,
        metavar="TYPE",
        help=f"{what}: {', '.join(FEATURE_TYPES)}",
    )


def _feature_type(text: str) -> str:
    if text in FEATURE_TYPES:
        return text
    near = nearest(text, FEATURE_TYPES)
    suggestion = f", did you mean {near[0]}?" if near else f"; there are {', '.join(FEATURE_TYPES)}"
    raise argparse.ArgumentTypeError(f"no feature type {text!r}{suggestion}")
