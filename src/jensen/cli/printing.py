"""Results on stdout: lines a person can quote, or one JSON object."""

import json
from typing import Any

import typer

from jensen.errors import plural
from jensen.evaluation.anomaly import AUROC
from jensen.evaluation.calibration import described
from jensen.evaluation.likelihood import summary as summed_up
from jensen.evaluation.numbers import comparable, part, real, word
from jensen.evaluation.two_sample import TwoSamples
from jensen.likelihood import BITS, LogLikelihood, plus_minus
from jensen.models.pipeline import Pipeline
from jensen.training.run import Run

MISSED = 1.5  # times the error that was asked for: a pilot does not know its variance better


def print_json(value: dict[str, Any]) -> None:
    """One JSON object."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))


def print_result(folder: Run, result: dict[str, Any], as_json: bool) -> None:
    """What a fit found: the model beside the controls, its terms, where the pictures are."""
    if as_json:
        print_json({**result, "run": str(folder.path)})
        return
    ll = part(result, "log_likelihood")
    if ll:
        typer.echo(f"{word(result, 'model'):<12} {word(ll, 'quote')}")
        print_breakdown(ll)
    elif "samples" in result:
        print_samples(
            word(result, "model"), word(result, "without_likelihood"), TwoSamples.from_dict(result["samples"])
        )
    else:
        print_unmeasured(result)
    print_classes(part(result, "classification"))
    for name in part(result, "controls"):
        control = part(result, "controls", name)
        unlike = "" if not ll or comparable(ll, control) else "; of p(x), which does not compare"
        typer.echo(f"{name:<12} {word(control, 'quote') or word(control, 'problem')}  [control{unlike}]")
    if ll:
        typer.echo(_in_words(ll))
    typer.echo(f"samples: {folder.file('samples.png')}")
    typer.echo(f"report:  {folder.file('report.html')}")


def print_samples(model: str, why: str, found: TwoSamples) -> None:
    """Two-sample measures, and why there is no likelihood, if there is none."""
    if why:
        typer.echo(f"{model} has no likelihood: {why}. Its samples, measured against test rows:")
    for line in [*found.lines(), found.explained(), *([found.caution] if found.caution else [])]:
        typer.echo(line)


def print_unmeasured(record: dict[str, Any], as_json: bool = False) -> None:
    """Why there is no likelihood, and why no measures either."""
    if as_json:
        print_json(record)
        return
    typer.echo(f"{word(record, 'model')} has no likelihood: {word(record, 'without_likelihood')}")
    typer.echo(f"its samples were not measured: {word(record, 'samples_problem')}")


def print_scored(
    model: str, source: str | None, ll: LogLikelihood, more: dict[str, dict[str, Any] | None], as_json: bool
) -> None:
    """The log-likelihood of rows: the headline, its terms, and what else was asked for: how well classes are told, the spread over
    redraws, where the gap goes.
    """
    found = summed_up(ll)
    asked = {name: value for name, value in more.items() if value is not None}
    if as_json:
        print_json({"model": model, "data": source, "log_likelihood": found, **asked})
        return
    typer.echo(f"{model} on {source}: {ll}")
    print_breakdown(found)
    print_weights(part(found, "diagnostics"))
    print_flow(part(found, "diagnostics"))
    print_classes(more.get("classification"))
    print_redraws(more.get("redraws"), ll)
    print_gap(more.get("gap"))
    print_anomaly(more.get("anomaly"))


def warn_of_missed(pipeline: Pipeline, ll: LogLikelihood, tolerance: float | None) -> None:
    """On stderr, where a Monte-Carlo error that was asked for was not reached by far."""
    reached = ll.monte_carlo / pipeline.nats_per_unit
    if tolerance is not None and reached > MISSED * tolerance:
        unit = "bits/dim" if ll.in_bits else "nats/dim"
        typer.echo(
            f"jensen: the Monte-Carlo error of the mean is {reached:.2g} {unit}, and --tolerance asked for {tolerance:g}: a row would have needed more "
            "network calls than are made unasked, or the pilot's rows were easier; --set repetitions=N asks for N",
            err=True,
        )


def print_anomaly(found: dict[str, Any] | None) -> None:
    """How well log p tells other rows from the model's own."""
    if not found:
        return
    shown = {
        name: AUROC.read(found[key])
        for name, key in (("log p", "log_likelihood"), ("corrected for complexity", "complexity_corrected"))
        if found[key]
    }
    told = ", ".join(f"by {name} {area}" for name, area in shown.items())
    rows = f"{found['own_rows']:,} test rows of the run's data against {found['other_rows']:,} of these"
    typer.echo(f"{'anomaly':<12} AUROC {told} ({rows}; ½ is chance; {found['caution']})")


def print_redraws(spread: dict[str, Any] | None, ll: LogLikelihood) -> None:
    """The spread over other draws of binarised rows."""
    if spread:
        low, high = spread["seeds"]
        mean, sd = spread["mean_nats"], spread["sd_nats"]
        unit = BITS / ll.dims
        bits = f" (bits/dim: {-mean * unit:.4f}, sd {sd * unit:.5f})" if ll.in_bits else ""
        typer.echo(
            f"{'redraws':<12} {mean:.3f} nats a row, sd {sd:.3f}{bits} over {len(spread['means_nats'])} draws of the "
            f"run's own test rows' zeros and ones (seeds {low} to {high})"
        )


