"""The pictures of estimation show numbers that can be computed: tops, parabolas, drops and gaps."""

import math

import numpy as np
import pytest
import torch

from jensen.errors import InputError
from jensen.estimation.mle import fit_mle
from jensen.evaluation.estimates import DROP, inequality_figure, surface_figure
from jensen.evaluation.figures import DARK, figure_png

F64 = torch.float64
WAITS = np.random.default_rng(0).exponential(2.0, 50)


def test_a_curve_is_the_log_likelihood_with_its_parabola():
    """Exponential: ℓ(λ) = n log λ - λ Σx; at λ̂ = 1/x̄ the curvature is -n/λ̂²."""
    fit = fit_mle("exponential", WAITS)
    curve, parabola, drop, top = surface_figure(fit).axes[0].lines[:4]
    rate, best = np.asarray(curve.get_xdata()), 1 / WAITS.mean()
    expected = 50 * np.log(rate / best) - (rate - best) * WAITS.sum()
    np.testing.assert_allclose(curve.get_ydata(), expected, atol=1e-9)
    np.testing.assert_allclose(parabola.get_ydata(), -0.5 * 50 / best**2 * (rate - best) ** 2, rtol=1e-9, atol=1e-12)
    assert np.ravel(drop.get_ydata())[0] == pytest.approx(-1.9207, abs=1e-3)
    assert (float(top.get_xdata()[0]), float(top.get_ydata()[0])) == pytest.approx((best, 0.0))


def test_drops_are_half_chi_squares():
    from scipy import stats

    assert DROP[1][0] == pytest.approx(stats.chi2(1).ppf(0.95) / 2, abs=1e-3)
    assert DROP[2][1] == pytest.approx(stats.chi2(2).ppf(0.95) / 2, abs=1e-3)
    assert DROP[2][0] == pytest.approx(stats.chi2(2).ppf(0.6837) / 2, abs=1e-3)


def test_contours_are_where_the_log_likelihood_has_fallen():
    """On the normal's 95 % contour ℓ lies 2.996 nats below its top."""
    x = np.random.default_rng(1).normal(3.0, 2.0, 40)
    fit = fit_mle("normal", x)
    axes = surface_figure(fit).axes[0]
    outline = axes.collections[0].get_paths()[0].vertices
    loc, scale = outline[:, 0], outline[:, 1]
    value = -40 * np.log(scale) - ((x[:, None] - loc) ** 2).sum(0) / (2 * scale**2)
    top = -40 * math.log(x.std()) - 20
    np.testing.assert_allclose(value - top, -2.996, atol=0.03)
    assert axes.get_xlabel() == "loc"


def test_pictures_are_the_same_bytes_every_time():
    fit = fit_mle("gamma", WAITS)
    assert figure_png(surface_figure(fit, theme=DARK)) == figure_png(surface_figure(fit, theme=DARK))
    assert surface_figure(fit, ("rate",)).axes[0].get_xlabel() == "rate"


def test_pictures_without_content_are_refused():
    with pytest.raises(InputError, match="'uniform' has no standard errors"):
        surface_figure(fit_mle("uniform", WAITS))
    with pytest.raises(InputError, match="one or two parameters, got 3"):
        surface_figure(fit_mle("gamma", WAITS), ("rate", "rate", "rate"))
    with pytest.raises(InputError, match="every value is 2"):
        inequality_figure(torch.log, torch.tensor([2.0, 2.0], dtype=F64))


def test_the_gap_is_drawn_at_the_mean():
    x, p = torch.tensor([0.5, 2.0, 6.0], dtype=F64), torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    axes = inequality_figure(torch.log, x, p, name="log").axes[0]
    curve, gap, above, below = axes.lines[:4]
    mean = 0.5 * 0.5 + 0.3 * 2 + 0.2 * 6
    values = 0.5 * math.log(0.5) + 0.3 * math.log(2) + 0.2 * math.log(6)
    assert gap.get_ydata() == pytest.approx([values, math.log(mean)])
    assert float(above.get_ydata()[0]) == pytest.approx(math.log(mean))
    assert float(below.get_ydata()[0]) == pytest.approx(values)
    np.testing.assert_allclose(curve.get_ydata(), np.log(curve.get_xdata()))
