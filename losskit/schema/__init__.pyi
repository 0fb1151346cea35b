# Written by scripts/generate.py; change the losses, then run `make generate`.
from losskit.schema import fields as fields
from losskit.schema.base import BaseLossConfig as BaseLossConfig
from losskit.schema.base import FeatureConfig as FeatureConfig
from losskit.schema.base import FeatureContext as FeatureContext
from losskit.schema.base import LossesConfig as LossesConfig
from losskit.schema.base import Problem as Problem
from losskit.schema.base import dataclass as dataclass
from losskit.schema.binary import BinaryWeightedCrossEntropyLossConfig as BinaryWeightedCrossEntropyLossConfig
from losskit.schema.classification import SoftmaxCrossEntropyLossConfig as SoftmaxCrossEntropyLossConfig
from losskit.schema.embedding import TripletMarginLossConfig as TripletMarginLossConfig
from losskit.schema.focal import FocalLossConfig as FocalLossConfig
from losskit.schema.multilabel import SigmoidCrossEntropyLossConfig as SigmoidCrossEntropyLossConfig
from losskit.schema.regression import HuberLossConfig as HuberLossConfig
from losskit.schema.regression import MeanAbsoluteErrorLossConfig as MeanAbsoluteErrorLossConfig
from losskit.schema.regression import MeanSquaredErrorLossConfig as MeanSquaredErrorLossConfig
from losskit.schema.segmentation import DiceLossConfig as DiceLossConfig
from losskit.schema.tempered import TemperedSoftmaxCrossEntropyLossConfig as TemperedSoftmaxCrossEntropyLossConfig
