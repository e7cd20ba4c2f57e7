"""The graph of a Bayesian network: which columns hang on which, and how much."""

from matplotlib.figure import Figure

from jensen.errors import plural
from jensen.evaluation.figures import Theme
from jensen.evaluation.graphs import graph_figure
from jensen.evaluation.numbers import part
from jensen.evaluation.page import Html, number, panel, paragraph, table
from jensen.evaluation.panels.common import themed
from jensen.evaluation.story import Story
from jensen.models.bayes_net import BayesNet

MOST_LISTED, MOST_DRAWN = 12, 2000


def graph(story: Story) -> Html:
    """Nothing where the model is no Bayesian network."""
    model = story.pipeline.model
    if not isinstance(model, BayesNet):
        return Html("")
    parents, strength, names = model.dag.parents, model.edge_information(), _names(story)
    edges = sum(map(len, parents))
    parts = [
        paragraph(f"{story.dims} {plural('column', story.dims)}, {edges} {plural('edge', edges)}.{_gain(strength)}")
    ]
    if edges and story.dims <= MOST_DRAWN:

        def draw(theme: Theme) -> Figure:
            return graph_figure(parents, strength, names, grid=_grid(story), theme=theme)

        caption = "A line is an edge; the wider, the more a column tells about the one below it" + (
            " (columns are pixels, in their places)." if _grid(story) else " (parents above children)."
        )
        parts.append(themed(draw, "The graph", caption))
    return panel("The graph", *parts, *_listed(strength, names))


def _names(story: Story) -> list[str]:
    columns = part(story.config, "data", "facts").get("columns")
    if isinstance(columns, list) and len(columns) == story.dims:
        return [str(column) for column in columns]
    if grid := _grid(story):
        return [f"row {pixel // grid[1] + 1}, column {pixel % grid[1] + 1}" for pixel in range(story.dims)]
    return [f"column {number + 1}" for number in range(story.dims)]


def _grid(story: Story) -> tuple[int, int] | None:
    """Height and width of a picture of one channel."""
    shape = story.pipeline.event_shape
    return (shape[1], shape[2]) if story.image and shape[0] == 1 else None


def _gain(strength: dict[tuple[int, int], float]) -> str:
    total = sum(strength.values())
    return f" Together its edges tell {total:.3g} nats a row, beyond the columns one by one." if strength else ""


def _listed(strength: dict[tuple[int, int], float], names: list[str]) -> list[Html]:
    """The edges that carry most."""
    most = sorted(strength, key=lambda edge: -strength[edge])[:MOST_LISTED]
    lines = [(names[parent], names[child], number(f"{strength[parent, child]:.3f}")) for parent, child in most]
    return [table(("column", "tells of", "mutual information, nats"), lines)] if lines else []
