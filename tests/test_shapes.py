"""Shapes are types: under pytest a call whose tensors do not fit its annotations raises.

pyproject.toml names the packages that are checked (`--jaxtyping-packages`); elsewhere annotations are documentation.
"""

from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch

from jensen.bounds import elbo
from jensen.data.space import Real
from jensen.diffusion.emission import Emission
from jensen.diffusion.likelihood import proposal_from
from jensen.diffusion.parametrisation import Eps
from jensen.diffusion.process import diffuse, expand
from jensen.diffusion.schedule import Betas
from jensen.diffusion.solvers.ancestral import Ancestral
from jensen.distributions.discretised import DiscretisedNormal
from jensen.importance import log_evidence
from jensen.likelihood import LogLikelihood
from jensen.noise import Noise

ROWS, THREE = torch.zeros(3, 2), torch.zeros(3, dtype=torch.float64)


def scored(**other: Any) -> LogLikelihood:
    known: dict[str, Any] = {"value": THREE, "stderr": THREE, "terms": {"all": THREE}}
    return LogLikelihood(
        kind="exact", measure="Lebesgue", of="a test", method="exact", event_shape=(2,), **{**known, **other}
    )


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "noise of another shape": (lambda: diffuse(ROWS, torch.zeros(3, 1), THREE), "eps"),
    "a level too few": (lambda: diffuse(ROWS, ROWS, THREE[:2]), "log_snr"),
    "a level too few, alone": (lambda: expand(THREE[:2], ROWS), "x"),
    "whole numbers": (lambda: diffuse(ROWS.long(), ROWS, THREE), "x_0"),
    "a matrix of levels": (lambda: Eps().coefficients(torch.zeros(3, 1)), "log_snr"),
    "an output of another shape": (lambda: Eps().denoised(torch.zeros(3, 4), ROWS, THREE), "x_t"),
    "a matrix of betas": (lambda: Betas(torch.full((2, 2), 0.1)), "betas"),
    "a matrix of sizes": (lambda: proposal_from(ROWS), "root_mean_square"),
    "ids that are no whole numbers": (lambda: Ancestral().init(THREE, (2,), Noise(0)), "ids"),
    "a mean of another shape": (lambda: Emission(Real(), 1.0).calibrate(ROWS, ROWS.T), "denoised"),
    "a scale that does not broadcast": (
        lambda: DiscretisedNormal(ROWS, torch.ones(4), first=0.0, step=1.0, k=3),
        "scale",
    ),
    "one draw's weights": (lambda: log_evidence(THREE), "log_w"),
    "text for rows": (lambda: elbo(None, None, None, "x"), "prior"),  # type: ignore[arg-type]
    "an error too few": (lambda: scored(stderr=THREE[:2]), "stderr"),
    "a term too few": (lambda: scored(terms={"all": THREE[:2]}), "terms"),
    "a column of values": (lambda: scored(value=THREE[:, None]), "value"),
    "values in float32": (lambda: scored(value=THREE.float()), "value"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_shape_is_named(what: str):
    call, argument = WRONG[what]
    with pytest.raises(jaxtyping.TypeCheckError, match=f"parameter '{argument}'"):
        call()


def test_right_shapes_pass():
    assert diffuse(ROWS, ROWS, THREE).shape == ROWS.shape
    assert len(scored()) == 3