def print_gap(shares: dict[str, Any] | None) -> None:
    """Where log p - elbo goes, and how well log p is known."""
    if not shares:
        return
    told = {
        name: plus_minus(shares[name]["mean_nats"], shares[name]["stderr_nats"])
        for name in ("gap", "family", "amortisation")
    }
    typer.echo(
        f"{'gap':<12} log p − elbo = {told['gap']} nats on {shares['rows']} rows = family {told['family']} + amortisation {told['amortisation']}"
    )
    if shares["unreliable"]:
        typer.echo(
            f"{'':<12} the draws are too few for log p of {shares['unreliable']} of these rows: the family's share is likely larger"
        )
    pair = shares["sandwich"]
    typer.echo(
        f"{'sandwich':<12} on {pair['rows']} rows drawn from the model, annealing from both sides leaves log p open by "
        f"{plus_minus(pair['gap_nats'], pair['stderr_nats'])} nats"
    )


def print_breakdown(summary: dict[str, Any]) -> None:
    """The terms in the unit of the headline, where there are any."""
    dims = real(summary, "dims")
    mass = real(summary, "bits_per_dim") is not None and dims
    scale, unit = (-BITS / dims, "bits/dim") if mass and dims else (1.0, "nats")
    found = {name: real(part(summary, "terms", name), "mean_nats") for name in part(summary, "terms")}
    terms = {name: value for name, value in found.items() if value is not None}
    if not terms:
        return
    parts = " + ".join(f"{name} {value * scale + 0.0:.4f}" for name, value in terms.items())  # no minus zero
    calls = real(part(summary, "diagnostics"), "network_calls_per_example")
    cost = f"; {calls:.0f} network calls an example" if calls else ""
    typer.echo(f"             = {parts} ({unit}; {word(summary, 'of')}{cost})")


def print_weights(diagnostics: dict[str, Any]) -> None:
    """How even the weights of importance sampling are, and how heavy their tail."""
    ess, tail = (part(diagnostics, name) for name in ("ess", "pareto_k"))
    if not ess:
        return
    k = f"; Pareto k̂ {tail['median']:.2f}, at most {tail['max']:.2f}" if real(tail, "max") is not None else ""
    typer.echo(
        f"{'weights':<12} effective sample size of a row {ess['median']:.3g} (median), at least {ess['min']:.3g}{k}"
    )


def print_flow(diagnostics: dict[str, Any]) -> None:
    """How the probability flow was solved, and what its number rests on."""
    moved = real(diagnostics, "halved_tolerance_change_nats")
    if moved is None:
        return
    steps, calls = real(diagnostics, "steps"), part(diagnostics, "network_calls")
    how = (
        f"steps of tolerance {diagnostics['tolerance']:g}"
        if steps is None
        else f"{steps:.0f} equal {plural('step', steps)}"
    )
    rows = diagnostics["pilot_rows"]
    bound = f"; a bound below {diagnostics['settled_below_nats']:.2g}" if "dequantisation" in diagnostics else ""
    typer.echo(
        f"{'solver':<12} {how}, {calls['median']:.0f} network calls a row; {'half the tolerance' if steps is None else 'twice as many'} moves "
        f"log p by {moved:.2g} nats a row, at most {diagnostics['halved_tolerance_change_most_nats']:.2g} ({rows} {plural('row', rows)}{bound})"
    )
    probes, drawn = real(diagnostics, "probes_sd_nats"), diagnostics["repetitions"]
    if probes is not None:
        typer.echo(
            f"{'':<12} {drawn} {plural('repetition', drawn)} a row; the probes of the divergence alone have a standard deviation of {probes:.2g} nats in one"
        )


def print_classes(classification: dict[str, Any] | None) -> None:
    """How well a model of classes tells them, and whether its probabilities hold; nothing where there are none."""
    if classification:
        typer.echo(f"{'classes':<12} {described(classification)}")


def _in_words(summary: dict[str, Any]) -> str:
    bound = word(summary, "kind") == "lower bound"
    known = "whose class is known, and that " if word(summary, "given") == "p(x|y)" else ""
    if word(summary, "measure") == "counting" and real(summary, "missing_cells"):
        what = (
            "Mean log-probability of the observed cells of a test row the model never saw, in nats; higher is better."
        )
        limit = " A bound (≥): the model's true log-probability is at least this." if bound else ""
    elif word(summary, "measure") == "counting":
        what = f"Bits to store one of the {real(summary, 'dims') or 0:.0f} dimensions of a test row {known}the model never saw; lower is better."
        limit = " A bound (≤): the model's true cost is at most this." if bound else ""
    else:
        what = f"Mean log-density of test rows {known}the model never saw, in nats; higher is better."
        limit = " A bound (≥): the model's true log-density is at least this." if bound else ""
    draws = " and random draws" if real(summary, "stderr_monte_carlo_nats") is not None else ""
    return f"{what}{limit} ± is one standard error of the mean: the choice of test rows{draws}."
