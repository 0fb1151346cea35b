"""Which right word a misspelt one may stand for."""

from __future__ import annotations

import functools
from collections.abc import Collection, Container, Iterable

from losskit.constants import FOREIGN_KEYS

# What other systems call our keys.
OTHER_NAMES = {
    **dict.fromkeys(("criterion", "loss_fn", "loss_function", "objective"), "loss"),
    # Of a schedule
    **dict.fromkeys(("type", "kind", "mode"), "schedule"),
    **dict.fromkeys(("start", "begin", "initial"), "from"),
    **dict.fromkeys(("end", "stop", "final"), "to"),
    **dict.fromkeys(("total_steps", "num_steps", "period", "duration"), "steps"),
    **dict.fromkeys(("warmup_steps", "num_warmup_steps", "delay"), "warmup"),
    **dict.fromkeys(("loss_weighting", "task_balancing", "task_weighting"), "loss_balancing"),
}
# Longer words are compared with none: what is so long is no slip in a name, and would take long.
MAX_LENGTH = 100
# With a letter more, a name of so many letters is most often another name.
_SHORT = 4
# How near a key must be to one of ours to be taken for a misspelt one.
NEAR_MISS = 0.8


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Up to 5 of `names` that are spelt like `word`, the nearest first."""
    if len(word) > MAX_LENGTH or (len(word) < 3 and cutoff < 0.7):
        return []  # two letters are like too many words
    by_key = {name.lower(): name for name in names if may_be_near(word, (name,), cutoff)}
    if not by_key:
        return []
    import difflib  # Here, because it costs 6 ms and only a mistake needs it.

    return [by_key[key] for key in difflib.get_close_matches(_plain(word), by_key, n=5, cutoff=cutoff)]


def may_be_near(word: str, names: Iterable[str], cutoff: float) -> bool:
    """Whether `nearest` could find something: whether enough letters are the same, in any order."""
    if len(word) > MAX_LENGTH:
        return False
    word = _plain(word)
    # A little less, for difflib rounds otherwise.
    cutoff -= 1e-9
    for name in names:
        least = cutoff * (len(word) + len(name))
        # The shorter one has no more letters than it is long, which is quicker to ask.
        if min(len(word), len(name)) * 2 >= least and _letters_in_common(word, name.lower()) * 2 >= least:
            return True
    return False


def is_near_miss(key: str, known: tuple[str, ...]) -> bool:
    """Whether a key may be one of `known`, misspelt or by another system's name."""
    # What is kept is short, for files may hold thousands of long keys.
    return len(key) <= MAX_LENGTH and _may_be_misspelt(key, known)


@functools.lru_cache(maxsize=4096)
def _may_be_misspelt(key: str, known: tuple[str, ...]) -> bool:
    if key in known or key in FOREIGN_KEYS:
        return False
    return OTHER_NAMES.get(key.lower()) in known or may_be_near(key, known, NEAR_MISS) or meant(key, known) is not None


def meant(word: str, names: Iterable[str]) -> str | None:
    """The one name that differs from `word` by a slip: a letter too many, missing, wrong, or two in the wrong order.

    In a long word there may be two. None where no name, or more than one, is so near: then nobody can say what was
    meant. Other than `nearest`, this is safe enough to change a file by.
    """
    allowed = 1 if len(word) < 8 else 2
    if not 3 <= len(word) <= MAX_LENGTH:
        return None
    word = _plain(word)
    # A slip changes one letter at most; to count letters is quicker than to count slips.
    alike = [
        name
        for name in names
        if abs(len(word) - len(name)) <= allowed
        and _letters_in_common(word, name.lower()) + allowed >= max(len(word), len(name))
    ]
    near = [name for name in alike if _slips(word, name.lower(), allowed) <= allowed]
    return near[0] if len(near) == 1 and not _is_another(word, near[0].lower()) else None


def _is_another(word: str, name: str) -> bool:
    """Whether a word may well be a name of its own, which is unknown here: `msle` is no `mse`, `nll_3d` no `nll_2d`."""
    digits = [char for char in word if char.isdigit()]
    return (len(word) > len(name) and len(name) <= _SHORT) or digits != [char for char in name if char.isdigit()]


def suggested(word: str, names: Iterable[str], taken: Container[str] = ()) -> tuple[str | None, str | None]:
    """What to suggest in place of a misspelt word, and the same as a cure where nothing else can be meant.

    A name that is `taken` is no cure: it would stand there twice.
    """
    names = list(names)
    sole = meant(word, names)
    near = [sole] if sole else nearest(word, names)
    return (near[0] if near else None), (None if sole is None or sole in taken else sole)


class Speller:
    """Suggests names, and stops when it has compared so many letters that nobody would read what it says."""

    def __init__(self, letters: int = 200_000) -> None:
        self._left = letters

    def suggested(self, word: str, names: Collection[str]) -> tuple[str | None, str | None]:
        """As the function of this name, as long as that is quick."""
        cost = len(word) * len(names)
        if cost > self._left:
            return None, None
        self._left -= cost
        return suggested(word, names)


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").replace(" ", "_")


def _letters_in_common(a: str, b: str) -> int:
    return sum(min(a.count(letter), b.count(letter)) for letter in set(a))


def _slips(a: str, b: str, most: int) -> int:
    """The distance of Damerau and Levenshtein, with each letter moved at most once; above `most`, some such number."""
    before: list[int] = []
    above: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        # What lies further from the diagonal has more slips already.
        before, above, row = above, row, [i] + [most + 1] * len(b)
        for j in range(max(1, i - most), min(len(b), i + most) + 1):
            other = b[j - 1]
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, before[j - 2] + 1)
            row[j] = cost
    return row[-1]
