"""A file of weights with the right shapes and impossible values is refused in one line, whatever the model.

The rules themselves are tested on small tensors; the models by a run of each, damaged one number at a time.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import jensen
from jensen import rules
from jensen.__main__ import main
from jensen.data.examples import Split
from jensen.errors import InputError
from jensen.models import MODELS
from jensen.models.pipeline import Pipeline
from jensen.rules import Ruled

NAN, INF = math.nan, math.inf
GOOD_AND_BAD: dict[str, tuple[rules.Rule, list[Any], list[tuple[Any, str]]]] = {
    "finite": (rules.FINITE, [[0.0, -1e308]], [([0.0, NAN], "nan"), ([INF, 0.0], "inf"), ([0.0, -INF], "-inf")]),
    "positive": (rules.POSITIVE, [[1e-300, 1e300]], [([1.0, 0.0], "0"), ([INF], "inf"), ([NAN, 1.0], "nan")]),
    "counts": (rules.COUNTS, [[0.0, 2.5]], [([1.0, -2.0], "-2"), ([INF], "inf")]),
    "whole": (rules.whole(0, 4), [[0.0, 4.0]], [([1.0, 1.5], "1.5"), ([5.0], "5"), ([-1.0], "-1"), ([NAN], "nan")]),
    "probabilities": (
        rules.probabilities(),
        [[[0.0, 1.0], [0.25, 0.75]]],
        [([[0.5, 0.5], [0.5, 0.6]], "a sum of 1.1"), ([[1.5, -0.5]], "-0.5"), ([[0.0, 0.0]], "a sum of 0")],
    ),
    "probabilities in twos": (rules.probabilities(2), [[0.5, 0.5, 0.1, 0.9]], [([0.5, 0.6, 0.5, 0.4], "a sum of 1.1")]),
    "logarithms": (
        rules.log_probabilities(2),
        [[math.log(0.5), math.log(0.5), 0.0, -INF]],
        [([0.0, 0.0], "a sum of 2"), ([NAN, 0.0], "nan"), ([-INF, -INF], "a sum of 0"), ([INF, 0.0], "a sum of inf")],
    ),
    "triangular": (
        rules.LOWER_TRIANGULAR,
        [[[1.0, 0.0], [5.0, 2.0]]],
        [
            ([[1.0, 1.0], [0.0, 1.0]], "numbers above the diagonal"),
            ([[0.0, 0.0], [0.0, 1.0]], "0 on the diagonal"),
            ([[1.0, 0.0], [NAN, 1.0]], "nan"),
        ],
    ),
    "definite": (
        rules.POSITIVE_DEFINITE,
        [[[2.0, 1.0], [1.0, 2.0]], [[[1.0]], [[3.0]]]],
        [
            ([[1.0, 2.0], [2.0, 1.0]], "matrix 0, which is not"),
            ([[[1.0]], [[-3.0]]], "matrix 1, which is not"),
            ([[1.0, 0.5], [0.0, 1.0]], "matrix 0, which is not"),
        ],
    ),
    "rising": (rules.RISING, [[-1.0, 0.0, 5.0]], [([0.0, 2.0, 1.0], "1 behind 2"), ([1.0, 1.0], "1 behind 1")]),
}


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_a_rule_lets_through_what_is_right_and_names_what_is_not(name: str):
    rule, good, bad = GOOD_AND_BAD[name]
    for values in good:
        assert rule.broken(torch.tensor(values, dtype=torch.float64)) is None
    for values, told in bad:
        assert rule.broken(torch.tensor(values, dtype=torch.float64)) == told


def test_many_matrices_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rules, "PIECE", 8)
    many = torch.eye(2).repeat(7, 1, 1)
    assert rules.POSITIVE_DEFINITE.broken(many) is None
    many[5] *= -1
    assert rules.POSITIVE_DEFINITE.broken(many) == "matrix 5, which is not"
    assert rules.whole(0, 9).broken(torch.tensor([0.0] * 9 + [0.5])) == "0.5"


def test_what_has_no_rule_must_be_finite():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    rules.check(net, "here")
    with torch.no_grad():
        net[1].weight[0, 1] = NAN
    with pytest.raises(InputError, match=r"here is damaged: 1\.weight must be finite, got nan; put back a copy"):
        rules.check(net, "here")


def data(kind: str) -> Split:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, 60)
    x = draw.normal(size=(60, 4)) + 1.5 * y[:, None]
    values = x if kind == "real" else np.clip(np.round(x + 2), 0, 4).astype(np.uint8)
    split = jensen.load_data(values, levels=None if kind == "real" else 5)
    from dataclasses import replace

    codes = torch.from_numpy(y)
    parts = {p: replace(getattr(split, p), context=codes[getattr(split, p).id]) for p in ("train", "valid", "test")}
    return replace(split, **parts)


NETWORK = {"steps": 2, "batch_size": 8, "precision": "float32"}
WORDS: dict[str, tuple[str, str, dict[str, Any]]] = {  # a run of every kind that keeps numbers: word, data, settings
    "independent": ("independent", "real", {}),
    "independent levels": ("independent", "levels", {}),
    "bayes-net": ("bayes-net", "levels", {}),
    "gaussian": ("gaussian", "real", {}),
    "gaussian levels": ("gaussian", "levels", {}),
    "gmm full": ("gmm", "real", {"n_components": 2, "covariance": "full"}),
    "gmm tied": ("gmm", "real", {"n_components": 2, "covariance": "tied"}),
    "gmm diag": ("gmm", "levels", {"n_components": 2, "covariance": "diag"}),
    "gmm spherical": ("gmm", "real", {"n_components": 2, "covariance": "spherical"}),
    "gmm factors": ("gmm", "real", {"n_components": 2, "covariance": "factors", "rank": 1}),
    "kde": ("kde", "real", {"rows": 20}),
    "kde levels": ("kde", "levels", {"rows": 20}),
    "hmm": ("hmm", "real", {"n_states": 2, "restarts": 1}),
    "hmm mixture": ("hmm", "real", {"n_states": 2, "restarts": 1, "emission": "mixture", "covariance": "full"}),
    "hmm levels": ("hmm", "levels", {"n_states": 2, "restarts": 1}),
    "jittered": ("jittered", "real", {"rows": 5}),
    "jittered levels": ("jittered", "levels", {"rows": 5}),
    "naive-bayes gaussian": ("naive-bayes", "real", {}),
    "naive-bayes mixture": ("naive-bayes", "real", {"family": "mixture"}),
    "naive-bayes kde": ("naive-bayes", "real", {"family": "kde", "rows": 40}),
    "naive-bayes categorical": ("naive-bayes", "levels", {}),
    "naive-bayes poisson": ("naive-bayes", "levels", {"family": "poisson"}),
    "ar": ("ar", "real", {**NETWORK, "size": "tiny"}),
    "ar levels": ("ar", "levels", {**NETWORK, "size": "tiny"}),
    "flow": ("flow", "real", {**NETWORK, "layers": 2, "width": 8, "depth": 1, "bins": 4}),
    "ppca": ("ppca", "real", {"n_components": 2}),
    "ppca levels": ("ppca", "levels", {"n_components": 1}),
    "vae": ("vae", "real", {**NETWORK, "latent_dim": 2, "width": 8, "depth": 1, "scale": "fixed", "sigma": 0.5}),
    "vae levels": ("vae", "levels", {**NETWORK, "latent_dim": 2, "width": 8, "depth": 1, "prior": "mixture"}),
    "vae flow": (
        "vae",
        "real",
        {**NETWORK, "latent_dim": 2, "width": 8, "depth": 1, "posterior": "flow", "scale": "optimal"},
    ),
    "autoencoder": ("autoencoder", "real", {**NETWORK, "latent_dim": 2, "width": 8, "depth": 1}),
    "gan": ("gan", "real", {**NETWORK, "latent_dim": 2, "width": 8, "depth": 1}),
    "diffusion": ("diffusion", "real", {**NETWORK, "network": "mlp", "size": "tiny", "timesteps": 5}),
    "diffusion levels": ("diffusion", "levels", {**NETWORK, "network": "mlp", "size": "tiny", "timesteps": 5}),
}


@cache
def fitted(what: str) -> Pipeline:
    word, kind, settings = WORDS[what]
    return jensen.fit(data(kind), word, progress=False, **settings)


def damaged(what: str, folder: Path, name: str, change: Callable[[Tensor], Any]) -> Path:
    """A saved run in which one tensor was changed in place."""
    fitted(what).save(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors[name])
    save_file(tensors, path)
    return folder


def put(place: Any, value: float) -> Callable[[Tensor], Any]:
    return lambda t: t.__setitem__(place, value)


def test_every_model_word_has_its_row():
    assert {word for word, *_ in WORDS.values()} == set(MODELS)


@pytest.mark.parametrize("what", WORDS)
def test_every_number_that_is_kept_has_a_rule(what: str):
    for module in fitted(what).model.modules():
        kept = set(dict(module.named_buffers(recurse=False))) - module._non_persistent_buffers_set
        ruled = set(module.rules()) if isinstance(module, Ruled) else set()
        assert kept <= ruled, f"{type(module).__name__}: {kept - ruled} without a rule"
        assert ruled <= kept | set(dict(module.named_parameters(recurse=False))), "rules of what is not there"


@pytest.mark.parametrize("what", WORDS)
def test_what_a_fit_leaves_keeps_the_rules_and_nan_does_not(what: str, tmp_path: Path):
    model = fitted(what).model
    fitted(what).save(tmp_path)
    loaded = jensen.load(tmp_path).model.state_dict()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.items())
    path = tmp_path / "model.safetensors"
    good = load_file(path)
    for name, tensor in good.items():
        if tensor.is_floating_point() and tensor.numel():
            bad = {**good, name: tensor.clone()}
            bad[name].view(-1)[-1] = NAN
            save_file(bad, path)
            with pytest.raises(InputError, match=rf"model\.safetensors' is damaged: {name} must be .*, got .*nan; put"):
                jensen.load(tmp_path)


DAMAGE: list[tuple[str, str, Callable[[Tensor], Any], str]] = [
    ("independent", "variance", put(1, 0.0), "positive and finite, got 0"),
    ("independent", "mean", put(1, INF), "finite, got inf"),
    ("independent levels", "counts", put((0, 0), -1.0), "from 0 to 1e100, got -1"),
    ("bayes-net", "table", put(0, 0.5), "logarithms of probabilities with sum 1, got a sum of"),
    ("gaussian", "factor", put((0, 0), 0.0), "a positive diagonal, got 0 on the diagonal"),
    ("gaussian", "factor", put((0, 1), 9.0), "lower triangular .*, got numbers above the diagonal"),
    ("gaussian", "shrinkage", lambda t: t.fill_(-2.0), "from 0 to 1, got -2"),
    ("gaussian levels", "model.factor", put((1, 1), -1.0), "a positive diagonal, got -1 on the diagonal"),
    ("gmm full", "weights", put(0, -0.25), "at least 0, with sum 1, got -0.25"),
    ("gmm full", "weights", put(0, 0.75), "with sum 1, got a sum of"),
    ("gmm full", "spread_covariances", put((1, 2, 2), -1.0), "positive definite, got matrix 1, which is not"),
    ("gmm full", "spread_covariances", put((0, 0, 1), 40.0), "symmetric .*, got matrix 0, which is not"),
    ("gmm tied", "spread_covariance", put((0, 0), 0.0), "positive definite, got matrix 0, which is not"),
    ("gmm diag", "model.spread_variances", put((1, 2), 0.0), "positive and finite, got 0"),
    ("gmm spherical", "spread_variances", put((1, 0), -3.0), "positive and finite, got -3"),
    ("gmm factors", "spread_noise", put((1, 0), -3.0), "positive and finite, got -3"),
    ("gmm factors", "spread_loadings", put((1, 0, 0), INF), "finite, got inf"),
    ("vae", "weight.now", lambda t: t.fill_(-1.0), "from 0 to 1e6, got -1"),
    ("vae", "parts.emission.observed.spreads.0.log_scale", lambda t: t.fill_(99.0), "from -80 to 80, got 99"),
    ("autoencoder", "code_factor", put((0, 1), 2.0), "lower triangular .*, got numbers above the diagonal"),
    ("ppca", "noise", lambda t: t.fill_(0.0), "positive and finite, got 0"),
    ("ppca levels", "model.loadings", put((1, 0), INF), "finite, got inf"),
    ("kde", "bandwidths", put(0, 0.0), "positive and finite, got 0"),
    ("kde", "log_weights", put(0, 1.0), "logarithms of probabilities with sum 1, got a sum of"),
    ("kde", "log_weights", put(0, -INF), "finite, .* got -inf"),
    ("kde levels", "stored", put((3, 1), 5.0), "a whole number from 0 to 4, got 5"),
    ("kde levels", "stored", put((3, 1), -1.0), "a whole number from 0 to 4, got -1"),
    ("kde levels", "stored", put((3, 1), 1.5), "a whole number from 0 to 4, got 1.5"),
    ("hmm", "initial", put(0, -1.0), "at least 0, with sum 1, got -1"),
    ("hmm", "transitions", lambda t: t.zero_(), "with sum 1, got a sum of 0"),
    ("hmm", "emission_spread_variances", put((0, 0), -1.0), "positive and finite, got -1"),
    ("hmm", "emission_weights", put(0, 2.0), "with sum 1, got 2"),
    ("hmm mixture", "emission_weights", lambda t: t.fill_(0.25), "with sum 1, got a sum of 0.5"),
    ("hmm mixture", "emission_spread_covariances", lambda t: t.zero_(), "definite, got matrix 0, which is not"),
    ("hmm levels", "emission_probabilities", put((0, 0, 0), 0.99), "with sum 1, got a sum of"),
    ("jittered", "stored", put((0, 0), INF), "finite, got inf"),
    ("jittered levels", "stored", put((0, 0), 1e9), r"a whole number from 0 to 4, got 1e\+09"),
    ("naive-bayes gaussian", "weights", lambda t: t.fill_(0.9), "with sum 1, got a sum of 1.8"),
    ("naive-bayes gaussian", "product.families.gaussian.variance", put((0, 0), -1.0), "positive and finite, got -1"),
    ("naive-bayes mixture", "product.families.mixture.weights", put((0, 0, 0), 7.0), "with sum 1, got 7"),
    ("naive-bayes mixture", "product.families.mixture.variances", put((0, 0, 0), 0.0), "positive and finite, got 0"),
    ("naive-bayes kde", "product.families.kde.count", put((0, 0), -5), "a whole number from 1 to 28, got -5"),
    ("naive-bayes kde", "product.families.kde.count", put((0, 0), 0), "a whole number from 1 to 28, got 0"),
    ("naive-bayes kde", "product.families.kde.count", put((0, 0), 29), "a whole number from 1 to 28, got 29"),
    ("naive-bayes kde", "product.families.kde.stored", put((slice(None), 0, 0), INF), r"\+inf behind, got inf"),
    ("naive-bayes kde", "product.families.kde.stored", put((slice(None), 0, 27), 0.5), r"\+inf behind, got 0.5"),
    ("naive-bayes kde", "product.families.kde.bandwidth", put((0, 0), 0.0), "positive and finite, got 0"),
    ("naive-bayes categorical", "product.families.categorical.counts", put((0, 0, 0), -3.0), "1e100, got -3"),
    ("naive-bayes poisson", "product.families.poisson.log_rate", put((0, 0), 1e300), r"-1e4 to 1e4, got 1e\+300"),
    ("flow", "map.maps.0.matrix", put((0, 1), 1.0), "triangular .*, got numbers above the diagonal"),
    ("flow", "map.maps.0.matrix", put((0, 0), -1.0), "a positive diagonal, got -1 on the diagonal"),
    ("flow", "map.maps.2.numbers", put((0, 0), 1e30), r"within ±80 on the diagonal, got 1e\+30"),
    ("diffusion", "reverse.variance.log_error", put(0, 1e6), r"from -80 to 80, got 1e\+06"),
    ("diffusion", "reverse.variance.log_snr", lambda t: t.copy_(t.flip(0)), "each above the one before, got"),
    ("diffusion", "reverse.emission.log_scale", lambda t: t.fill_(800.0), "from -80 to 80, got 800"),
    ("diffusion", "proposal", lambda t: t.zero_(), "positive and finite, .*, got 0"),
    ("diffusion levels", "reverse.denoiser.head.values", lambda t: t.zero_(), "each above the one before, got 0"),
]


def test_a_stored_row_beyond_all_bandwidths_is_refused(tmp_path: Path):
    run = damaged("kde", tmp_path / "bad", "bandwidths", put(2, 1e-300))
    with pytest.raises(InputError, match=r"stored must be finite, within 1e\+100 bandwidths of 0, got column 2"):
        jensen.load(run)


@pytest.mark.parametrize(("what", "name", "change", "message"), DAMAGE)
def test_impossible_values_are_refused(
    what: str, name: str, change: Callable[[Tensor], Any], message: str, tmp_path: Path
):
    run = damaged(what, tmp_path / "bad", name, change)
    with pytest.raises(InputError, match=rf"bad/model\.safetensors' is damaged: {name} must be .*{message}") as error:
        jensen.load(run)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("; put back a copy of it, or fit again with --overwrite")


def test_the_command_line_refuses_them_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = damaged("kde levels", tmp_path / "bad", "stored", put((0, 0), 1e9))
    np.save(tmp_path / "rows.npy", np.zeros((3, 4), np.uint8))
    for command in (
        ["evaluate", str(run), str(tmp_path / "rows.npy")],
        ["sample", str(run), "-n", "2", "-o", str(tmp_path / "x.npy")],
    ):
        assert main(command) == 2
        told = capsys.readouterr()
        assert not told.out
        assert "stored must be a whole number from 0 to 4, got 1e+09" in told.err
        assert "Traceback" not in told.err
