"""Random configs of which about half are right, and the others wrong by a little."""

import functools

from hypothesis import strategies as st

from losskit.constants import DEFAULT_LOSSES, FEATURE_TYPES
from losskit.registry import registry
from losskit.schema.quick import compiled
from losskit.strategies import strategies

NUMBERS = [0, 1, 2, 3, -1, 0.5, 1.0, 2.0, -0.5, 1e-3, 2**31, 10**15, 1e300, -100]
SCALARS = [*NUMBERS, True, False, None, "", "1", "x", "cat", "mean", "none"]
LISTS = [[], [1], [1, 2.0], [0.5, 1, 2], [2, 1], [1, -1], [1, "x"], [True], [None], [[1, 0], [0, 1]], [[1], []], ["x"]]
MAPPINGS = [{}, {"cat": 1, "dog": 2.0}, {"cat": -1}, {"cat": "x"}, {"cat": True}, {"": 1}, {"logits": "a.b"}]
SCHEDULES = [
    {"schedule": "linear", "steps": 10},
    {"schedule": "cyclical", "steps": 3.0, "ratio": 0.5, "from": 0.5, "to": 2, "warmup": 1},
    {"schedule": "cosine", "steps": 3, "to": 0},
    {"schedule": "linear", "steps": 3, "ratio": 0.5},
    {"schedule": "linear"},
    {"schedule": "linear", "stpes": 3},
    {"schedule": "linaer", "steps": 3},
    {"steps": 0},
]
VALUES = [*SCALARS, *LISTS, *MAPPINGS, *SCHEDULES]


def one_in(chances):
    """Whether to do what should be rare."""
    return st.integers(1, chances).map(lambda number: number == chances)


@functools.cache
def entry(name):
    return registry.find(name)


@functools.cache
def fitting(name, setting):
    """Values that the schema of a setting allows."""
    schema = entry(name).schema["properties"][setting]
    roles = [{role: text} for role in schema.get("properties", ()) for text in ("x", "x.y")]
    return list(filter(compiled(schema), [schema["default"], *schema.get("examples", ()), *VALUES, *roles]))


@functools.cache
def names(feature_type):
    """The names of the losses for a feature type, with their aliases; of all losses where there is no such type."""
    entries = [e for e in registry.entries() if feature_type not in FEATURE_TYPES or feature_type in e.feature_types]
    return [name for e in entries for name in e.names]


@st.composite
def settings(draw, name):
    """Some settings of a loss."""
    known = [key for key in entry(name).schema["properties"] if key != "type"]
    chosen = draw(st.lists(st.sampled_from(known), max_size=3, unique=True))
    values = {key: draw(st.sampled_from(VALUES if draw(one_in(8)) else fitting(name, key))) for key in chosen}
    if draw(one_in(12)):
        values[draw(st.sampled_from(["detla", "wieght", "", "delta", "margin", "nobody"]))] = draw(
            st.sampled_from(VALUES)
        )
    if draw(one_in(12)):
        values["inputs"] = draw(st.sampled_from([{"nobody": "x"}, {"logits": ""}, {"targets": 1}, {"targets": "x"}]))
    return values


@st.composite
def mappings(draw, feature_type):
    """A loss with settings, beside its type or under `params`; perhaps without its type."""
    default = DEFAULT_LOSSES.get(feature_type)
    is_default = default is not None and draw(one_in(4))
    name = default if is_default else draw(st.sampled_from(names(feature_type)))
    values = draw(settings(name))
    loss = {"type": name, **values}
    if draw(one_in(4)):
        reserved = () if draw(one_in(8)) else ("type", "weight", "name", "inputs")
        params = {key: loss.pop(key) for key in list(loss) if key not in reserved and draw(st.booleans())}
        if params and draw(one_in(6)):
            loss.update(dict([draw(st.sampled_from(sorted(params.items())))]))
        loss["params"] = draw(st.sampled_from([None, 1, [], {}])) if draw(one_in(8)) else params
    if is_default or draw(one_in(12)):
        kind = loss.pop("type", None)
        if draw(one_in(6)):
            loss[draw(st.sampled_from(["tpye", "Type", "type"]))] = draw(st.sampled_from([kind, None, 1, {}, []]))
    elif draw(one_in(12)):
        loss["type"] = draw(st.sampled_from(["huber", "dice", "hubr", "multi", "", 1, None, ["huber"]]))
    return loss


