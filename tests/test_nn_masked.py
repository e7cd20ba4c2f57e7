"""Masked networks: the Jacobian is zero exactly where the order says so, and going in order is the inverse of a pass."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from jensen.errors import InputError
from jensen.nn.masked import Masked, MaskedLinear


def generic(*args: object, **options: object) -> Masked:
    """A network in float64 with all weights random, seed 0: none is zero by accident or by initialisation."""
    network = Masked(*args, **options).double().eval()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(
                torch.randn(weight.shape, generator=generator, dtype=torch.float64) / math.sqrt(weight[0].numel() + 1)
            )
    return network


def jacobian(network: Masked, x: Tensor, context: Tensor | None = None) -> Tensor:
    """|∂ output_d / ∂ input_e|, largest over outputs and rows: (dims, dims)."""
    full = torch.func.jacrev(lambda rows: network(rows, context))(x)  # (B, D, out, B, D)
    return torch.einsum("bdoBe->de", full.abs()).detach()


ORDERS = {"as they come": [0, 1, 2, 3, 4], "backwards": [4, 3, 2, 1, 0], "mixed": [3, 0, 4, 1, 2]}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("width", [1, 3, 4, 7, 32])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_an_output_depends_on_all_inputs_before_it_and_on_no_other(
    order: str, depth: int, width: int, context_dim: int
):
    network = generic(5, 3, width, depth, ORDERS[order], context_dim)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    context = torch.ones(4, 2, dtype=torch.float64) if context_dim else None
    found = jacobian(network, x, context)
    place = {d: r for r, d in enumerate(ORDERS[order])}
    for d, e in itertools.product(range(5), repeat=2):
        assert (float(found[d, e]) > 1e-9) == (place[e] < place[d]), (d, e)


@pytest.mark.parametrize("groups", [[[0, 2, 4], [1, 3]], [[1], [0, 3, 4], [2]], [[0, 1, 2, 3, 4]]])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_dimensions_at_one_place_do_not_see_each_other(groups: list[list[int]], context_dim: int):
    """And going by place sees what a pass sees, all dimensions of a place at once."""
    network = generic(5, 3, 7, 2, groups, context_dim)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    context = torch.ones(4, 2, dtype=torch.float64) if context_dim else None
    found = jacobian(network, x, context)
    place = {d: r for r, group in enumerate(groups) for d in group}
    for d, e in itertools.product(range(5), repeat=2):
        assert (float(found[d, e]) > 1e-9) == (place[e] < place[d]), (d, e)
    out, asked = network(x, context), []

    def choose(group: list[int], outputs: Tensor) -> Tensor:
        asked.append(group)
        torch.testing.assert_close(outputs, out[:, group], rtol=0, atol=1e-12)
        return x[:, group]

    assert torch.equal(network.by_place(choose, 4, context), x)
    assert asked == groups


def test_rows_do_not_see_each_other():
    network = generic(3, 2, 8, 1)
    full = torch.func.jacrev(network)(torch.ones(2, 3, dtype=torch.float64))
    assert float(full[0, :, :, 1].abs().max()) == 0.0


@pytest.mark.parametrize("dims", [1, 4])
def test_every_output_sees_the_context(dims: int):
    """The first output too, and not only linearly: its slope changes along the context."""
    network = generic(dims, 2, 9, 2, None, 3)
    x = torch.zeros(1, dims, dtype=torch.float64)
    slopes = [
        torch.func.jacrev(lambda c: network(x, c))(torch.full((1, 3), at, dtype=torch.float64)) for at in (-1.0, 1.0)
    ]
    assert float(slopes[0].abs().min()) > 1e-9
    assert float((slopes[0] - slopes[1]).abs().min()) > 1e-9


def test_no_context_counts_as_zero():
    network, x = generic(3, 2, 9, 1, None, 2), torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(network(x), network(x, torch.zeros(2, 2, dtype=torch.float64)))
    assert not torch.equal(network(x), network(x, torch.ones(2, 2, dtype=torch.float64)))


def test_one_dimension_puts_out_constants():
    network = generic(1, 4, 5, 1)
    out = network(torch.tensor([[-3.0], [8.0]], dtype=torch.float64))
    assert torch.equal(out[0], out[1])
    assert out.shape == (2, 1, 4)


def test_it_starts_at_zero():
    torch.manual_seed(0)
    assert float(Masked(4, 3, 16, 2, context_dim=2)(torch.randn(5, 4), torch.randn(5, 2)).abs().max()) == 0.0


@pytest.mark.parametrize("inputs", [1, 3])
@pytest.mark.parametrize("context_dim", [0, 2])
@pytest.mark.parametrize(("dims", "width"), [(1, 4), (6, 2), (6, 20)])
def test_going_in_order_sees_what_a_pass_sees(dims: int, width: int, context_dim: int, inputs: int):
    """Each choice is a function of the outputs; a pass over what was chosen gives the same outputs, to 1e-12."""
    order = torch.randperm(dims, generator=torch.Generator().manual_seed(2)).tolist()
    network = generic(dims, 3, width, 2, order, context_dim, inputs_per_dim=inputs)
    context = (
        torch.randn(7, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64) if context_dim else None
    )
    seen: dict[int, Tensor] = {}

    def choose(d: int, outputs: Tensor) -> Tensor:
        seen[d] = outputs
        value = torch.stack([(outputs.sum(1) + k + d).sin() for k in range(inputs)], 1)
        return value[:, 0] if inputs == 1 else value

    x = network.in_order(choose, 7, context)
    assert list(seen) == order
    assert x.shape == ((7, dims) if inputs == 1 else (7, dims, inputs))
    out = network(x, context)
    torch.testing.assert_close(torch.stack([seen[d] for d in range(dims)], 1), out, rtol=0, atol=1e-12)


def test_going_in_order_computes_every_unit_once(monkeypatch: pytest.MonkeyPatch):
    """The multiplications of all pieces together are those of one pass at most, 12 dimensions."""
    counted = [0]
    original = nn.functional.linear

    def counting(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        counted[0] += len(x) * weight.numel()
        return original(x, weight, bias)

    network = generic(12, 2, 40, 2)
    monkeypatch.setattr(nn.functional, "linear", counting)
    network(torch.zeros(3, 12, dtype=torch.float64))
    whole, counted[0] = counted[0], 0
    network.in_order(lambda d, outputs: outputs[:, 0], 3)
    assert 0 < counted[0] <= whole


def test_degrees_need_no_generator_and_masks_are_not_stored():
    state = torch.get_rng_state()
    a = Masked(6, 2, 11, 1)
    torch.set_rng_state(state)
    b = Masked(6, 2, 11, 1)
    for one, other in zip(a.modules(), b.modules(), strict=True):
        if isinstance(one, MaskedLinear) and isinstance(other, MaskedLinear):
            assert torch.equal(one.mask, other.mask)
    assert not [name for name in a.state_dict() if "mask" in name]


def test_what_a_hostile_file_puts_under_the_mask_is_not_seen():
    """The masks apply to whatever weights are loaded."""
    network = Masked(3, 1, 8, 1)
    network.load_state_dict({name: torch.ones_like(weight) for name, weight in network.state_dict().items()})
    found = jacobian(network, torch.ones(2, 3))
    assert float(found.triu().abs().max()) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": 0}, "dims must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"order": [0, 0, 1]}, r"each of 0 to 2 once, got \[0, 0, 1\]"),
        ({"order": [[0, 1], [], [2]]}, r"each of 0 to 2 once, got \[\[0, 1\], \[\], \[2\]\]"),
        ({"width": 100_000}, r"100000 × 100000 weights, at most 268,435,456"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], message: str):
    settings = {"dims": 3, "outputs_per_dim": 1, "width": 4, "depth": 1, **arguments}
    with pytest.raises(InputError, match=message):
        Masked(**settings)  # type: ignore[arg-type]


def test_absurd_sizes_are_refused_before_they_are_laid_out():
    with pytest.raises(InputError, match="too large"):
        Masked(1 << 30, 24, 64, 1)
