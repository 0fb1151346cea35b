"""Which right word a misspelt one may stand for."""

from __future__ import annotations

from collections.abc import Container, Iterable

# A longer word is not compared as a whole.
_MAX_LENGTH = 100


def nearest(word: str, names: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Up to 5 of `names` that are spelt like `word`, the nearest first."""
    if len(word) < 3 and cutoff < 0.7:
        return []  # two letters are like too many words
    by_key = {name.lower(): name for name in names if may_be_near(word, (name,), cutoff)}
    if not by_key:
        return []
    import difflib  # Here, because it costs 6 ms and only a mistake needs it.

    return [by_key[key] for key in difflib.get_close_matches(_plain(word), by_key, n=5, cutoff=cutoff)]


def may_be_near(word: str, names: Iterable[str], cutoff: float) -> bool:
    """Whether `nearest` could find something: whether enough letters are the same, in any order."""
    word = _plain(word)
    # A little less, for difflib rounds otherwise.
    cutoff -= 1e-9
    return any(_letters_in_common(word, name.lower()) * 2 >= cutoff * (len(word) + len(name)) for name in names)


def meant(word: str, names: Iterable[str]) -> str | None:
    """The one name that differs from `word` by a slip: a letter too many, missing, wrong, or two in the wrong order.

    In a long word there may be two. None where no name, or more than one, is so near: then nobody can say what was
    meant. Other than `nearest`, this is safe enough to change a file by.
    """
    word = _plain(word)
    allowed = 1 if len(word) < 8 else 2
    if len(word) < 3:
        return None
    # A slip changes one letter at most; to count letters is quicker than to count slips.
    alike = [name for name in names if _letters_in_common(word, name.lower()) + allowed >= max(len(word), len(name))]
    near = [name for name in alike if _slips(word, name.lower()) <= allowed]
    return near[0] if len(near) == 1 else None


def suggested(word: str, names: Iterable[str], taken: Container[str] = ()) -> tuple[str | None, str | None]:
    """What to suggest in place of a misspelt word, and the same as a cure where nothing else can be meant.

    A name that is `taken` is no cure: it would stand there twice.
    """
    names = list(names)
    sole = meant(word, names)
    near = [sole] if sole else nearest(word, names)
    return (near[0] if near else None), (None if sole is None or sole in taken else sole)


def _plain(word: str) -> str:
    return word[:_MAX_LENGTH].lower().replace("-", "_").replace(" ", "_")


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
