"""The program that the commands are of."""

import typer

app = typer.Typer(
    help="Fit generative models to data, say how likely data are under them, draw new data.",
    epilog="A first run:  jensen fit digits -m diffusion -o runs/digits --budget 2m",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
