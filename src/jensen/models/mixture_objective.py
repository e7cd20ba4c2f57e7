"""A mixture for the training loop: -log p(x) with free parameters (`mixture.unconstrained`), another way to where EM goes."""

from torch import Tensor

from jensen.data.examples import Batch
from jensen.errors import InputError
from jensen.mixture.unconstrained import Unconstrained
from jensen.noise import Noise
from jensen.training.fitter import Objective


class MixtureObjective(Objective):
    """-log p(x) of a mixture with free parameters; `mixture.parameters_now()` goes back by `set_parameters`.

    Args:
        mixture: the free mixture.
    """

    def __init__(self, mixture: Unconstrained) -> None:
        super().__init__()
        self.mixture = mixture

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """-log p(x) of each row, whose cells must all be there."""
        if bool(batch.x.isnan().any()):
            raise InputError("gradients need complete rows; fit rows with missing cells by EM, or fill them first")
        return -self.mixture.log_prob(batch.x.flatten(1).to(self.mixture.means.dtype))

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """log p(x)."""
        return {"log_likelihood": -self(batch, noise)}
