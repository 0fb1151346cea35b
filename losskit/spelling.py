"""Which right word a misspelt one may stand for."""

from __future__ import annotations

import functools
from collections.abc import Iterable

# A longer word is not compared as a whole.
_MAX_LENGTH = 100


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Up to 5 of `names` that are spelt like `word`, the nearest first."""
    if len(word) < 3 and cutoff < 0.7:
        return []  # two letters are like too many words
    names = list(names)
    if not may_be_near(word, names, cutoff):
        return []
    import difflib  # Here, because it costs 6 ms and only a mistake needs it.

    by_key = {name.lower(): name for name in names}
    return [by_key[key] for key in difflib.get_close_matches(_plain(word), by_key, n=5, cutoff=cutoff)]


def may_be_near(word: str, names: Iterable[str], cutoff: float) -> bool:
    """Whether `nearest` could find something: whether enough letters are the same, in any order."""
    word = _plain(word)
    # A little less, for difflib rounds otherwise.
    cutoff -= 1e-9
    return any(_letters_in_common(word, name.lower()) * 2 >= cutoff * (len(word) + len(name)) for name in names)


def meant(word: str, names: Iterable[str]) -> str | None:
    """The one name that differs from `word` by a slip: a letter too many, missing, wrong, or two in the wrong order.

    Two slips are one too many for a short word. None where no name, or more than one, is so near.
    """
    word = _plain(word)
    allowed = 1 if len(word) < 8 else 2
    slips = {name: _slips(word, name.lower()) for name in names if abs(len(name) - len(word)) <= allowed}
    if len(word) < 3 or not slips:
        return None
    near = [name for name, count in slips.items() if count <= allowed]
    return near[0] if len(near) == 1 else None


def _plain(word: str) -> str:
    return word[:_MAX_LENGTH].lower().replace("-", "_").replace(" ", "_")


@functools.lru_cache(maxsize=4096)
def _letters_in_common(a: str, b: str) -> int:
    return sum(min(a.count(letter), b.count(letter)) for letter in set(a))


def _slips(a: str, b: str) -> int:
    """The distance of Damerau and Levenshtein, with each letter moved at most once."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        before, above, row = row, before, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]
