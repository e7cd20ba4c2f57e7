"""Two players in one loop: who moves what, when a game ends, and going on after an interruption as if there had been none."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from jensen.data.examples import Batch, Examples
from jensen.data.space import Real
from jensen.errors import FitError, InputError
from jensen.models.gan import CriticLoss, Game, GeneratorLoss
from jensen.noise import Noise
from jensen.training.device import precision
from jensen.training.fitter import Rows, TrainingSettings
from jensen.training.game import GameFitter, Player
from jensen.training.loop import Loop
from jensen.training.run import Run

SETTINGS = TrainingSettings(batch_size=4, lr=0.02, weight_decay=0.0, patience=0, precision="float32", warmup=0.0)
ROWS = Examples(torch.zeros(40, 1), torch.arange(40))


class Point(nn.Module):
    """G(z) = θ: all samples are one point."""

    latent_dim = 1

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor([1.0]))

    def forward(self, z: Tensor) -> Tensor:
        return self.at.expand(len(z), 1)


class Slope(nn.Module):
    """D(x) = ψ x."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x[:, 0]


def nothing(generator: nn.Module, rows: Rows, noise: Noise) -> dict[str, float]:
    return {"energy distance": generator.at.item()}


def dirac(penalty: float = 0.3, steps: int = 400, settings: TrainingSettings = SETTINGS) -> GameFitter:
    """The smallest game: data at 0, G a point, D a line (Mescheder et al. 2018, definition 2.1)."""
    game = Game(Point(), Slope(), Real(), penalty)
    return GameFitter(
        Player(GeneratorLoss(game), game.generator),
        Player(CriticLoss(game), game.critic),
        settings,
        precision("float32"),
        steps=steps,
        held_out=ROWS,
        measure=nothing,
        seed=0,
    )


def radius(fitter: GameFitter) -> float:
    game = fitter.players["first"].loss.game
    return math.hypot(game.generator.at.item(), game.critic.slope.item())


def play(fitter: GameFitter, first: int, last: int) -> None:
    for number in range(first, last):
        fitter.step(number, ROWS.batch(torch.arange(4) + 4 * (number % 10)))


def test_the_penalty_ends_the_circling():
    """Without it the players go round the solution (0, 0) for ever; with it they spiral in (their section 4.1)."""
    last: dict[float, list[float]] = {}
    for penalty in (0.0, 1.0):
        fitter = dirac(penalty, steps=4000)  # of which the rate is constant in the first 200
        play(fitter, 0, 150)
        last[penalty] = []
        for number in range(150, 200):
            play(fitter, number, number + 1)
            last[penalty].append(radius(fitter))
    assert min(last[0.0]) > 0.2
    assert max(last[1.0]) < 1e-2


def test_each_player_moves_its_own():
    fitter = dirac()
    game, batch = fitter.players["first"].loss.game, ROWS.batch(torch.arange(4))
    fitter._move("second", batch, Noise(0), 0.1)
    assert game.generator.at.item() == 1.0
    assert game.critic.slope.item() != 0.5
    moved = game.critic.slope.item()
    fitter._move("first", batch, Noise(0), 0.1)
    assert game.critic.slope.item() == moved
    assert game.generator.at.item() > 1.0  # uphill for D, whose slope was positive
    assert all(p.grad is None for p in game.parameters())


def test_the_first_step_is_the_gradients():
    """By hand, at θ = 1, ψ = ½: dL_D/dψ = s(ψθ) θ + 2 γ ψ > 0 and then dL_G/dθ = -s(-ψθ) ψ; Adam's first step is the rate."""
    fitter, game = dirac(0.3), None
    fitter.step(0, ROWS.batch(torch.arange(4)))
    game = fitter.players["first"].loss.game
    assert game.critic.slope.item() == pytest.approx(0.5 - 0.02, abs=1e-6)
    assert game.generator.at.item() == pytest.approx(1.0 + 0.02, abs=1e-6)


