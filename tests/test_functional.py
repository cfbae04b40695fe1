"""What every functional does: a closed shell as one spin channel, and the check of functionals of users."""

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ase_nnxc import NNXCCalculator
from ase_nnxc.interop.libxc import Libxc
from ase_nnxc.xc import (
    LDA,
    NNGGA,
    NNLDA,
    NNMGGA,
    PBE,
    R2SCAN,
    SCAN,
    DeepChemLDA,
    Dpyscf,
    Functional,
    HybridXC,
    Nagai,
    NeuralCorrelation,
    NeuralExchange,
    NeuralFactors,
    Sum,
    architecture,
    describe,
    rpbe,
    spin_sum,
)
from ase_nnxc.xc.functional import check_functional, grid_fineness


def filled(functional: Functional) -> Functional:
    """A functional with random parameters in place of zeros."""
    generator = torch.Generator().manual_seed(0)
    for parameter in functional.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
    return functional


META = ("log(1+s2)", "alpha/(1+alpha)")
FUNCTIONALS = {
    "LDA": LDA(),
    "LDA-PZ": LDA("pz81"),
    "LDA-VWN": LDA("vwn"),
    "PBE": PBE(),
    "RPBE": rpbe(),
    "SCAN": SCAN(),
    "r2SCAN": R2SCAN(),
    "exchange of PBE": PBE(part="x"),
    "correlation of r2SCAN": R2SCAN(part="c"),
    "nnlda": NNLDA(),
    "nngga": NNGGA(),
    "nnmgga": NNMGGA(),
    "exchange of channels": NeuralExchange(META),
    "exchange of the total": NeuralExchange(constraints=("uniform_gas",)),
    "anchored exchange": NeuralExchange(META, parent=describe(R2SCAN())),
    "correlation": NeuralCorrelation(),
    "anchored correlation": NeuralCorrelation(parent=describe(PBE())),
    "factors of a gga": filled(NeuralFactors(describe(PBE()))),
    "factors of a meta-gga": filled(NeuralFactors()),
    "dpyscf exchange": filled(Dpyscf("x", [2, 8, 1], "linear", 1.174)),
    "dpyscf correlation": filled(Dpyscf("c", [4, 8, 1], "tanh", 2.0, softplus=True)),
    "nagai": filled(Nagai([4, 8, 1])),
    "deepchem": filled(DeepChemLDA([8, 8])),
    "deepchem with expm1": filled(DeepChemLDA([8, 8], "expm1")),
    "lda of libxc": Libxc("lda_x"),
    "gga of libxc": Libxc("BLYP"),
    "meta-gga of libxc": Libxc("TPSS"),
    "sum": Sum([(0.5, PBE()), (0.5, R2SCAN())]),
    "hybrid": HybridXC(NNGGA(), PBE(), a=0.3, b=0.6),
}
every = pytest.mark.parametrize("name", FUNCTIONALS)


def channel(count: int = 200) -> dict[str, Tensor]:
    """Features (1, ...) of the one channel of a closed shell, on ordinary points."""
    generator = torch.Generator().manual_seed(1)
    density = torch.rand(1, count, dtype=torch.float64, generator=generator) + 0.01
    gradient = 0.5 * torch.randn(1, 3, count, dtype=torch.float64, generator=generator) * density[:, None]
    alpha = torch.rand(1, count, dtype=torch.float64, generator=generator)
    tau = gradient.square().sum(1) / (8 * density) + 5 * alpha * density ** (5 / 3)
    return {"density": density, "gradient": gradient, "tau": tau}


def doubled(features: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat((feature, feature)) for name, feature in features.items()}


