"""Model families. `MODELS` is the table from the word on the command line to the class."""

from importlib import import_module

from jensen.errors import InputError, did_you_mean
from jensen.models.model import Model

MODELS: dict[str, str] = {
    "flow": "jensen.models.flow:Flow",
    "diffusion": "jensen.models.ddpm:DDPM",
    "ar": "jensen.models.ar:Autoregressive",
    "gmm": "jensen.models.gmm:GaussianMixture",
    "bayes-net": "jensen.models.bayes_net:BayesNet",
    "gaussian": "jensen.models.gaussian:Gaussian",
    "independent": "jensen.models.independent:Independent",
    "kde": "jensen.models.kde:KernelDensity",
    "jittered": "jensen.models.jittered:Jittered",
    "naive-bayes": "jensen.models.naive_bayes:NaiveBayes",
}


def model_class(word: str) -> type[Model]:
    """The class a word stands for; an unknown word is an `InputError` that names the known ones."""
    if word not in MODELS:
        raise InputError(f"unknown model {word!r}; {did_you_mean(word, MODELS)}known models are {', '.join(MODELS)}")
    module, _, name = MODELS[word].partition(":")
    found = getattr(import_module(module), name)
    assert issubclass(found, Model)
    return found
