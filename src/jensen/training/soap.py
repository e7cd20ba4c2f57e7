"""SOAP: Adam in the eigenbasis of Shampoo's preconditioners (Vyas et al. 2024, algorithm 3).

For a weight matrix with gradient G, running means L of G Gᵀ and R of Gᵀ G and their eigenvectors Q_L, Q_R,

    G' = Q_Lᵀ G Q_R,   W ← W - η Q_L [ M / (√V + ε) ] Q_Rᵀ,   M the mean of G', V that of G'²

Adam takes each number of W for itself; here those directions are that go together. The basis is kept up by one step of orthogonal
iteration, Q ← qr(L Q), every few steps, and M turns with it. A side of more than `WIDEST` keeps the identity, since its basis would
cost more than a step of a small network; vectors and tensors of more dimensions are Adam's.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

WIDEST, EVERY = 256, 10  # the largest side that has a basis; steps between two of them
MEMORY = 0.98  # of the preconditioners
SIDES = ("left", "right")


class SOAP(torch.optim.Optimizer):
    """Steps in the eigenbasis of the gradients' second moments.

    Args:
        params: what to train.
        lr: learning rate.
        betas: of the mean gradient and of its squares.
        eps: ε.
        weight_decay: decoupled, as AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step by the gradients that are there."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._take(weight, weight.grad, group)

    def _take(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[weight], group["betas"]
        if not state:
            state |= _begun(weight)
        state["step"] += 1
        step = int(state["step"])
        _keep_up(state, gradient, step)
        turned = _into(gradient, state)
        state["mean"].lerp_(turned, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(turned, turned, value=1 - beta2)
        scale = (state["square"] / (1 - beta2**step)).sqrt_().add_(group["eps"]).mul_(1 - beta1**step)
        move = _back(state["mean"] / scale, state)
        weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(move, alpha=-group["lr"])


def _begun(weight: Tensor) -> dict[str, Tensor]:
    """No steps yet."""
    state = {"step": torch.zeros(()), "mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
    if weight.ndim == 2:
        for side, size in zip(SIDES, weight.shape, strict=True):
            if size <= WIDEST:
                state[f"{side}_moment"], state[f"{side}_basis"] = (
                    weight.new_zeros(size, size),
                    torch.eye(size).to(weight),
                )
    return state


def _keep_up(state: dict[str, Tensor], gradient: Tensor, step: int) -> None:
    """The preconditioners and, every few steps, their bases."""
    for side, product in zip(SIDES, (lambda g: g @ g.T, lambda g: g.T @ g), strict=True):
        if f"{side}_moment" not in state:
            continue
        moment, basis = state[f"{side}_moment"], state[f"{side}_basis"]
        moment.lerp_(product(gradient), 1 - MEMORY)
        if step == 1:
            basis.copy_(torch.linalg.eigh(moment).eigenvectors.flip(1))
        elif step % EVERY == 0:
            mean = _back(state["mean"], state)
            basis.copy_(torch.linalg.qr(moment @ basis).Q)
            state["mean"].copy_(_into(mean, state))


def _into(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Q_Lᵀ x Q_R."""
    left, right = (state.get(f"{side}_basis") for side in SIDES)
    x = x if left is None else left.T @ x
    return x if right is None else x @ right


def _back(x: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Q_L x Q_Rᵀ."""
    left, right = (state.get(f"{side}_basis") for side in SIDES)
    x = x if left is None else left @ x
    return x if right is None else x @ right.T
