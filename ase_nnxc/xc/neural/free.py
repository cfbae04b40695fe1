"""Free networks: exchange and correlation without constraints."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..architecture import register_architecture
from ..functional import Functional
from ..lda import SLATER
from ..names import check_names
from ..spins import Spins
from .network import DESCRIPTORS, WIDTHS, Network, total_variables, variables_of


@register_architecture("nnlda", 1)
class NNLDA(Functional):
    """Exchange and correlation as a network of density and polarisation, without constraints.

    The form of M. F. Kasim and S. M. Vinko, Phys. Rev. Lett. 127, 126403 (2021), and of arXiv:2602.15923. The output
    multiplies the exchange energy per electron of the unpolarised uniform gas, which grows as n^(1/3), from zero in
    vacuum and without bound; a network of bounded inputs cannot do this by itself. What remains to be learnt is of
    order one.

    Parameters
    ----------
    descriptors : sequence of str, optional
        Inputs, keys of `DESCRIPTORS`. Default: one bounded function of each variable.
    widths : sequence of int
        Widths of the hidden layers.
    activation : str
        A key of `ACTIVATIONS`.
    seed : int
        Seed of the random weights.

    Raises
    ------
    ValueError
        If a name is unknown, or if a descriptor is a function of a variable that this class does not have.
    """

    features: tuple[str, ...] = ("density",)
    closed_shell = True
    defaults: tuple[str, ...] = ("rs/(1+rs)", "zeta2")

    def __init__(
        self,
        descriptors: Sequence[str] | None = None,
        widths: Sequence[int] = WIDTHS,
        activation: str = "silu",
        seed: int = 0,
    ) -> None:
        super().__init__()
        variables = variables_of(self.defaults)
        known = [name for name, (variable, _) in DESCRIPTORS.items() if variable in variables]
        self.descriptors = check_names("descriptor", self.defaults if descriptors is None else descriptors, known)
        self.widths, self.activation, self.seed = tuple(widths), activation, seed
        self.network = Network(self.descriptors, 1, widths, activation, seed)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return the energy per volume on each point, (n,) Hartree bohr^-3; see `Functional`."""
        spins = Spins.of(features["density"])
        variables = total_variables(spins, features, variables_of(self.descriptors))
        uniform = 2 ** (-1 / 3) * SLATER * spins.root.square()
        return spins.density * uniform * self.network(variables)[0]

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            "descriptors": list(self.descriptors),
            "widths": list(self.widths),
            "activation": self.activation,
            "seed": self.seed,
        }


@register_architecture("nngga", 1)
class NNGGA(NNLDA):
    """Exchange and correlation as a network of density, polarisation and reduced gradient; otherwise as `NNLDA`."""

    features: tuple[str, ...] = ("density", "gradient")
    defaults: tuple[str, ...] = (*NNLDA.defaults, "s2/(1+s2)")


@register_architecture("nnmgga", 1)
class NNMGGA(NNGGA):
    """Exchange and correlation as a network of the variables of `NNGGA` and of alpha; otherwise as `NNLDA`."""

    features = ("density", "gradient", "tau")
    defaults = (*NNGGA.defaults, "alpha/(1+alpha)")
