"""jensen fits generative models to data, says how likely data are under them, and draws new data.

    data = jensen.load_data("digits")
    model = jensen.fit(data, "diffusion", budget="2m", seed=0, run="runs/digits")
    print(model.log_likelihood(data.test))
    new = model.sample(64, seed=0)

Names are loaded when they are first used; importing jensen imports no torch and changes nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "Comparison": "jensen.evaluation.compare",
    "Examples": "jensen.data.examples",
    "InputError": "jensen.errors",
    "Levels": "jensen.data.space",
    "LogLikelihood": "jensen.likelihood",
    "Pipeline": "jensen.models.pipeline",
    "Real": "jensen.data.space",
    "Split": "jensen.data.examples",
    "compare": "jensen.evaluation.compare",
    "fit": "jensen.fitting",
    "fit_mle": "jensen.estimation.mle",
    "fit_variational": "jensen.estimation.variational",
    "load": "jensen.loading",
    "load_data": "jensen.data.sources",
}

__all__ = [
    "Comparison",
    "Examples",
    "InputError",
    "Levels",
    "LogLikelihood",
    "Pipeline",
    "Real",
    "Split",
    "compare",
    "fit",
    "fit_mle",
    "fit_variational",
    "load",
    "load_data",
]

if TYPE_CHECKING:
    from jensen.data.examples import Examples, Split
    from jensen.data.sources import load_data
    from jensen.data.space import Levels, Real
    from jensen.errors import InputError
    from jensen.estimation.mle import fit_mle
    from jensen.estimation.variational import fit_variational
    from jensen.evaluation.compare import Comparison, compare
    from jensen.fitting import fit
    from jensen.likelihood import LogLikelihood
    from jensen.loading import load
    from jensen.models.pipeline import Pipeline


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'jensen' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
