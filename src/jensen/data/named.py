"""Data sets with a name: one visible table from word to loader.

`digits`, `iris`, `wine` and `breast-cancer` ship with scikit-learn. `mnist` and `fashion-mnist` are four IDX files, each looked for in
`$JENSEN_DATA/<word>/` (gzipped or not), then in the user's cache, then downloaded into it. Files in the cache
and from the net must have the published sha256; files in `$JENSEN_DATA` are the user's own and are checked for
structure only, since the same images are passed around in differently compressed files.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import Logger
from pathlib import Path

import numpy as np

from jensen.data.bits import read_bits
from jensen.data.files import shown
from jensen.data.idx import read_idx
from jensen.data.rows import Array, Rows, Source
from jensen.errors import InputError


@dataclass(frozen=True)
class Named:
    """A data set that has a word: a one-line description and what loads it."""

    description: str
    load: Callable[[], Source]


@dataclass(frozen=True)
class IdxArchive:
    """Ten classes of 28×28 grey images in the four files of MNIST: where to find them and their sha256."""

    word: str
    mirrors: tuple[str, ...]
    sha256: dict[str, str]
    class_names: tuple[str, ...]

    def __call__(self) -> Source:
        """Train and test as given."""
        parts = {"train": self._rows("train"), "test": self._rows("t10k")}
        return Source("named", parts, 256, self.class_names)

    def _rows(self, prefix: str) -> Rows:
        """Images and labels of one part."""
        images, labels = self._file(f"{prefix}-images-idx3-ubyte"), self._file(f"{prefix}-labels-idx1-ubyte")
        return self._checked(read_idx(images), read_idx(labels), images, labels)

    def _checked(self, x: Array, y: Array, images: Path, labels: Path) -> Rows:
        """Images `(N, 28, 28)` and labels `(N,)` as rows `(N, 1, 28, 28)`, if that is what the files hold."""
        if x.dtype != np.uint8 or x.shape[1:] != (28, 28):
            raise InputError(f"{self.word} file {shown(images)} must hold uint8 (N, 28, 28), got {x.dtype} {x.shape}")
        if y.dtype != np.uint8 or y.shape != x.shape[:1] or y.max(initial=0) >= len(self.class_names):
            raise InputError(
                f"{self.word} file {shown(labels)} must hold a label 0, …, {len(self.class_names) - 1} for each of "
                f"{len(x)} images, got {y.dtype} {y.shape} with largest value {y.max(initial=0)}"
            )
        return Rows(x[:, None], y.astype(np.int64))

    def _file(self, name: str) -> Path:
        """The file in `$JENSEN_DATA`, else in the cache, else downloaded."""
        own = os.environ.get("JENSEN_DATA")
        candidates = [Path(own).expanduser() / self.word / ending for ending in (f"{name}.gz", name)] if own else []
        return next((path for path in candidates if path.exists()), None) or self._fetch(f"{name}.gz")

    def _fetch(self, name: str) -> Path:
        """The file from the cache, or from the first mirror that has it with the right checksum."""
        import pooch

        cache, problem = Path(pooch.os_cache("jensen")) / self.word, ""
        for mirror in self.mirrors:
            try:
                with _silenced(pooch.get_logger()):
                    return Path(pooch.retrieve(mirror + name, f"sha256:{self.sha256[name]}", name, cache))
            except (OSError, ValueError) as error:  # no network, no such file, or another checksum
                problem = f"{type(error).__name__} from {mirror.split('/')[2]}"
        own = os.environ.get("JENSEN_DATA")
        looked = f"not in {shown(Path(own) / self.word)} ($JENSEN_DATA)" if own else "JENSEN_DATA is not set"
        raise InputError(
            f"{self.word}: {name} was not found ({looked}; not in the cache {shown(cache)}) and can not be downloaded "
            f"({problem}); set JENSEN_DATA to a folder that holds {self.word}/{name}, or go online"
        )


@contextmanager
def _silenced(logger: Logger) -> Iterator[None]:
    """Keep a logger to warnings for a while: a failed download is told in our own one line."""
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


def _digits() -> Source:
    """Scikit-learn's digits, 17 levels, `(1797, 1, 8, 8)`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, labels = digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64)
    return Source("named", {"all": Rows(x, labels)}, 17, tuple(map(str, digits.target_names)))


def _table(name: str) -> Callable[[], Source]:
    """One of scikit-learn's small tables: float64 rows with classes and names of columns."""

    def load() -> Source:
        """Read the table that comes with scikit-learn."""
        from sklearn import datasets

        found = getattr(datasets, f"load_{name}")()
        rows = Rows(found.data.astype(np.float64), found.target.astype(np.int64))
        return Source(
            "named",
            {"all": rows},
            class_names=tuple(map(str, found.target_names)),
            columns=tuple(map(str, found.feature_names)),
        )

    return load


@dataclass(frozen=True)
class FixedBinarised:
    """MNIST as Larochelle and Murray (2011) drew its zeros and ones, once and for all: three files of text, a row a line."""

    word: str
    site: str

    def __call__(self) -> Source:
        """Train, valid and test as given."""
        parts = {part: Rows(self._part(part)) for part in ("train", "valid", "test")}
        return Source("named", parts, 2, told="binarised: fixed (Larochelle and Murray 2011)")

    def _part(self, part: str) -> Array:
        name = f"binarized_mnist_{part}.amat"
        own = os.environ.get("JENSEN_DATA")
        found = [p for p in ([Path(own).expanduser() / self.word / name] if own else []) if p.exists()]
        if not found:
            looked = f"not in {shown(Path(own) / self.word)}" if own else "JENSEN_DATA is not set"
            raise InputError(
                f"{self.word}: {name} was not found ({looked}); get its three files from {self.site} and set JENSEN_DATA to the folder "
                f"that holds {self.word}/{name}, or take mnist with --binarise, which is another protocol"
            )
        return read_bits(found[0], 784).reshape(-1, 1, 28, 28)


_MNIST = IdxArchive(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    tuple("0123456789"),
)
_FASHION = IdxArchive(
    "fashion-mnist",
    (
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
NAMED = {
    "digits": Named("1,797 handwritten digits, 8×8 grey, 17 levels; ships with scikit-learn", _digits),
    "iris": Named("150 irises of 3 species, 4 lengths and widths; ships with scikit-learn", _table("iris")),
    "wine": Named("178 wines of 3 growers, 13 chemical measurements; ships with scikit-learn", _table("wine")),
    "breast-cancer": Named(
        "569 tumours, malignant or benign, 30 measurements; ships with scikit-learn", _table("breast_cancer")
    ),
    "mnist": Named("70,000 handwritten digits, 28×28 grey, 256 levels; 11 MB to download", _MNIST),
    "fashion-mnist": Named("70,000 pictures of clothes, 28×28 grey, 256 levels; 30 MB to download", _FASHION),
    "binarized-mnist": Named(
        "70,000 digits, 28×28 zeros and ones, fixed by Larochelle and Murray 2011; files to be put into $JENSEN_DATA",
        FixedBinarised("binarized-mnist", "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"),
    ),
}