def test_all_steps_are_taken_and_the_average_is_kept():
    fitter = dirac(steps=30)
    assert fitter.last() == 30
    play(fitter, 0, 30)
    own = fitter.players["first"].own
    last, average = own.at.item(), fitter.average.at.item()
    assert fitter.evaluate(30) == {"energy distance": average}
    assert abs(last - average) > 1e-4
    fitter.keep_best()
    assert own.at.item() == average
    assert fitter.last() == 30


def test_noise_is_of_the_step_and_the_player():
    fitter, seen = dirac(), []

    def recording(loss: nn.Module) -> None:
        forward = loss.forward
        loss.forward = lambda batch, noise: (seen.append(noise.path), forward(batch, noise))[1]

    for player in fitter.players.values():
        recording(player.loss)
    play(fitter, 0, 3)
    assert len(set(seen)) == 6
    assert all(path[0] == 0 for path in seen)


def test_rows_of_no_weight_do_not_count():
    batch = ROWS.batch(torch.arange(4))
    heavy = Batch(torch.tensor([[0.3], [5.0], [-0.2], [7.0]]), batch.id, None, torch.tensor([1.0, 0.0, 3.0, 0.0]))
    light = Batch(heavy.x[[0, 2, 2, 2]], batch.id, None, None)
    one, other = dirac(), dirac()
    first, second = one.step(0, heavy), other.step(0, light)
    assert first["opponent"] == pytest.approx(second["opponent"], rel=1e-6)
    assert first["grad_norm"] == pytest.approx(second["grad_norm"], rel=1e-6)


def test_what_is_not_finite_is_skipped_and_counted():
    fitter = dirac()
    broken = Batch(torch.full((4, 1), math.inf), torch.arange(4))
    told = fitter.step(0, broken)
    assert told["skipped"] == 2
    assert radius(fitter) == pytest.approx(math.hypot(1.0, 0.5))
    loop = Loop(dirac(), Examples(torch.full((40, 1), math.inf), torch.arange(40)), seed=0, every=50)
    with pytest.raises(FitError, match="has not been finite for 20 steps"):
        loop.go()


def test_a_stop_rule_is_refused():
    with pytest.raises(InputError, match=r"patience must be 0 for a model without likelihood.* got 5; leave it out"):
        dirac(settings=replace(SETTINGS, patience=5))


def test_going_on_is_as_if_there_had_been_no_stop():
    whole, part, rest = dirac(), dirac(), dirac()
    play(whole, 0, 20)
    play(part, 0, 9)
    rest.load_state(part.state())
    play(rest, 9, 20)
    mine, theirs = whole.state(), rest.state()
    assert mine.numbers == theirs.numbers
    assert mine.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in mine.tensors.items())
    assert any("optimizer" in name for name in mine.tensors)


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    """Through checkpoints on disk; the history too."""

    def loop(folder: str) -> Loop:
        run = Run(tmp_path / folder)
        run.start({"saved": True}, overwrite=False)
        return Loop(dirac(steps=20), ROWS, seed=0, every=5, run=run)

    whole, cut = loop("whole"), loop("cut")
    whole.go()
    step = cut.fitter.step

    def interrupted(number: int, batch: Batch) -> dict[str, float]:
        if number == 7:
            cut._save(7)
            raise KeyboardInterrupt
        return step(number, batch)

    cut.fitter.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.go()
    again = Loop(dirac(steps=20), ROWS, seed=0, every=5, run=Run(tmp_path / "cut"))
    done = again.resume()
    assert done == 7
    again.go(done)
    mine, theirs = whole.fitter.state(), again.fitter.state()
    assert all(torch.equal(tensor, theirs.tensors[name]) for name, tensor in mine.tensors.items())
    history = [(tmp_path / name / "history.jsonl").read_text() for name in ("whole", "cut")]
    assert history[0] == history[1]
    assert '"energy distance"' in history[0]