class Elements(TorchFunctionMode):
    """A count of the elements of all tensors that are computed."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.count += result.numel() if isinstance(result, Tensor) else 0
        return result


def test_every_architecture_of_the_package_is_tested_here():
    registered = {cls for cls in architecture._classes.values() if cls.__module__.startswith("ase_nnxc")}
    assert {type(functional) for functional in FUNCTIONALS.values()} == registered


@every
def test_one_channel_of_a_closed_shell_has_the_energy_of_two_for_less_work(name):
    functional, energies, counts = FUNCTIONALS[name], [], []
    for features in (channel(), doubled(channel())):
        with Elements() as elements:
            energies.append(functional(features).detach())
        counts.append(elements.count)
    torch.testing.assert_close(*energies, rtol=1e-12, atol=0)
    assert functional.closed_shell
    assert counts[0] < 0.97 * counts[1]


@pytest.mark.parametrize("name", ["exchange of channels", "anchored exchange", "dpyscf exchange"])
def test_network_of_channels_is_evaluated_once_for_a_closed_shell(name):
    functional, points = FUNCTIONALS[name], []
    network = functional.network if isinstance(functional, NeuralExchange) else functional.net
    hook = network.register_forward_hook(lambda module, inputs, output: points.append(output.numel()))
    try:
        for features in (channel(), doubled(channel())):
            functional(features)
    finally:
        hook.remove()
    assert points[1] == 2 * points[0]


class OfUser(Functional):
    """A functional that adds up two spin channels."""

    features = ("density", "gradient")

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        density, gradient = features["density"].sum(0), features["gradient"].sum(0)
        return -(density ** (4 / 3)) - 0.01 * gradient.square().sum(0) / density


def test_functional_without_the_flag_gets_two_channels():
    torch.testing.assert_close(OfUser()(channel()), OfUser()(doubled(channel())), rtol=1e-15, atol=0)


def test_part_without_the_flag_gets_two_channels_inside_a_sum():
    functional = Sum([(1.0, OfUser()), (1.0, PBE()), (-1.0, LDA())])
    torch.testing.assert_close(functional(channel()), functional(doubled(channel())), rtol=1e-12, atol=0)


def test_subclass_with_its_own_forward_states_the_flag_anew():
    class Scaled(PBE):
        def forward(self, features):
            return features["density"].sum(0) * 0.1

    class Renamed(PBE):
        pass

    assert (Scaled.closed_shell, Renamed.closed_shell) == (False, True)


def test_core_evaluates_a_closed_shell_on_one_channel():
    from ase.build import bulk

    lengths = []

    class Spy(PBE):
        closed_shell = True

        def forward(self, features):
            lengths.append({len(feature) for feature in features.values()})
            return super().forward(features)

    atoms = bulk("Al")
    calculator = NNXCCalculator(Spy(), ecut=100, kpts=(1, 1, 1))
    atoms.calc = calculator
    lengths.clear()  # those of the check
    plain = bulk("Al")
    plain.calc = NNXCCalculator("PBE", ecut=100, kpts=(1, 1, 1))
    lengths.clear()
    assert atoms.get_potential_energy() == pytest.approx(plain.get_potential_energy(), abs=1e-10)
    assert all(length == {1} for length in lengths[1:])
    assert len(lengths) > 3


class Tau(R2SCAN):
    """A functional of tau with a fineness of its own, or None."""

    def __init__(self, grid_fineness: float | None = None) -> None:
        super().__init__()
        self.grid_fineness = grid_fineness


@pytest.mark.parametrize(
    ("functional", "fineness"),
    [
        (PBE(), 1.0),
        (R2SCAN(), 2.25),
        (SCAN(), 4.0),
        (Sum([(0.5, PBE()), (0.5, SCAN())]), 4.0),
        (HybridXC(NNGGA(), R2SCAN()), 2.25),
        (Sum([(0.5, PBE()), (0.5, Tau())]), 2.25),
        (Sum([(0.5, PBE()), (0.5, Tau(1.5))]), 1.5),
        (HybridXC(Sum([(1.0, Tau(1.5))]), PBE()), 1.5),
    ],
)
def test_grid_is_as_fine_as_the_most_demanding_part_needs(functional, fineness):
    assert grid_fineness(functional) == fineness


def test_grid_coarser_than_the_density_is_found_by_the_check():
    class Coarse(OfUser):
        grid_fineness = 0.5

    with pytest.raises(ValueError, match=r"Coarse: grid_fineness=0\.5 must be None or a number from 1 to 10"):
        check_functional(Coarse())


def test_wrong_flag_is_found_by_the_check():
    class Halved(OfUser):
        closed_shell = True

    check_functional(OfUser())
    with pytest.raises(ValueError, match="Halved: closed_shell is true, but one channel and two equal ones have"):
        check_functional(Halved())


def test_flag_of_a_functional_that_needs_two_channels_is_found_by_the_check():
    class Unpacked(OfUser):
        closed_shell = True

        def forward(self, features):
            up, down = features["density"]
            return -((up + down) ** (4 / 3))

    with pytest.raises(ValueError, match="Unpacked: closed_shell is true, but ValueError: not enough values to unpack"):
        check_functional(Unpacked())


def test_spin_sum_counts_the_channel_of_a_closed_shell_twice():
    for feature in channel().values():
        assert torch.equal(spin_sum(feature), spin_sum(torch.cat((feature, feature))))


def test_features_of_different_spin_channels_are_refused():
    features = channel() | {"gradient": doubled(channel())["gradient"]}
    with pytest.raises(ValueError, match=r"different numbers of spin channels: \{'density': 1, 'gradient': 2"):
        PBE()(features)
