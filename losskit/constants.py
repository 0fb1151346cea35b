"""Feature types, the keys of prediction dictionaries, and the default loss of each feature type."""

ANOMALY = "anomaly"
AUDIO = "audio"
BINARY = "binary"
CATEGORY = "category"
CATEGORY_DISTRIBUTION = "category_distribution"
IMAGE = "image"
NUMBER = "number"
SEQUENCE = "sequence"
SET = "set"
TEXT = "text"
TIMESERIES = "timeseries"
VECTOR = "vector"

FEATURE_TYPES = (
    ANOMALY,
    AUDIO,
    BINARY,
    CATEGORY,
    CATEGORY_DISTRIBUTION,
    IMAGE,
    NUMBER,
    SEQUENCE,
    SET,
    TEXT,
    TIMESERIES,
    VECTOR,
)

ANOMALY_SCORE = "anomaly_score"
ATTENTIONS = "attentions"
LOG_PROBABILITIES = "log_probabilities"
LOGITS = "logits"
PREDICTIONS = "predictions"
PROBABILITIES = "probabilities"
TARGETS = "targets"
VARIANCE = "variance"
# The key of a loss that takes everything there is for its feature, as a mapping.
EVERYTHING = "*"

# What MMF's models and data sets call what a loss takes, where the losses are a list without a feature.
MMF_KEYS = {
    LOGITS: ("scores", "fused_embedding"),
    LOG_PROBABILITIES: ("scores",),
    PROBABILITIES: ("scores",),
    "embedding_1": ("scores",),
    "embedding_2": (TARGETS,),
    "lengths": ("caption_len",),
    "mask": ("train_loss_mask",),
}

# A loss of this type is a list of losses that stands in its `params`, as in MMF.
MULTI = "multi"

# Where a config holds its losses, and what it says of a feature.
FEATURES_KEY = "output_features"
LOSSES_KEY = "losses"
# Beside either of them, how the losses are balanced.
BALANCING_KEY = "loss_balancing"
FEATURE_KEYS = ("name", "type", "loss", "num_classes", "classes", "missing")
# What `missing` of a feature may be: targets that are NaN are masked.
MISSING = ("mask",)
# Ludwig's, which are spelt like ours.
FOREIGN_KEYS = ("input_features",)

# What a config may say about a loss that is no argument of the loss.
RESERVED = ("type", "weight", "name", "inputs")

# Of a weight that changes: how it is written, and what holds where the config does not say it.
SCHEDULE_EXAMPLE = "{schedule: linear, steps: 10000}"
SCHEDULE_DEFAULTS = {"from": 0.0, "to": 1.0, "warmup": 0, "ratio": 0.5}

# Ludwig's defaults, as far as the losses are there; a type that is missing here needs a loss of its own in the config.
DEFAULT_LOSSES = {
    ANOMALY: "deep_svdd",
    BINARY: "binary_weighted_cross_entropy",
    CATEGORY: "softmax_cross_entropy",
    CATEGORY_DISTRIBUTION: "softmax_cross_entropy",
    IMAGE: "softmax_cross_entropy",
    NUMBER: "mean_squared_error",
    SEQUENCE: "sequence_softmax_cross_entropy",
    SET: "sigmoid_cross_entropy",
    TEXT: "sequence_softmax_cross_entropy",
    TIMESERIES: "huber",
    VECTOR: "mean_squared_error",
}
