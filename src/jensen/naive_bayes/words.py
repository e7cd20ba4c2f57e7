"""The words for families of columns, and which column has which."""

from collections.abc import Mapping, Sequence

from jensen.data.space import Levels, Real, Space
from jensen.errors import InputError, brief, did_you_mean

ON_LEVELS, ON_REALS = ("categorical", "bernoulli", "poisson"), ("gaussian", "mixture", "kde")
MOST_CELLS = 1 << 27  # of all tables together: 1 GiB
MOST_COLUMNS = 1 << 20


def families(family: str, dims: int, space: Space) -> list[str]:
    """The family of each column.

    Raises:
        InputError: an unknown word, one that does not suit the space, another number of them than columns.

    Example:
        >>> families("poisson, categorical", 2, Levels(5))
        ['poisson', 'categorical']
    """
    if dims > MOST_COLUMNS:
        raise InputError(f"naive Bayes takes rows of at most {MOST_COLUMNS:,} values, got {dims:,}; resize the data")
    known = ON_LEVELS if isinstance(space, Levels) else ON_REALS
    words = [word.strip() for word in family.split(",", dims)]
    words = words * dims if len(words) == 1 else words
    if len(words) != dims:
        count = "more" if len(words) > dims else str(len(words))
        raise InputError(f"family must be one word, or one for each of {dims} columns with commas between, got {count}")
    words = [known[0] if word == "auto" else word for word in words]
    for word in dict.fromkeys(words):
        if word in ON_LEVELS + ON_REALS and word not in known:
            other = "whole-number arrays with --levels" if isinstance(space, Real) else "float arrays or tables"
            raise InputError(f"family {word} does not suit {space}, which take {', '.join(known)}; it is for {other}")
        if word not in known:
            near = did_you_mean(word, known)
            raise InputError(f"family must be auto, {', '.join(known)} for {space}, got {brief(word)}; {near}change it")
    if "bernoulli" in words and isinstance(space, Levels) and space.k != 2:
        raise InputError(f"family bernoulli is for 2 levels, these columns have {space.k}; use categorical or poisson")
    return words


def check_size(groups: Mapping[str, Sequence[int]], classes: int, space: Space, components: int, rows: int) -> None:
    """Refuse tables that do not fit in memory."""
    levels = space.k if isinstance(space, Levels) else 1
    each = {"gaussian": 2, "mixture": 3 * components, "kde": rows}
    cells = sum(classes * len(d) * each.get(word, levels) for word, d in groups.items())
    if cells > MOST_CELLS:
        dims = sum(map(len, groups.values()))
        raise InputError(
            f"{cells:,} numbers for {classes} classes of {dims} columns do not fit in memory (at most {MOST_CELLS:,}); "
            "resize the data, use fewer levels, components or rows"
        )
