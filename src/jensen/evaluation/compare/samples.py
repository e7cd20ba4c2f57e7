"""Two-sample measures of the models compared, all with one gauge: the same test rows, the same number of samples, the same ceiling.

In a folder each run keeps its own in `samples.json`. What hinders measuring is told there and costs no model its likelihood.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from jensen.data.examples import Split
from jensen.errors import InputError
from jensen.evaluation.compare.plan import Plan
from jensen.evaluation.two_sample.gauge import ROWS, Gauge, enough
from jensen.evaluation.two_sample.measure import as_dict, measures_from
from jensen.evaluation.two_sample.table import CHAIN_ROWS, draw_rows, features_of
from jensen.files import read_json, write_json
from jensen.models import model_class
from jensen.models.chain import ChainModel
from jensen.models.pipeline import Pipeline

FILE = "samples.json"
Record = dict[str, Any]


class Gauging:
    """The gauge of a comparison, made when it is first needed.

    Args:
        plan: the comparison; with a diffusion model in it 256 rows are drawn of every model, for numbers of unequal sizes cannot be compared.
        split: its data.
    """

    def __init__(self, plan: Plan, split: Split) -> None:
        self.seed, self.split = plan.seed, split
        chains = any(issubclass(model_class(word), ChainModel) for word in plan.words)
        self.most = CHAIN_ROWS if chains else ROWS

    @cached_property
    def gauge(self) -> Gauge:
        """The gauge.

        Raises:
            InputError: the data have missing cells, weights, or too few rows.
        """
        return Gauge(self.split, enough(self.split, None, self.most), self.seed)

    def measured(self, pipeline: Pipeline) -> Record:
        """What is kept of a model: `how` it was drawn, `measures`, and `about` all of them; or a `problem`."""
        try:
            drawn, how = draw_rows(pipeline, self.gauge.count, self.seed)
            return {"how": how, "measures": as_dict(self.gauge.measures(drawn)), "about": self._about()}
        except InputError as error:
            return {"problem": str(error)}

    def _about(self) -> Record:
        gauge = self.gauge
        facts = {"rows": gauge.count, "seed": gauge.seed, "features": features_of(gauge), "caution": gauge.caution}
        return {**facts, "ceiling": as_dict(gauge.ceiling)}


def keep(run: Path, found: Record) -> None:
    """Write what was measured into the run."""
    write_json(run / FILE, found)


def kept(run: Path) -> Record | None:
    """What was measured before; None where there is nothing, or nothing that can be read."""
    try:
        found = read_json(run / FILE)
        if "problem" in found:
            return {"problem": str(found["problem"])}
        for measures in (found["measures"], found["about"]["ceiling"]):
            measures_from(measures)
        return {name: found[name] for name in ("how", "measures", "about")}
    except (InputError, KeyError, TypeError, ValueError, AttributeError):
        return None


def about(records: list[Mapping[str, Any] | None]) -> Record | None:
    """What holds for all models' measures; the problem where none has any; None where nothing was tried."""
    tried = [record for record in records if record]
    found = next((record["about"] for record in tried if "about" in record), None)
    return found or (({"problem": tried[0]["problem"]}) if tried else None)
