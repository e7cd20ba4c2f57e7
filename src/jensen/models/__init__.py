"""Model families. `MODELS` is the table from the word on the command line to the class."""

from importlib import import_module

from jensen.errors import InputError, did_you_mean
from jensen.models.model import Model

MODELS: dict[str, str] = {
    "diffusion": "jensen.models.ddpm:DDPM",
    "ar": "jensen.models.ar:Autoregressive",
    "flow": "jensen.models.flow:Flow",
    "gmm": "jensen.models.gmm:GaussianMixture",
    "kde": "jensen.models.kde:KernelDensity",
    "hmm": "jensen.models.hmm:HiddenMarkov",
    "naive-bayes": "jensen.models.naive_bayes:NaiveBayes",
    "bayes-net": "jensen.models.bayes_net:BayesNet",
    "vae": "jensen.models.vae:VAE",
    "autoencoder": "jensen.models.autoencoder:Autoencoder",
    "ppca": "jensen.models.ppca:PPCA",
    "gan": "jensen.models.gan:GAN",
    "gaussian": "jensen.models.gaussian:Gaussian",
    "independent": "jensen.models.independent:Independent",
    "jittered": "jensen.models.jittered:Jittered",
}


def model_class(word: str) -> type[Model]:
    """The class a word stands for; an unknown word is an `InputError` that names the known ones."""
    if word not in MODELS:
        raise InputError(f"unknown model {word!r}; {did_you_mean(word, MODELS)}known models are {', '.join(MODELS)}")
    module, _, name = MODELS[word].partition(":")
    found = getattr(import_module(module), name)
    assert issubclass(found, Model)
    return found