@st.composite
def losses(draw, feature_type, depth=2):
    """What may stand where a loss is expected."""
    kind = draw(st.integers(0, 9))
    if kind < 3:
        return draw(st.sampled_from(names(feature_type)))
    if kind < 8 or not depth:
        return draw(mappings(feature_type))
    if kind == 8:
        inner = st.lists(losses(feature_type, depth - 1), max_size=2)
        loss = {"type": "multi", "params": draw(inner)}
        if draw(one_in(4)):
            loss.update(draw(st.sampled_from([{"weight": 1}, {"params": {}}, {"params": "huber"}, {"type": "multy"}])))
        return loss
    return draw(st.sampled_from(["hubr", "huber", "dice", "multi", 1, None, True, [], {}, ["huber"]]))


@st.composite
def features(draw, index):
    """A feature, with keys of others."""
    feature_type = draw(st.sampled_from([*FEATURE_TYPES, "numbr"]))
    feature = {"name": f"f{index}", "type": feature_type}
    one = losses(feature_type)
    if draw(st.integers(0, 4)):
        feature["loss"] = draw(one | st.lists(one, min_size=1, max_size=2))
    if draw(one_in(6)):
        feature["num_classes"] = draw(st.sampled_from([1, 2, 3.0, 0, 2.5, True, None, "3", 2**40]))
    if draw(one_in(6)):
        feature["classes"] = draw(st.sampled_from([["cat", "dog"], ["größe 😀"], [""], [], ["cat", 1], "cat", None]))
    if draw(one_in(6)):
        feature["missing"] = draw(st.sampled_from(["mask", "mask", "maks", True, None, []]))
    if draw(one_in(6)):
        feature[draw(st.sampled_from(["decoder", "los", "top_k", "$schema"]))] = draw(st.sampled_from(VALUES))
    if draw(one_in(12)):
        feature[draw(st.sampled_from(["name", "type", "loss"]))] = draw(st.sampled_from(VALUES))
    if draw(one_in(20)):
        del feature[draw(st.sampled_from(sorted(feature)))]
    return feature


@st.composite
def balancings(draw):
    """How the losses are balanced."""
    name = draw(st.sampled_from(strategies.names()))
    kind = draw(st.integers(0, 9))
    if kind < 3:
        return name
    if kind == 3:
        return draw(st.sampled_from(["fam", "huber", "", 1, None, True, [], {}, ["famo"], {"famo": None}]))
    properties = strategies.get(name).schema["properties"]
    known = [key for key in properties if key != "type"]
    chosen = draw(st.lists(st.sampled_from(known), max_size=2, unique=True)) if known else []
    values = {}
    for key in chosen:
        allowed = [v for v in [properties[key]["default"], *VALUES] if compiled(properties[key])(v)]
        values[key] = draw(st.sampled_from(VALUES if draw(one_in(4)) else allowed))
    if draw(one_in(8)):
        values[draw(st.sampled_from(["alpha", "gamm", "params", "weight"]))] = draw(st.sampled_from(VALUES))
    if not draw(one_in(10)):
        values["type"] = draw(st.sampled_from(["famos", 1, None])) if draw(one_in(10)) else name
    return values


@st.composite
def documents(draw):
    """A whole config."""
    config = {}
    if draw(st.integers(0, 3)):
        many = draw(st.integers(1, 2))
        config["output_features"] = [draw(features(index)) for index in range(many)]
    elif draw(st.integers(0, 7)):
        config["losses"] = draw(st.lists(losses(None), min_size=1, max_size=2))
    if draw(one_in(3)):
        config["loss_balancing"] = draw(balancings())
    if draw(one_in(6)):
        config[draw(st.sampled_from(["model_type", "$schema", "input_features", "output_feature"]))] = "x"
    if draw(one_in(12)):
        config[draw(st.sampled_from(["losses", "output_features"]))] = draw(
            st.sampled_from([[], {}, None, "huber", ["huber"], [None]])
        )
    return config
