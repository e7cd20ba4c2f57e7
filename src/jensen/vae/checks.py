"""What the settings of a VAE may be, one by one and together."""

from collections.abc import Mapping
from typing import Any, get_args

from jensen.bounds.gradients import ESTIMATORS
from jensen.errors import InputError
from jensen.nn.perceptron import Activation
from jensen.vae.posterior import FAMILIES
from jensen.vae.words import SCALES

MOST_LATENTS = 4096
PRIORS = ("normal", "mixture", "vamp", "diffusion")


def check_settings(given: Mapping[str, Any]) -> None:
    """Refuse settings that cannot be, or not together.

    Args:
        given: the constructor's keywords.

    Raises:
        InputError: names the setting, the rule and the value.
    """
    words = {
        "latent_layers": (1, 2),
        "posterior": tuple(FAMILIES),
        "prior": PRIORS,
        "scale": SCALES,
        "network": ("auto", "mlp", "conv"),
        "size": ("auto", "tiny", "small", "base"),
        "activation": get_args(Activation),
        "objective": ("elbo", "iwae"),
        "estimator": ("auto", *ESTIMATORS),
    }
    for name, known in words.items():
        if given[name] not in known:
            raise InputError(f"{name} must be one of {', '.join(map(str, known))}, got {given[name]!r}")
    ranges = {
        "latent_dim": (1, MOST_LATENTS),
        "prior_components": (1, 10_000),
        "n_components": (1, 100),
        "width": (1, 1 << 16),
        "depth": (0, 16),
        "draws": (1, 1000),
        "beta": (0, 1e6),
        "beta_warmup": (0, 1),
        "free_bits": (0, 100),
        "draws_growth": (0, 1),
        "sigma": (1e-3, 1e3),
        "n_classes": (2, 10_000),
    }
    for name, (low, high) in ranges.items():
        if given[name] not in (None, "auto") and not low <= given[name] <= high:
            raise InputError(f"{name} must be from {low:g} to {high:g}, got {given[name]}")
    _check_together(given)


def _check_together(given: Mapping[str, Any]) -> None:
    """Refuse what does not go together."""
    if given["latent_layers"] == 2 and (given["posterior"], given["prior"]) != ("diagonal", "normal"):
        raise InputError(
            "latent_layers=2 goes with posterior=diagonal and prior=normal, got "
            f"posterior={given['posterior']} and prior={given['prior']}; leave them out"
        )
    if given["prior"] == "vamp" and given["posterior"] != "diagonal":
        raise InputError(f"prior=vamp is a mixture of posterior=diagonal, got posterior={given['posterior']}")
    if given["prior"] == "diffusion" and given["objective"] == "iwae":
        raise InputError(
            "prior=diffusion gives a bound on log p(z), which objective=iwae cannot take; take objective=elbo"
        )
    if given["prior"] == "diffusion" and given["estimator"] == "score":
        raise InputError("estimator=score needs log p(z), of which prior=diffusion gives a bound; take reparameterised")
    if given["n_classes"] and given["prior"] == "vamp":
        raise InputError("prior=vamp is a mixture over rows of no class, and does not go with n_classes; take mixture")
    if given["posterior"] == "flow" and given["latent_dim"] == 1:
        raise InputError("posterior=flow needs a latent_dim of at least 2, got 1; take diagonal or full")
    _check_estimator(given)
    if given["objective"] == "elbo" and given["draws_growth"]:
        raise InputError(
            f"draws_growth is for objective=iwae, whose bound depends on the draws, got {given['draws_growth']:g} with elbo"
        )
    if given["draws_growth"] and given["estimator"] == "score":
        raise InputError("estimator=score compares draws, and draws_growth begins with one; leave one of them out")
    odd = {"beta": 1.0, "beta_warmup": 0.0, "free_bits": 0.0}
    wrong = [name for name, plain in odd.items() if given[name] != plain]
    if given["objective"] == "iwae" and wrong:
        raise InputError(
            f"{wrong[0]} weighs a divergence, which objective=iwae has not, got {given[wrong[0]]}; take objective=elbo"
        )


def refuse_idle(given: Mapping[str, Any]) -> None:
    """Refuse what would change nothing.

    Args:
        given: the settings that were asked for, the network and the emission.
    """
    words = str(given["emission"]).split(",")
    located = "normal" in words or "discretised-normal" in words
    needs = {
        "prior_components": (given.get("prior") in ("mixture", "vamp"), "prior=mixture or vamp"),
        "n_components": (any(word.endswith("-mixture") for word in words), "an emission that is a mixture"),
        "rank": (words == ["low-rank"], "emission=low-rank"),
        "scale": (located, "emission=normal or discretised-normal"),
        "sigma": (located, "emission=normal or discretised-normal"),
        "activation": (given["network"] == "mlp" or given.get("latent_layers") == 2, "network=mlp"),
    }
    hidden = given.get("depth") != 0 or given["network"] == "conv" or given.get("latent_layers") == 2
    needs |= {
        "width": (hidden, "depth of at least 1"),
        "size": (not {"width", "depth"} <= set(given), "a network whose width and depth are not both given"),
        "beta_warmup": (given.get("beta") != 0, "beta above 0"),
    }
    needs["activation"] = (needs["activation"][0] and hidden, "network=mlp with hidden layers")
    for name, (used, what) in needs.items():
        if given.get(name, 0) != 0 and not used:
            raise InputError(f"{name} is for {what}, and would change nothing here, got {given[name]}; leave it out")


def default_estimator(objective: str) -> str:
    """Doubly reparameterised for many draws; else the plain one, with the divergence in closed form where there is one."""
    return "dreg" if objective == "iwae" else "reparameterised"


def default_draws(objective: str, estimator: str) -> int:
    """One for the ELBO; as many as compare with each other, where they have to."""
    return 5 if objective == "iwae" else 2 if estimator == "score" else 1


def _check_estimator(given: Mapping[str, Any]) -> None:
    """Refuse an estimator of another objective, and the score where it has no use."""
    objective, estimator, draws = given["objective"], given["estimator"], given["draws"]
    known = {"iwae": ("auto", "reparameterised", "dreg", "score"), "elbo": ("auto", "reparameterised", "stl", "score")}
    if estimator not in known[objective]:
        raise InputError(
            f"estimator of objective={objective} must be one of {', '.join(known[objective])}, got {estimator!r}"
        )
    if estimator == "score" and draws == 1:
        raise InputError("estimator=score compares each draw with the others and needs draws of at least 2, got 1")
    if estimator == "score" and given["free_bits"]:
        raise InputError(
            f"free_bits takes a gradient along the path, got estimator=score with free_bits={given['free_bits']:g}"
        )
    if estimator == "score" and given["posterior"] == "flow":
        raise InputError("estimator=score does not go with posterior=flow; take reparameterised, stl or dreg")
