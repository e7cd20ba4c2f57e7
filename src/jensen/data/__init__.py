"""Data: from a word, a folder, a file or an array to a `Split` of rows in data units."""

from jensen.data.examples import Batch, Examples, Split, as_examples
from jensen.data.facts import describe, describe_lines
from jensen.data.missing import require_complete
from jensen.data.named import NAMED
from jensen.data.sources import LOADED_BY, load_data
from jensen.data.space import Levels, Real, Space

__all__ = [
    "LOADED_BY",
    "NAMED",
    "Batch",
    "Examples",
    "Levels",
    "Real",
    "Space",
    "Split",
    "as_examples",
    "describe",
    "describe_lines",
    "load_data",
    "require_complete",
]
