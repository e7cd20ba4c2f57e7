"""`compare`: fit several models to one split, score them on the same test rows, and say what the numbers allow to say."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jensen import __version__
from jensen.data import LOADED_BY, describe, load_data
from jensen.data.examples import Split
from jensen.evaluation.compare import samples, text
from jensen.evaluation.compare.attempts import Attempt, attempted
from jensen.evaluation.compare.folder import PAGE, PICTURE, Folder
from jensen.evaluation.compare.page import page
from jensen.evaluation.compare.picture import picture
from jensen.evaluation.compare.plan import Plan, planned
from jensen.evaluation.compare.samples import Gauging
from jensen.evaluation.compare.table import Entry, table
from jensen.evaluation.figures import save_figure
from jensen.files import check_writable, write_text
from jensen.resolving import proposed

Say = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """Models beside each other on the same test rows; `print` shows the table.

    Attributes:
        request: what was asked for.
        data: what the data are.
        entries: a model each, with its runs.
        asked: the models that were asked for; the others are controls.
        finished: whether all of them are there.
    """

    request: dict[str, Any]
    data: dict[str, Any]
    entries: tuple[Entry, ...]
    asked: tuple[str, ...] = ()
    finished: bool = True

    @property
    def table(self) -> list[dict[str, Any]]:
        """The rows of the table, as `to_dict` says them under "models"."""
        return table(self.entries)

    @property
    def failed(self) -> list[str]:
        """The models that were asked for and whose first run could not be fitted or scored."""
        return [e.word for e in self.entries if e.word in self.asked and e.first.failed]

    def to_dict(self) -> dict[str, Any]:
        """The content of compare.json, JSON-able; null where a thing does not apply.

        Returns:
            `request` (models, settings, data, space, budget, steps, seeds, seed), `finished`, `jensen` (the version),
            `samples` (rows, seed, features, caution of the two-sample measures and the `ceiling`, what training rows reach; or a
            problem),
            `data` (source, options, fingerprint, space, event_shape, rows, test_rows_in_train, notes) and `models`, a list of objects, the highest
            number of each measure first, with

            - `model`, `control` (whether it is always there);
            - `log_likelihood`: `LogLikelihood.to_dict` and `quote`;
            - `difference`: `to` (the best of the same measure), `mean_nats`, `stderr_nats`, `mean_bits_per_dim`,
              `stderr_bits_per_dim`, `meaning`; null for the best itself;
            - `verdict`: `code` (best, worse, worse by at least, no clear difference, not ranked, nothing to rank), `words`;
            - `gap`, training rows − test rows: `mean_nats`, `stderr_nats`, the same in bits/dim, `standard_errors`,
              `train_examples`, `meaning`;
            - `seconds`, `peak_bytes` of the fit, `resumed` (both are of the last part of a fit that was cut off);
            - `samples`: two-sample measures of what the model draws, `how` it was drawn and `measures`, name → `Measure.to_dict`, or a `problem`;
            - `parameters`: the numbers in the weights file;
            - `spread` over seeds: `sd_nats`, `sd_bits_per_dim`, `runs`; `seeds`: each run's `seed`, `quote`, `mean_nats`,
              `seconds`, `peak_bytes`, `problem`;
            - `note`, `problem`: a line or null.
        """
        return {
            "request": self.request,
            "finished": self.finished,
            "jensen": __version__,
            "data": self.data,
            "samples": samples.about([entry.first.samples for entry in self.entries]),
            "models": self.table,
        }

    def __str__(self) -> str:
        return "\n".join(text.lines(self.to_dict()))


def compare(
    data: "str | Path | Split | Tensor | np.ndarray[Any, Any]",
    models: str | Sequence[str],
    *,
    run: str | Path | None = None,
    budget: str | None = None,
    steps: int | None = None,
    seeds: int = 1,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Comparison:
    """Fit models to the same training rows and compare them on the same test rows.

    The controls `independent`, `gaussian` and `jittered` are always among them. A model that fails is listed with why.

    Args:
        data: whatever `jensen.load_data` takes: a word, a path, an array, or a Split.
        models: words with commas between them, or a sequence of words.
        run: the folder to keep the comparison in; None keeps it in memory. The same call again goes on, or finds the
            result; what is finished is neither fitted nor scored again.
        budget: training time of each gradient model, for each seed.
        steps: their number of training steps, instead of a budget.
        seeds: how many runs, with seeds seed, seed + 1, …, of each model whose fit depends on the seed.
        seed: of the first run, and of all Monte-Carlo draws of the scores.
        settings: word → name → value, as `jensen.fit` takes them.
        overwrite: replace another comparison that is in the folder.
        progress: tell on stderr what is going on.

    Raises:
        InputError: a user's mistake, before any work is done.

    Example:
        >>> import numpy
        >>> rows = numpy.random.default_rng(0).normal(size=(120, 2))
        >>> found = compare(rows, "gaussian", progress=False)
        >>> for row in found.table:
        ...     verdict = row["verdict"]
        ...     print(row["model"], "|", verdict["code"])
        independent | best
        gaussian | no clear difference
        jittered | worse
    """
    say: Say = (lambda line: print(line, file=sys.stderr)) if progress else (lambda line: None)
    plan = planned(models, settings, budget=budget, steps=steps, seeds=seeds, seed=seed)
    if run is not None:
        check_writable(Folder(run).file(PAGE))
    split = data if isinstance(data, Split) else load_data(data)
    for word in plan.asked:
        proposed(word, split, plan.settings.get(word, {}))
    if run is None:
        return _made(plan, split, None, progress, say)
    folder, request = Folder(run), plan.request(split)
    folder.check(request, overwrite=overwrite)
    with folder.locked():
        folder.start(request, overwrite=overwrite)  # another process may have been here in between
        found = _made(plan, split, folder, progress, say)
        save_figure(picture(found.to_dict()), folder.file(PICTURE))
        write_text(folder.file(PAGE), page(found.to_dict(), folder.path))
        folder.write(found.to_dict())
    return found


def _made(plan: Plan, split: Split, folder: Folder | None, progress: bool, say: Say) -> Comparison:
    """Every model with every seed, one after another; the table so far is kept after each."""
    attempts: dict[str, list[Attempt]] = {}
    request, facts, gauging = plan.request(split), _facts(split), Gauging(plan, split)

    def so_far(*, finished: bool) -> Comparison:
        entries = tuple(Entry(word, tuple(found)) for word, found in attempts.items())
        return Comparison(request, facts, entries, plan.asked, finished)

    wanted = [(word, seed) for word in plan.words for seed in plan.seeds_of(word)]
    for number, (word, seed) in enumerate(wanted, 1):
        say(f"[{number}/{len(wanted)}] {word}, seed {seed}")
        path = None if folder is None else folder.run(word, seed)
        gauge = gauging if seed == plan.seed else None
        attempts.setdefault(word, []).append(attempted(plan, word, seed, split, path, progress, gauge))
        if attempts[word][-1].problem:
            say(f"{word}: {attempts[word][-1].problem}")
        if folder is not None and not folder.finished:
            folder.write(so_far(finished=False).to_dict())
    return so_far(finished=True)


def _facts(split: Split) -> dict[str, Any]:
    """What the data are, and how to load them again."""
    options = {name: split.facts.get(name) for name in LOADED_BY}
    protocol = split.facts.get("told")
    return {
        "source": split.facts.get("source", "array"),
        "options": {name: value for name, value in options.items() if value},
        "fingerprint": split.fingerprint,
        "space": str(split.space),
        "event_shape": list(split.event_shape),
        "rows": {part: len(getattr(split, part)) for part in ("train", "valid", "test")},
        "test_rows_in_train": describe(split)["test_rows_in_train"],
        "notes": [*split.facts.get("notes", []), *([protocol] if protocol else [])],
    }
