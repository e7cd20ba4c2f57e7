"""Results on stdout: lines a person can quote, or one JSON object."""

import json
from typing import Any

import typer

from jensen.likelihood import BITS
from jensen.training.run import Run


def print_json(value: dict[str, Any]) -> None:
    """One JSON object."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))


def print_result(folder: Run, result: dict[str, Any], as_json: bool) -> None:
    """What a fit found: the model beside the controls, its terms, where the pictures are."""
    if as_json:
        print_json({**result, "run": str(folder.path)})
        return
    typer.echo(f"{result['model']:<12} {result['log_likelihood']['quote']}")
    for word, control in result["controls"].items():
        typer.echo(f"{word:<12} {control.get('quote') or control['problem']}  [control]")
    print_breakdown(result["log_likelihood"])
    typer.echo(_in_words(result["log_likelihood"]))
    typer.echo(f"samples: {folder.file('samples.png')}")
    typer.echo(f"report:  {folder.file('report.html')}")


def print_breakdown(summary: dict[str, Any]) -> None:
    """The terms in the unit of the headline, where there are any."""
    scale, unit = (-BITS / summary["dims"], "bits/dim") if summary["bits_per_dim"] is not None else (1.0, "nats")
    terms = {name: term["mean_nats"] for name, term in summary["terms"].items() if term["mean_nats"] is not None}
    if not terms:
        return
    parts = " + ".join(f"{name} {value * scale:.4f}" for name, value in terms.items())
    calls = summary["diagnostics"].get("network_calls_per_example")
    cost = f"; {calls} network calls an example" if calls else ""
    typer.echo(f"             = {parts} ({unit}; {summary['of']}{cost})")


def _in_words(summary: dict[str, Any]) -> str:
    if summary["bits_per_dim"] is None:
        return "Mean log-density of test rows the model never saw, in nats; higher is better."
    bound = " A bound (≤): the model's true cost is at most this." if summary["kind"] == "lower bound" else ""
    return (
        f"Bits to store one of the {summary['dims']} dimensions of a test row the model never saw; lower is better.{bound} "
        "± is one standard error over the test rows."
    )
