"""What is in the data: plain facts for `jensen show`, gathered a few thousand rows at a time.

Duplicates are found by a 64-bit hash of each row's bytes; the chance of one false alarm among a million rows is 3e-8.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jensen.data.examples import Examples, Split
from jensen.data.rows import Array

CHUNK_CELLS = 1 << 22


def describe(split: Split) -> dict[str, Any]:
    """Rows, shape, space, classes, range, constant dimensions, duplicates, missing cells; JSON-able."""
    parts = {"train": split.train, "valid": split.valid, "test": split.test}
    hashes = {name: _row_hashes(part) for name, part in parts.items()}
    everything = np.concatenate(list(hashes.values()))
    return {
        "source": split.facts.get("source"),
        "rows": {name: len(part) for name, part in parts.items()},
        "shape": list(split.event_shape),
        "dtype": str(split.train.x.dtype).removeprefix("torch."),
        "space": str(split.space),
        "classes": _classes(split, parts),
        **_ranges(parts),
        "duplicate_rows": len(everything) - len(np.unique(everything)),
        "test_rows_in_train": int(np.isin(hashes["test"], hashes["train"]).sum()),
        "split": split.facts.get("split"),
        "notes": list(split.facts.get("notes", [])),
    }


def describe_lines(facts: dict[str, Any]) -> list[str]:
    """The facts as lines a person reads."""
    rows, cells = facts["rows"], int(np.prod(facts["shape"]))
    low, high = facts["range"]
    lines = {
        "source": facts["source"],
        "rows": f"{sum(rows.values()):,} ({', '.join(f'{name} {count:,}' for name, count in rows.items())})",
        "split": facts["split"],
        "shape": f"{' × '.join(map(str, facts['shape']))} = {cells:,} dimension{'s' if cells > 1 else ''}, {facts['dtype']}",
        "values": f"{facts['space']}, " + (f"from {low:g} to {high:g}" if low is not None else "all missing"),
        "classes": ", ".join(f"{name} ({count:,})" for name, count in facts["classes"].items()) or "none",
        "constant": f"{facts['constant_dimensions']:,} of {cells:,} dimensions",
        "missing": f"{facts['missing_cells']:,} cells",
        "duplicates": f"{facts['duplicate_rows']:,} repeated rows, {facts['test_rows_in_train']:,} test rows in train",
    }
    told = [f"{name:<11}{text}" for name, text in lines.items() if text is not None]
    return told + [f"{'note':<11}{note}" for note in facts["notes"]]


def _chunks(part: Examples) -> Iterator[Array]:
    size = max(1, CHUNK_CELLS // max(1, int(np.prod(part.event_shape))))
    return (batch.x.numpy().reshape(len(batch.x), -1) for batch in part.batches(size))


def _row_hashes(part: Examples) -> Array:
    digests = (_row_hash(row) for chunk in _chunks(part) for row in np.ascontiguousarray(chunk))
    return np.frombuffer(b"".join(digests), np.uint64)


def _row_hash(row: Array) -> bytes:
    return hashlib.blake2b(row.data, digest_size=8).digest()


def _classes(split: Split, parts: dict[str, Examples]) -> dict[str, int]:
    """How many rows each class has, over all parts."""
    codes = [part.context.numpy() for part in parts.values() if part.context is not None]
    if not codes:
        return {}
    counts = np.bincount(np.concatenate(codes), minlength=len(split.class_names))
    names = split.class_names or tuple(map(str, range(len(counts))))
    return {name: int(count) for name, count in zip(names, counts, strict=False)}


def _ranges(parts: dict[str, Examples]) -> dict[str, Any]:
    """Value range, constant dimensions and missing cells over all parts."""
    low = high = parts["train"].x[0].numpy().reshape(-1)
    missing = 0
    for chunk in (chunk for part in parts.values() for chunk in _chunks(part)):
        low, high = np.fmin(low, np.fmin.reduce(chunk)), np.fmax(high, np.fmax.reduce(chunk))
        missing += int(np.isnan(chunk).sum())
    return {
        "range": [_plain(np.fmin.reduce(low)), _plain(np.fmax.reduce(high))],
        "constant_dimensions": int(np.sum((low == high) | np.isnan(low))),
        "missing_cells": missing,
    }


def _plain(value: Any) -> int | float | None:
    """A number that JSON knows; None for NaN."""
    number: int | float = value.item()
    return None if number != number else number
