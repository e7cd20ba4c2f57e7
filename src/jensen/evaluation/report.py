"""`jensen report`: one self-contained HTML page about a run.

`story` gathers what there is, `panels` turns it into pieces of the page, `page` knows HTML.
"""

from pathlib import Path

from jensen.data.examples import Split
from jensen.evaluation.drawing import Drawing
from jensen.evaluation.page import document, join
from jensen.evaluation.panels import PANELS
from jensen.evaluation.story import gather
from jensen.files import write_text


def write_report(run: Path, split: Split | None, problem: str | None, drawing: Drawing | None = None) -> Path:
    """Write report.html into a finished run's folder.

    Args:
        run: the folder; evaluation.json and history.jsonl are used if they are there.
        split: the data the run was fitted to, or None.
        problem: why there are no data, in a line that the page repeats.
        drawing: the model's samples, if they are drawn already.

    Returns:
        The path of the page.

    Raises:
        InputError: no finished run there, or the page cannot be written.
    """
    run = Path(run)
    story = gather(run, split, problem, drawing)
    body = join(*(panel(story) for panel in PANELS))
    path = run / "report.html"
    write_text(path, document(f"{story.model} on {story.source} · jensen", body))
    return path
