"""What long work tells the person who waits: a bar with time left, on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from jensen.errors import InputError


class Bar(Protocol):
    """A task under way."""

    def advance(self, amount: int = 1) -> None:
        """So much more is done."""

    def total(self, amount: int) -> None:
        """The whole has another size."""

    def note(self, text: str) -> None:
        """What stands behind the bar."""


class Silent:
    """A bar that shows nothing."""

    def advance(self, amount: int = 1) -> None:
        """Nothing."""

    def total(self, amount: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class _WithNote(Progress):
    """The bar, and the note on a line of its own: both fit 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The lines to show."""
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.fields.get("note"):
                yield Text(f"  {task.fields['note']}", no_wrap=True, overflow="ellipsis")


class _Rich:
    def __init__(self, progress: Progress, task: int) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1) -> None:
        self._progress.advance(self._task, amount)  # type: ignore[arg-type]

    def total(self, amount: int) -> None:
        self._progress.update(self._task, total=amount)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        self._progress.update(self._task, note=text)  # type: ignore[arg-type]


@contextmanager
def bar(title: str, total: int | None, *, done: int = 0, shown: bool = True) -> Iterator[Bar]:
    """A bar for a task of `total` parts, None where nobody knows how many; silent if not `shown`, and one line at the end where stderr is no terminal."""
    if not shown:
        yield Silent()
        return
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("· left"),
        TimeRemainingColumn(),
    )
    with _WithNote(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        try:
            yield _Rich(progress, task)
        except InputError:
            if progress.tasks[0].completed == done:  # nothing was done: the mistake is told in a line of its own
                console.quiet = not console.is_terminal
            raise
