"""SOAP: Adam for vectors, the same steps in any orthogonal basis for matrices, and exact resume."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import jensen
from jensen.data.examples import Examples
from jensen.data.space import Real
from jensen.errors import InputError
from jensen.models.vae import VAE
from jensen.training.device import Precision
from jensen.training.fitter import Fitter, TrainingSettings
from jensen.training.soap import EVERY, SOAP

F64 = torch.float64


def orthogonal(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=F64, generator=torch.Generator().manual_seed(seed)))[0]


def trained(left: Tensor, right: Tensor, kind: type[torch.optim.Optimizer], steps: int = 57) -> Tensor:
    """An uneven least-squares problem in U W V, trained in W; what it has come to in U W V."""
    generator = torch.Generator().manual_seed(0)
    a, y = (torch.randn(40, 6, dtype=F64, generator=generator) for _ in range(2))
    weight = (left.T @ torch.ones(6, 6, dtype=F64) @ right.T).requires_grad_()
    optimizer = kind([weight], lr=0.05, betas=(0.9, 0.99))  # type: ignore[call-arg]
    for _ in range(steps):
        loss = ((a @ (left @ weight @ right) - y).square() * torch.linspace(1, 100, 6)).sum() / 40
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (left @ weight @ right).detach()


def test_steps_do_not_depend_on_the_basis():
    """Adam's do."""
    plain, turned = torch.eye(6, dtype=F64), (orthogonal(6, 1), orthogonal(6, 2))
    assert float((trained(plain, plain, SOAP) - trained(*turned, SOAP)).abs().max()) < 1e-3
    assert float((trained(plain, plain, torch.optim.Adam) - trained(*turned, torch.optim.Adam)).abs().max()) > 0.1


@pytest.mark.parametrize("shape", [(7,), (300, 300), (2, 3, 4)])
def test_without_a_basis_it_is_adamw(shape: tuple[int, ...]):
    """Vectors, tensors of more dimensions, and matrices too wide for a basis."""
    start = torch.randn(shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    ends = []
    for kind in (SOAP, torch.optim.AdamW):
        weight = start.clone().requires_grad_()
        optimizer = kind([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.01)
        for _ in range(20):
            optimizer.zero_grad()
            weight.pow(4).sum().backward()
            optimizer.step()
        ends.append(weight.detach())
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


def test_the_basis_is_that_of_the_second_moment():
    """Gradients of a fixed covariance: the basis makes their second moment diagonal."""
    generator = torch.Generator().manual_seed(0)
    root = orthogonal(5, 3) * torch.tensor([10.0, 5.0, 2.0, 1.0, 0.5], dtype=F64)
    weight = torch.zeros(5, 8, dtype=F64, requires_grad=True)
    optimizer = SOAP([weight], lr=1e-3)
    for _ in range(400):
        weight.grad = root @ torch.randn(5, 8, dtype=F64, generator=generator)
        optimizer.step()
    state = optimizer.state[weight]
    basis = state["left_basis"]
    torch.testing.assert_close(basis.T @ basis, torch.eye(5, dtype=F64))
    turned = basis.T @ state["left_moment"] @ basis
    assert float((turned - turned.diagonal().diag()).abs().max()) < 0.1 * float(turned.diagonal().max())


def test_the_mean_turns_with_the_basis():
    """Turned back, it is the running mean of the gradients, after 3 changes of basis."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(5, 8, dtype=F64, requires_grad=True)
    optimizer, mean = SOAP([weight], lr=1e-3), torch.zeros(5, 8, dtype=F64)
    for _ in range(33):
        weight.grad = torch.randn(5, 8, dtype=F64, generator=generator)
        mean.lerp_(weight.grad, 0.1)
        optimizer.step()
    state = optimizer.state[weight]
    assert int(state["step"]) > 3 * EVERY
    torch.testing.assert_close(state["left_basis"] @ state["mean"] @ state["right_basis"].T, mean)


def test_it_goes_on_from_its_state_to_the_same_bits():
    rows = Examples(torch.randn(32, 12, generator=torch.Generator().manual_seed(0)), torch.arange(32))

    def begun() -> Fitter:
        torch.manual_seed(0)
        model = VAE((12,), Real(), latent_dim=3, network="mlp", width=16, depth=1)
        settings = TrainingSettings(batch_size=32, optimizer="soap")
        return model.fitter(settings, Precision("float32", ""), steps=40, held_out=rows, seed=0)

    whole, first, second = begun(), begun(), begun()
    batch = rows.batch(slice(None))
    for number in range(25):
        whole.step(number, batch)
    for number in range(12):
        first.step(number, batch)
    second.load_state(first.state())
    for number in range(12, 25):
        second.step(number, batch)
    ends = (whole.state().tensors, second.state().tensors)
    assert ends[0].keys() == ends[1].keys()
    assert any("left_basis" in name for name in ends[0])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_gan_has_no_use_for_it(tmp_path: Path):
    rows = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).numpy()
    with pytest.raises(InputError, match="optimizer=soap is for models with one objective"):
        jensen.fit(rows, "gan", steps=2, optimizer="soap", progress=False, run=tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a refused setting takes no folder"
    with pytest.raises(InputError, match="optimizer must be"):
        jensen.fit(rows, "vae", steps=2, optimizer="sopa", progress=False)
