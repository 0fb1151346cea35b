"""Configs that were right once, changed at random: what users mistype, and what somebody writes to break a reader."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import yaml

from losskit.config import read
from losskit.constants import FEATURE_TYPES
from losskit.registry import registry

ROOT = Path(__file__).parent.parent

# Values of every type, and those at the ends of their ranges.
VALUES = [
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 1.0, 2.0, 1e-300, 1e300, -1e300, 2**31, 2**53 + 1, 10**30,
    10**400,
    float("inf"), float("nan"), "", " ", "x", "mean", "none", "1", "1e-3", "yes", "0.5", "huber", "focal",
    "a" * 300,
    "é\u0301", "😀", "\x00\x1b[31m", "\u202e", "a\nb", "# x", "losskit: ignore", [], [0], [0, 0, 0], [1, 2, 3],
    [1, 2], [0.5, None],
    [[1.0]], [[]], ["a"], ["a", "a"], {}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {"": 0}, {"type": "huber"},
    {"type": None},
    [{"type": "dice"}, "mse"], {"type": "multi", "params": ["huber"]},
    {"type": "huber", "params": {"delta": 2}},
    {"schedule": "linear", "steps": 10}, {"schedule": "step", "stpes": 1, "from": 0.5}, "mask",
]  # fmt: skip
# What YAML can do to a value or between two.
CONSTRUCTS = [
    "&a ", "*a", "&a &b ", "<<: *a", "<<: [*a, *a]", "<<: 1", "? ", ": ", ":", "- ", "-", "!!str ",
    "!!int ''", "!foo ", "!!python/name:os.system ",
    "%YAML 1.1\n---\n", "---\n", "...\n", "\t", "\r", "\r\n", "\x85", "\u2028", "\ufeff", "\x00", "\ud800",
    "|\n  x\n", ">-\n  x\n", "{", "}", "[", "]",
    ",", "'", '"', "\\", "#", " # a comment", "# losskit: ignore", " # losskit: ignore[LK201]", "~", "null",
    "1e3", "1e-3", "010", "0x1F", "1_000", "1:30", ".inf", ".nan",
    "9" * 500, "yes", "2024-01-01", "!", "@", "`", "%", "&", "*", "\n", "\n\n", "  ", "\n  ", "{a, b: 1}",
    "{? a}", "=", "<<", "é", "😀", "\u200b", "params: ", "params: {", "type: ",
]  # fmt: skip
WORD = re.compile(r"[A-Za-z_]{3,}")
TOKEN = re.compile(r"\s+|[\w.+-]+|.", re.DOTALL)


def corpus() -> list[str]:
    """Right configs (and some that are wrong in one place): of tests, examples and documentation, and of each loss."""
    files = [*(ROOT / "tests/configs").glob("*/*"), *(ROOT / "examples").glob("*.yaml")]
    texts = [path.read_text("utf-8") for path in sorted(files)]
    for page in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]):
        texts += re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    for entry in registry.entries():
        settings = dict(entry.config.load().example_settings)
        for name, schema in entry.schema["properties"].items():
            if name not in ("type", "name", "inputs"):
                settings.setdefault(name, next(iter(schema.get("examples", ())), schema.get("default")))
        loss = {"type": entry.name, **settings}
        feature = {"name": "a", "type": entry.feature_types[0], "num_classes": 3, "loss": loss}
        texts.append(yaml.safe_dump({"output_features": [feature]}, sort_keys=False))
        texts.append(f"output_features:\n- {{name: a, type: {entry.feature_types[-1]}, loss: {json.dumps(loss)}}}\n")
        texts.append(f"losses:\n- type: {entry.name}  # of {entry.name}\n  params: {json.dumps(settings)}\n")
    return texts


def mutated(random, texts):
    """One of `texts` after some changes."""
    text = random.choice(texts)
    for _ in range(random.choice((1, 1, 1, 1, 2, 2, 3, 5))):
        text = random.choice(CHANGES)(random, text, texts)
    return text[:100_000]


def _flip(random, text, _):
    if not text:
        return text
    place = random.randrange(len(text))
    return text[:place] + chr(ord(text[place]) ^ (1 << random.randrange(7))) + text[place + 1 :]


def _insert(random, text, _):
    place = random.randint(0, len(text))
    return text[:place] + random.choice(CONSTRUCTS) + text[place:]


def _insert_at_token(random, text, _):
    tokens = TOKEN.findall(text)
    tokens.insert(random.randint(0, len(tokens)), random.choice(CONSTRUCTS))
    return "".join(tokens)


def _swap_tokens(random, text, _):
    tokens = TOKEN.findall(text)
    if tokens:
        a, b = random.randrange(len(tokens)), random.randrange(len(tokens))
        tokens[a], tokens[b] = tokens[b], tokens[a]
    return "".join(tokens)


def _delete_token(random, text, _):
    tokens = TOKEN.findall(text)
    if tokens:
        del tokens[random.randrange(len(tokens))]
    return "".join(tokens)


def _replace_token(random, text, _):
    tokens = TOKEN.findall(text)
    if tokens:
        tokens[random.randrange(len(tokens))] = random.choice([random.choice(CONSTRUCTS), _flow(random.choice(VALUES))])
    return "".join(tokens)


def _lines(random, text, texts):
    lines = text.splitlines(keepends=True) or [""]
    here, there = random.randrange(len(lines)), random.randrange(len(lines))
    what = random.randrange(5)
    if what == 0:
        del lines[here]
    elif what == 1:
        lines.insert(there, lines[here])
    elif what == 2:
        lines[here], lines[there] = lines[there], lines[here]
    elif what == 3:
        lines[here] = " " * random.randint(1, 4) + lines[here]
    else:
        others = random.choice(texts).splitlines(keepends=True)
        lines.insert(here, random.choice(others) if others else "")
    return "".join(lines)


def _span(random, text, _):
    a, b = sorted(random.randint(0, len(text)) for _ in range(2))
    b = min(b, a + 200)
    return text[:a] + (text[a:b] * 2 if random.random() < 0.5 else "") + text[b:]


def _misspell(random, text, _):
    words = list(WORD.finditer(text))
    if not words:
        return text
    start, end = random.choice(words).span()
    word = list(text[start:end])
    place = random.randrange(len(word))
    what = random.randrange(4)
    if what == 0:
        del word[place]
    elif what == 1:
        word.insert(place, random.choice("aeiost_-"))
    elif what == 2:
        word[place - 1], word[place] = word[place], word[place - 1]
    else:
        word[place] = word[place].upper()
    return text[:start] + "".join(word) + text[end:]


def _value(random, text, _):
    """Another value at any place of the config, and another way to write it all."""
    data = read(text).data
    places = list(_places(data))
    if not places:
        return text
    container, key = random.choice(places)
    options = [
        "x",
        random.choice(registry.names()),
        random.choice(FEATURE_TYPES),
        random.choice(VALUES),
        random.choice(VALUES),
    ]
    container[key] = random.choice(options)
    return _written(random, data)


def _key(random, text, _):
    data = read(text).data
    places = [(container, key) for container, key in _places(data) if isinstance(container, dict)]
    if not places:
        return text
    container, key = random.choice(places)
    properties = random.choice(registry.entries()).schema["properties"]
    new = random.choice(
        [*properties, "params", "type", "name", "loss", "losses", "classes", "num_classes", "x", key + "s"]
    )
    value = container.pop(key) if random.random() < 0.5 else container[key]
    container[new] = value
    return _written(random, data)


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def _written(random, data):
    if random.random() < 0.3:
        return _flow(data)
    try:
        return yaml.safe_dump(
            data, sort_keys=False, allow_unicode=True, default_flow_style=random.choice((None, False))
        )
    except (ValueError, yaml.YAMLError):  # an integer that is too long to print
        return _flow(data)


def _flow(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float) and math.isnan(value):
        return ".nan"
    if value in (float("inf"), float("-inf")):
        return ".inf"
    return json.dumps(value)


CHANGES = [
    _flip, _insert, _insert_at_token, _insert_at_token, _swap_tokens, _delete_token, _replace_token, _lines,
    _lines, _span,
    _misspell, _misspell, _misspell, _value, _value, _value, _key,
]  # fmt: skip
