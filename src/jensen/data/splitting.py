"""From a source to a split: parts that are given are kept, parts that are missing are cut by a seeded permutation.

With nothing given: 70 % train, 10 % valid, 20 % test. With train and test given: valid is 10 % of train. With train
and valid given: test is 20 % of train. Cut rows come in the permutation's order, given rows in the source's.
The permutation is numpy's PCG64 from `split_seed` alone. A row's id is its row number in the source: the train
file's rows first, then valid's (if given), then test's.
"""

from dataclasses import replace

import numpy as np
import torch

from jensen.data.examples import Examples, Split
from jensen.data.rows import Array, Rows, Source
from jensen.data.space import Space
from jensen.errors import InputError, plural

MIN_ROWS = 10
SHARES = {"valid": 10, "test": 20}  # percent of the rows that are cut
ORDER = ("all", "train", "valid", "test")


def cut(source: Source, space: Space, split_seed: int, where: str, least: int = MIN_ROWS) -> Split:
    """Train, valid and test rows of a source whose arrays are interpreted already.

    Fewer rows than `least` are refused; fewer than `MIN_ROWS` are not cut but stay whole, as train rows.
    """
    if not 0 <= split_seed < 2**63:
        raise InputError(f"split_seed must be an integer from 0 to 2^63 - 1, got {split_seed}")
    parts = {name: source.parts[name] for name in ORDER if name in source.parts}
    _check_alike(parts, where)
    starts = np.cumsum([0, *map(len, parts.values())])
    given = {name: _examples(rows, int(start)) for (name, rows), start in zip(parts.items(), starts, strict=False)}
    whole = "all" if "all" in parts else "train"
    missing = [name for name in SHARES if name not in parts]
    cuts = _cut_positions(len(parts[whole]), missing, split_seed, where, least)
    made = given | {name: _examples(parts[whole].take(at), 0, at) for name, at in cuts.items()}
    given_parts = [name for name in parts if name != "all"]
    facts = {"split_seed": split_seed, "split": _rule(whole, missing, split_seed), "given_parts": given_parts}
    made = {name: replace(part, protocol=source.told) for name, part in made.items()}
    return Split(made["train"], made["valid"], made["test"], space, source.class_names, facts)


def _cut_positions(rows: int, missing: list[str], seed: int, where: str, least: int) -> dict[str, Array]:
    """Positions of train and of each missing part; {} when nothing is missing."""
    if not missing:
        return {}
    if rows < least:
        raise InputError(
            f"{where} has {rows} {plural('row', rows)}; at least {least} are needed to cut {' and '.join(missing)} from them"
        )
    sizes = [max(1, rows * SHARES[name] // 100) if rows >= MIN_ROWS else 0 for name in missing]
    order = np.random.default_rng(seed).permutation(rows)
    *cuts, train = np.split(order, np.cumsum(sizes))
    return {"train": train, **dict(zip(missing, cuts, strict=True))}


def _examples(rows: Rows, start: int, positions: Array | None = None) -> Examples:
    ids = np.arange(len(rows)) if positions is None else positions
    labels = None if rows.labels is None else torch.from_numpy(np.ascontiguousarray(rows.labels))
    x = torch.from_numpy(np.require(rows.x, requirements=["C", "W"]))
    return Examples(x, torch.from_numpy(ids.astype(np.int64) + start), labels, names=rows.names)


def _rule(whole: str, missing: list[str], seed: int) -> str:
    if not missing:
        return "train, valid and test as given by the source"
    shares = " and ".join(f"{SHARES[name]} % {name}" for name in missing)
    kept = "the rest is train" if whole == "all" else "the rest stays train; the other parts as given by the source"
    return f"{shares} cut from {'all rows' if whole == 'all' else 'train'} by split seed {seed}, {kept}"


def _check_alike(parts: dict[str, Rows], where: str) -> None:
    """Parts given apart must hold the same kind of rows."""
    (first, rows), *others = parts.items()
    for name, other in others:
        if (other.x.dtype, other.x.shape[1:]) != (rows.x.dtype, rows.x.shape[1:]):
            raise InputError(
                f"{where}: {name} rows are {other.x.dtype} of shape {other.x.shape[1:]}, but {first} rows are "
                f"{rows.x.dtype} of shape {rows.x.shape[1:]}; save them alike"
            )
