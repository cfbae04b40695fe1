"""Neural functionals: constraints for random weights, anchoring, symmetries, derivatives, configurations."""

import itertools
import json
import math

import pytest
import torch
from torch import Tensor

from ase_nnxc import get_functional
from ase_nnxc.xc import (
    LDA,
    NNGGA,
    NNLDA,
    NNMGGA,
    PBE,
    R2SCAN,
    SCAN,
    Functional,
    NeuralCorrelation,
    NeuralExchange,
    NeuralFactors,
    build,
    describe,
    pbesol,
    revpbe,
)
from ase_nnxc.xc.constraints import bounded
from ase_nnxc.xc.neural import ACTIVATIONS, DESCRIPTORS
from ase_nnxc.xc.neural.network import Network
from ase_nnxc.xc.spins import DENSITY_THRESHOLD, spin_sum

FERMI = (3 * math.pi**2) ** (1 / 3)
EVERY_EXCHANGE = (
    *("spin_scaling", "uniform_scaling", "uniform_gas", "gradient_expansion"),
    *("lieb_oxford", "one_orbital", "non_positive"),
)
UNSCALED = ("uniform_gas", "lieb_oxford", "non_positive")
GGA_X, META_X = ("s2/(1+s2)", "log(1+s2)"), ("log(1+s2)", "alpha/(1+alpha)", "log(1+alpha)")
GGA_C, META_C = ("log(1+rs)", "zeta2", "phi", "log(1+t2)"), ("rs/(1+rs)", "zeta2", "t2/(1+t2)", "alpha/(1+alpha)")

ROUNDING = 1e-15  # of the parent's factor and what is added to it

seeds = pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (1, 1.0), (2, 10.0), (3, 1e3)])
rungs_x = pytest.mark.parametrize("descriptors", [GGA_X, META_X], ids=["gga", "mgga"])
rungs_c = pytest.mark.parametrize("descriptors", [GGA_C, META_C], ids=["gga", "mgga"])
parents = pytest.mark.parametrize(
    "parent", [PBE(), pbesol(), SCAN(), R2SCAN()], ids=["PBE", "PBEsol", "SCAN", "r2SCAN"]
)
forms = pytest.mark.parametrize("form", ["additive", "multiplicative"])

MAKERS = {
    "nnlda": lambda seed=0: NNLDA(seed=seed),
    "nngga": lambda seed=0: NNGGA(seed=seed),
    "nnmgga": lambda seed=0: NNMGGA(seed=seed),
    "x-gga": lambda seed=0: NeuralExchange(GGA_X, seed=seed),
    "x-mgga": lambda seed=0: NeuralExchange(META_X, EVERY_EXCHANGE, seed=seed),
    "x-unscaled": lambda seed=0: NeuralExchange(
        ("rs/(1+rs)", "zeta2", "log(1+s2)", "alpha/(1+alpha)"), UNSCALED, seed=seed
    ),
    "c-gga": lambda seed=0: NeuralCorrelation(GGA_C, seed=seed),
    "c-mgga": lambda seed=0: NeuralCorrelation(META_C, seed=seed),
    "x-anchored": lambda seed=0: disturbed(NeuralExchange(META_X, EVERY_EXCHANGE, parent=describe(R2SCAN())), seed),
    "c-anchored": lambda seed=0: disturbed(NeuralCorrelation(GGA_C, parent=describe(PBE())), seed),
    "factors-gga": lambda seed=0: disturbed(NeuralFactors(describe(pbesol())), seed),
    "factors-mgga": lambda seed=0: disturbed(NeuralFactors(), seed),
}
everyone = pytest.mark.parametrize("name", MAKERS)


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def disturbed(functional: Functional, seed: int, scale: float = 1.0) -> Functional:
    """The functional with random weights, also in its last layer."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in functional.network.parameters():
        noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
        parameter.data = scale * noise / parameter.shape[1] ** 0.5
    return functional


def points(count: int, polarised: bool = True, seed: int = 2) -> dict[str, Tensor]:
    """Densities 1e-6 .. 1e2, zeta up to 1 - 1e-6, gradients up to s = 10, alpha from 0 to 10; some of each at zero.

    Features are of two spin channels, or of the one of a closed shell.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, count, dtype=torch.float64, generator=generator)

    total, share = 10 ** uniform(-6, 2), 0.5 * 10 ** uniform(-6, 0)
    density = total * (torch.stack((share, 1 - share)) if polarised else torch.full((2, 1), 0.5, dtype=torch.float64))
    direction = torch.nn.functional.normalize(uniform(-1, 1, 2, 3), dim=1)
    s, alpha = 10 ** uniform(-3, 1, 2), 10 ** uniform(-2, 1, 2)
    s[:, : count // 10] = 0
    alpha[:, count // 20 : count // 5] = 0
    length = 2 * FERMI * s * 2 ** (1 / 3) * density ** (4 / 3)
    uniform_tau = 0.3 * (6 * math.pi**2) ** (2 / 3) * density ** (5 / 3)
    tau = alpha * uniform_tau + length**2 / (8 * density)
    features = {"density": density, "gradient": length[:, None] * direction, "tau": tau}
    return features if polarised else {key: value[:1] for key, value in features.items()}


def uniform_gas(count: int) -> dict[str, Tensor]:
    density = points(count)["density"]
    tau = 0.3 * (6 * math.pi**2) ** (2 / 3) * density ** (5 / 3)
    return {"density": density, "gradient": torch.zeros(2, 3, count, dtype=torch.float64), "tau": tau}


def variables(descriptors: tuple[str, ...]) -> dict[str, Tensor]:
    """A mesh of everything that an exchange network of these descriptors sees, alpha first."""
    s2 = torch.cat((tensor([0.0]), torch.logspace(-8, 6, 57, dtype=torch.float64)))
    alpha = torch.cat((tensor([0.0, 1.0]), torch.logspace(-6, 6, 49, dtype=torch.float64)))
    mesh = torch.meshgrid(alpha, s2, indexing="ij")
    return {"alpha": mesh[0], "s2": mesh[1]} if descriptors == META_X else {"s2": s2}


def derivatives(functional: Functional, features: dict[str, Tensor], order: int = 1) -> list[Tensor]:
    """Energy per volume, first derivatives, and with order 2 those of their randomly weighted sum."""
    leaves = [features[key].clone().requires_grad_() for key in functional.features]
    energy = functional(dict(zip(functional.features, leaves)))
    first = torch.autograd.grad(energy.sum(), leaves, create_graph=order > 1)
    if order == 1:
        return [energy.detach(), *first]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in first]
    second = torch.autograd.grad(sum((w * v).sum() for w, v in zip(weights, first)), leaves)
    return [energy.detach(), *(v.detach() for v in first), *second]


# constraints of exchange


@rungs_x
@seeds
def test_lieb_oxford_bound_and_sign_of_exchange_hold_for_random_weights(descriptors, seed, scale):
    factor = disturbed(NeuralExchange(descriptors), seed, scale).enhancement(variables(descriptors))
    assert factor.max() <= 1.804
    assert factor.min() >= 0
    assert factor.max() - factor.min() > 0.05  # the network acts


@seeds
def test_one_orbital_bound_holds_everywhere_in_a_gga_for_random_weights(seed, scale):
    factor = disturbed(NeuralExchange(GGA_X, EVERY_EXCHANGE), seed, scale).enhancement(variables(GGA_X))
    assert factor.max() <= 1.174


@pytest.mark.parametrize("constraints", [EVERY_EXCHANGE, ("one_orbital",)], ids=["all", "alone"])
@seeds
def test_one_orbital_bound_holds_at_alpha_zero_in_a_meta_gga_for_random_weights(constraints, seed, scale):
    factor = disturbed(NeuralExchange(META_X, constraints), seed, scale).enhancement(variables(META_X))
    assert factor[0].max() <= 1.174
    assert "lieb_oxford" not in constraints or factor.max() <= 1.804


def test_one_orbital_bound_leaves_other_densities_of_a_meta_gga_free():
    exchange = NeuralExchange(META_X, EVERY_EXCHANGE)
    exchange.network.biases[-1].data[:] = 100.0
    factor = exchange.enhancement(variables(META_X))
    assert factor[0].max() <= 1.174
    assert factor.max() > 1.8


@rungs_x
@seeds
def test_exchange_of_the_uniform_gas_holds_for_random_weights(descriptors, seed, scale):
    gas = uniform_gas(200)
    reference = LDA(part="x")(gas)
    for constraints in (EVERY_EXCHANGE, ("spin_scaling", "uniform_gas"), UNSCALED):
        energy = disturbed(NeuralExchange(descriptors, constraints), seed, scale)(gas)
        torch.testing.assert_close(energy, reference, rtol=1e-14 * max(1.0, scale**3), atol=0)


@rungs_x
@pytest.mark.parametrize("mu", [None, 0.2195, -0.1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_expansion_begins_with_mu_s2_for_random_weights(descriptors, mu, seed):
    exchange = disturbed(NeuralExchange(descriptors, EVERY_EXCHANGE, mu=mu), seed)
    s2 = tensor([0.01, 0.02]).square()
    factor = exchange.enhancement({"s2": s2, "alpha": torch.ones_like(s2)})
    rest = factor - 1 - (10 / 81 if mu is None else mu) * s2
    assert (rest.abs() < 5 * s2**2).all()
    torch.testing.assert_close(rest[1] / rest[0], tensor(16.0), rtol=0.05, atol=0)  # O(s^4), not s^3


def test_trainable_mu_is_a_parameter_with_the_right_slope():
    exchange = NeuralExchange(trainable_mu=True, mu=0.2)
    exchange.enhancement({"s2": tensor([1e-4])}).sum().backward()
    assert exchange.mu.item() == 0.2
    torch.testing.assert_close(exchange.mu.grad, tensor(1e-4), rtol=1e-3, atol=0)
    assert "mu" in dict(exchange.named_parameters())
    assert "mu" not in NeuralExchange().state_dict()


@pytest.mark.parametrize("constraint", EVERY_EXCHANGE[2:])
def test_a_constraint_that_is_not_chosen_does_not_hold(constraint):
    """Otherwise the tests above show nothing."""
    left = [name for name in EVERY_EXCHANGE if name not in (constraint, "one_orbital")]
    if constraint == "uniform_gas":
        left.remove("gradient_expansion")
    if constraint == "one_orbital":
        left.remove("lieb_oxford")
    exchange = NeuralExchange(META_X, left)
    s2, alpha = tensor([0.0, 1e-4, 100.0, 100.0]), tensor([1.0, 1.0, 0.0, 5.0])
    low, high = [], []
    for bias, found in ((-50.0, low), (50.0, high)):
        exchange.network.biases[-1].data[:] = bias
        found += exchange.enhancement({"s2": s2, "alpha": alpha}).tolist()
    broken = {
        "uniform_gas": abs(high[0] - 1) > 0.1,
        "gradient_expansion": abs(high[1] - 1 - 1e-4 * 10 / 81) > 1e-4,
        "lieb_oxford": high[3] > 1.9,
        "one_orbital": high[2] > 1.2 or high[3] > 1.2,
        "non_positive": min(low) < -0.1,
    }
    assert broken[constraint]


Channel = tuple[Tensor, Tensor, Tensor]


class Atom:
    """Spin channels of two and one s-orbitals on a radial mesh, contracted to scale^3 n(scale r)."""

    def __init__(self, scale: float = 1.0) -> None:
        x = torch.linspace(-12, 5, 3000, dtype=torch.float64)
        self.r, self.scale = x.exp(), scale
        self.weights = 4 * math.pi * self.r**3 * (x[1] - x[0])
        self.up, self.down = self.channel((2.0, 0.0), (0.7, 0.5)), self.channel((1.5, 0.0))

    def channel(self, *orbitals: tuple[float, float]) -> Channel:
        """Density, slope and tau of orbitals (1 + b x) exp(-a x), x = scale r."""
        density, slope, tau = torch.zeros(3, len(self.r), dtype=torch.float64)
        x = self.scale * self.r
        for a, b in orbitals:
            orbital = self.scale**1.5 * (1 + b * x) * torch.exp(-a * x)
            change = self.scale**2.5 * (b - a * (1 + b * x)) * torch.exp(-a * x)
            density, slope, tau = density + orbital**2, slope + 2 * orbital * change, tau + 0.5 * change**2
        return density, slope, tau

    def energy(self, functional: Functional, *channels: Channel) -> Tensor:
        density, slope, tau = (torch.stack(pair) for pair in zip(*channels))
        gradient = torch.nn.functional.pad(slope[:, None], (0, 0, 0, 2))
        return (self.weights * functional({"density": density, "gradient": gradient, "tau": tau})).sum()


@rungs_x
def test_exchange_is_half_that_of_each_doubled_channel_for_random_weights(descriptors):
    atom, exchange = Atom(), disturbed(NeuralExchange(descriptors), 0)
    half = (atom.energy(exchange, atom.up, atom.up) + atom.energy(exchange, atom.down, atom.down)) / 2
    torch.testing.assert_close(atom.energy(exchange, atom.up, atom.down), half, rtol=1e-9, atol=0)


@rungs_x
@pytest.mark.parametrize("scaling", [[], ["spin_scaling"]], ids=["total", "channels"])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_exchange_of_a_contracted_density_grows_in_proportion_for_random_weights(descriptors, scaling, scale):
    exchange = disturbed(NeuralExchange(descriptors, [*scaling, "uniform_scaling"]), 0)
    atom, contracted = Atom(), Atom(scale)
    energy = contracted.energy(exchange, contracted.up, contracted.down)
    torch.testing.assert_close(energy, scale * atom.energy(exchange, atom.up, atom.down), rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", ["alpha/(1+alpha)", "log(1+alpha)"])
def test_networks_see_no_alpha_below_a_small_negative_one(name):
    _, descriptor = DESCRIPTORS[name]
    alpha = tensor([-0.5, -1e-9, 0.0, 1e-9]).requires_grad_()
    value = descriptor(alpha)
    (slope,) = torch.autograd.grad(value.sum(), alpha)
    assert -0.032 < value[0].item() < -0.03
    assert slope[0] < 1e-3
    torch.testing.assert_close(slope[1:], torch.ones_like(slope[1:]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["r2SCAN", "r2scan-clone", "nnxc-solids"])
def test_tau_below_that_of_one_orbital_hardly_changes_the_energy(name):
    functional, density = get_functional(name), torch.full((2, 3), 5e-4, dtype=torch.float64)
    gradient = torch.zeros(2, 3, 3, dtype=torch.float64)
    gradient[:, 0] = tensor([1e-4, 4e-4, 2e-3])
    one_orbital = gradient.square().sum(1) / (8 * density)
    none, one = (
        functional({"density": density, "gradient": gradient, "tau": factor * one_orbital}) for factor in (0, 1)
    )
    torch.testing.assert_close(none, one, rtol=0.05, atol=0)


def test_without_scaling_constraints_the_network_sees_density_and_zeta():
    atom, contracted, exchange = Atom(), Atom(3.0), NeuralExchange(constraints=UNSCALED)
    assert {DESCRIPTORS[name][0] for name in exchange.descriptors} == {"rs", "zeta2", "s2"}
    energy = atom.energy(exchange, atom.up, atom.down)
    assert abs(contracted.energy(exchange, contracted.up, contracted.down) / energy - 3) > 1e-3
    half = (atom.energy(exchange, atom.up, atom.up) + atom.energy(exchange, atom.down, atom.down)) / 2
    assert abs(energy / half - 1) > 1e-4


# constraints of correlation


@rungs_c
@seeds
def test_correlation_is_not_positive_for_random_weights(descriptors, seed, scale):
    correlation = disturbed(NeuralCorrelation(descriptors), seed, scale)
    assert correlation(points(2000)).max() <= 0
    correlation.network.biases[-1].data[:] = -1e3 * scale
    assert correlation(points(2000)).max() <= 0
    free = NeuralCorrelation(descriptors, ["uniform_gas"])
    free.network.biases[-1].data[:] = -100.0
    assert free(points(2000)).max() > 0


@rungs_c
@seeds
def test_correlation_of_the_uniform_gas_holds_for_random_weights(descriptors, seed, scale):
    gas = uniform_gas(200)
    energy = disturbed(NeuralCorrelation(descriptors), seed, scale)(gas)
    torch.testing.assert_close(energy, LDA(part="c")(gas), rtol=1e-14 * max(1.0, scale**3), atol=0)


# the bounded map


def test_bounded_map_has_slope_one_and_no_curvature_at_zero_from_both_sides():
    y = tensor([-1e-4, 0.0, 1e-4]).requires_grad_()
    value = bounded(y, 1.0, 0.0, 1.804)
    (slope,) = torch.autograd.grad(value.sum(), y, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), y)
    torch.testing.assert_close(value, y, rtol=1e-7, atol=0)
    torch.testing.assert_close(slope, torch.ones_like(y), rtol=0, atol=1e-7)
    assert (curvature.abs() < 1e-3).all()
    assert curvature[1] == 0


def test_bounded_map_is_zero_with_finite_derivatives_where_there_is_no_room():
    y = tensor([-2.0, -1e-15, 0.0, 1e-15, 2.0] * 2).requires_grad_()
    base = tensor([0.0] * 5 + [1.174] * 5).requires_grad_()
    value = bounded(y, base, 0.0, 1.174)
    assert (value[:3] == 0).all()
    assert (value[-3:] == 0).all()
    first = torch.autograd.grad(value.sum(), (y, base), create_graph=True)
    second = torch.autograd.grad(sum(v.sum() for v in first), (y, base))
    assert all(v.isfinite().all() for v in (*first, *second))


# anchoring


@parents
@forms
@pytest.mark.parametrize("polarised", [True, False], ids=["polarised", "paired"])
def test_anchored_network_without_training_is_its_parent(parent, form, polarised):
    description, features = describe(parent), points(2000, polarised)
    own = {"parent": description, "form": form}
    networks = [NeuralExchange(d, c, **own) for d in (GGA_X, META_X) for c in (EVERY_EXCHANGE[:5], EVERY_EXCHANGE[:3])]
    networks += [NeuralExchange(constraints=UNSCALED, **own)]
    networks += [NeuralCorrelation(descriptors, **own) for descriptors in (GGA_C, META_C)]
    for network in networks:
        reference = type(parent)(**{**parent.config(), "part": network.kind})
        error = (network(features) - reference(features)).abs()
        assert (error <= 1e-12 * spin_sum(features["density"]).clamp(min=1.0)).all()


@pytest.mark.parametrize("parent", [SCAN(), R2SCAN()], ids=["SCAN", "r2SCAN"])
@forms
def test_anchored_network_is_its_parent_where_that_touches_its_bound(parent, form):
    """Any map inverted at F_x = 1.174, s = alpha = 0, would give infinity."""
    one_orbital = {**uniform_gas(50), "tau": torch.zeros(2, 50, dtype=torch.float64)}
    exchange = NeuralExchange(META_X, EVERY_EXCHANGE, parent=describe(parent), form=form)
    reference = derivatives(type(parent)(part="x"), one_orbital)
    for value, expected in zip(derivatives(exchange, one_orbital), reference):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(exchange(one_orbital), 1.174 * LDA(part="x")(one_orbital), rtol=1e-9, atol=0)


@forms
def test_anchored_correlation_is_pbe_where_that_vanishes(form):
    features = points(200)
    features["gradient"] = 1e3 * features["gradient"]
    correlation = NeuralCorrelation(GGA_C, parent=describe(PBE()), form=form)
    for value, expected in zip(derivatives(correlation, features), derivatives(PBE(part="c"), features)):
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)


@parents
@forms
@seeds
def test_anchored_networks_keep_their_bounds_for_random_weights(parent, form, seed, scale):
    own = {"parent": describe(parent), "form": form}
    exchange = disturbed(NeuralExchange(META_X, EVERY_EXCHANGE[:5] + EVERY_EXCHANGE[6:], **own), seed, scale)
    mesh = variables(META_X)
    factor = exchange.enhancement(mesh, parent.enhancement(mesh["s2"], mesh["alpha"]))
    assert factor.min() >= 0
    assert factor.max() <= 1.804 + ROUNDING
    assert disturbed(NeuralCorrelation(META_C, **own), seed, scale)(points(1000)).max() <= 0


@pytest.mark.parametrize("parent", [SCAN(), R2SCAN()], ids=["SCAN", "r2SCAN"])
@seeds
def test_anchored_exchange_keeps_the_one_orbital_bound_for_random_weights(parent, seed, scale):
    exchange = disturbed(NeuralExchange(META_X, EVERY_EXCHANGE, parent=describe(parent)), seed, scale)
    mesh = variables(META_X)
    factor = exchange.enhancement(mesh, parent.enhancement(mesh["s2"], mesh["alpha"]))
    assert factor[0].max() <= 1.174 + ROUNDING


@parents
@forms
def test_anchored_networks_keep_gas_and_gradient_expansion_of_the_parent_for_random_weights(parent, form):
    gas, own = uniform_gas(100), {"parent": describe(parent), "form": form}
    exchange, correlation = NeuralExchange(META_X, **own), NeuralCorrelation(META_C, **own)
    for network in (exchange, correlation):
        torch.testing.assert_close(disturbed(network, 0)(gas), LDA(part=network.kind)(gas), rtol=1e-12, atol=0)
    s2 = tensor([1e-4])
    base = parent.enhancement(s2, torch.ones_like(s2))
    factor = exchange.enhancement({"s2": s2, "alpha": torch.ones_like(s2)}, base)
    torch.testing.assert_close(factor, base, rtol=0, atol=1e-7)


@pytest.mark.parametrize("widths", [(5,), (5, 4, 3)])
def test_network_of_tanh_is_that_of_its_weights(widths):
    network = Network(("zeta2", "phi"), 2, widths, "tanh", seed=0)
    x = torch.rand(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = x
    for number, (weight, bias) in enumerate(zip(network.weights, network.biases)):
        expected = weight @ (torch.tanh(expected) if number else expected) + bias
    torch.testing.assert_close(network({"zeta2": x[0], "phi": x[1]}), expected, rtol=0, atol=1e-14)


def test_only_the_last_layer_of_an_anchored_network_begins_at_zero():
    network = NeuralExchange(parent=describe(PBE())).network
    assert (network.weights[-1] == 0).all()
    assert (network.biases[-1] == 0).all()
    assert all((weight != 0).all() for weight in network.weights[:-1])
    assert (NeuralExchange().network.weights[-1] != 0).all()


# factors of a parent


@parents
@pytest.mark.parametrize("polarised", [True, False], ids=["polarised", "paired"])
def test_factors_without_training_are_one(parent, polarised):
    features = points(500, polarised)
    expected = derivatives(parent, features)
    for value, reference in zip(derivatives(NeuralFactors(describe(parent)), features), expected):
        torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-15)


@parents
@seeds
def test_factors_keep_the_uniform_gas_for_random_weights(parent, seed, scale):
    gas = uniform_gas(100)
    energy = disturbed(NeuralFactors(describe(parent)), seed, scale)(gas)
    torch.testing.assert_close(energy, LDA()(gas), rtol=1e-11, atol=0)


@pytest.mark.parametrize("parent", [SCAN(), R2SCAN()], ids=["SCAN", "r2SCAN"])
@pytest.mark.parametrize("seed", range(3))
def test_factors_keep_the_second_order_gradient_expansion_of_exchange_for_random_weights(parent, seed):
    """In a slowly varying density d(alpha) counts as -(20/27 + 5/3 eta) d(s^2)."""
    functional = disturbed(NeuralFactors(describe(parent)), seed)
    s2, alpha = tensor([0.0]).requires_grad_(), tensor([1.0]).requires_grad_()
    by_s2, by_alpha = torch.autograd.grad(functional.enhancement(s2, alpha), (s2, alpha))
    assert abs(by_alpha) > 0.01  # the network acts
    assert abs((by_s2 - (20 / 27 + 5 / 3 * parent.eta) * by_alpha).item() - 10 / 81) < 1e-9


@pytest.mark.parametrize("parent", [PBE(), pbesol()], ids=["PBE", "PBEsol"])
def test_factors_of_a_gga_keep_its_gradient_coefficient_for_random_weights(parent):
    s2 = tensor([0.0]).requires_grad_()
    (slope,) = torch.autograd.grad(disturbed(NeuralFactors(describe(parent)), 0).enhancement(s2), s2)
    assert abs(slope.item() - parent.mu) < 1e-12


@parents
def test_factors_change_correlation_from_the_fourth_order_of_the_gradient_for_random_weights(parent):
    """Near the uniform gas first derivatives by sigma and tau are those of the parent."""
    gas = uniform_gas(50)
    gas["gradient"][:, 0] = 1e-4 * gas["density"] ** (4 / 3)
    functional = disturbed(NeuralFactors(describe(parent), part="c"), 0)
    reference = type(parent)(**{**parent.config(), "part": "c"})
    for value, expected in zip(derivatives(functional, gas), derivatives(reference, gas)):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("parent", [SCAN(), R2SCAN()], ids=["SCAN", "r2SCAN"])
@seeds
def test_factors_keep_one_electron_without_correlation_and_its_exchange_for_random_weights(parent, seed, scale):
    atom = Atom()
    electron, none = atom.channel((1.0, 0.0)), tuple(torch.zeros(3, len(atom.r), dtype=torch.float64))
    functional = disturbed(NeuralFactors(describe(parent)), seed, scale)
    energy = atom.energy(functional, electron, none)
    correlation = NeuralFactors(describe(parent), part="c")
    correlation.load_state_dict(functional.state_dict())
    assert abs(atom.energy(correlation, electron, none)) < 1e-9
    torch.testing.assert_close(energy, atom.energy(parent, electron, none), rtol=1e-9, atol=1e-9)


@parents
@seeds
def test_factors_keep_their_bounds_for_random_weights(parent, seed, scale):
    functional, mesh = disturbed(NeuralFactors(describe(parent)), seed, scale), variables(META_X)
    alpha = mesh["alpha"] if functional.meta else None
    factor = functional.enhancement(mesh["s2"], alpha)
    assert factor.min() >= 0
    assert factor.max() <= 1.804 + ROUNDING
    assert factor[0].max() <= 1.174 + ROUNDING or not functional.meta
    correlation = NeuralFactors(describe(parent), part="c")
    correlation.load_state_dict(functional.state_dict())
    assert correlation(points(1000)).max() <= 0


@pytest.mark.parametrize("parent", [pbesol(), R2SCAN()], ids=["PBEsol", "r2SCAN"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_exchange_of_factors_has_spin_and_uniform_scaling_for_random_weights(parent, scale):
    exchange, atom, scaled = disturbed(NeuralFactors(describe(parent), part="x"), 0), Atom(), Atom(scale)
    half = (atom.energy(exchange, atom.up, atom.up) + atom.energy(exchange, atom.down, atom.down)) / 2
    both = atom.energy(exchange, atom.up, atom.down)
    torch.testing.assert_close(both, half, rtol=1e-10, atol=0)
    torch.testing.assert_close(scaled.energy(exchange, scaled.up, scaled.down), scale * both, rtol=1e-6, atol=0)


def test_factors_have_the_parts_that_add_up_to_both():
    functional, features = disturbed(NeuralFactors(), 1), points(100)
    parts = [NeuralFactors(part=part) for part in ("x", "c")]
    for part in parts:
        part.load_state_dict(functional.state_dict())
    torch.testing.assert_close(parts[0](features) + parts[1](features), functional(features))


# numbers, symmetries, derivatives


@everyone
def test_spins_are_equal(name):
    functional, features = MAKERS[name](), points(500)
    flipped = {key: value.flip(0) for key, value in features.items()}
    torch.testing.assert_close(functional(flipped), functional(features), rtol=1e-13, atol=1e-16)


@everyone
def test_one_channel_of_a_closed_shell_has_the_energy_and_potential_of_two(name):
    functional, features = MAKERS[name](), points(500, polarised=False)
    values = []
    for nspin in (1, 2):
        leaves = {key: features[key].clone().requires_grad_() for key in functional.features}
        energy = functional({key: leaf.expand(nspin, *leaf.shape[1:]) for key, leaf in leaves.items()})
        values.append([energy, *torch.autograd.grad(energy.sum(), list(leaves.values()))])
    for one, two in zip(*values):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-14)


def wild_points() -> dict[str, Tensor]:
    """Pairs of spin densities from large to negative, gradients from zero to s = 1000 and more, tau from zero."""
    sizes = [0.0, 1e-300, 1e-25, 1e-15, 5e-13, 1e-12, 1e-10, 1e-6, 1e-3, 1.0, 1e3, -1e-20, -1e-15, -1e-12, -1e-8, -1.0]
    density = tensor(list(itertools.product(sizes, sizes))).T
    own = FERMI * (2 * density.clamp(min=0)) ** (4 / 3)
    total = FERMI * density.sum(0).clamp(min=1e-12).expand(2, -1) ** (4 / 3)
    lengths = [s * k for s in (0.0, 1e-10, 1.0, 1e3) for k in (own, total, torch.ones_like(own))]
    densities, length = density.repeat(1, len(lengths)), torch.cat(lengths, dim=1)
    bare = length**2 / (8 * densities.abs().clamp(min=1e-12))
    taus = [0 * bare, bare, bare * (1 - 1e-15), bare + 2.87 * densities.clamp(min=0) ** (5 / 3), 1e3 * bare]
    gradient = torch.stack((length, 0.3 * length, -0.2 * length), dim=1)
    return {
        "density": densities.repeat(1, len(taus)),
        "gradient": gradient.repeat(1, 1, len(taus)),
        "tau": torch.cat(taus, dim=1),
    }


@everyone
def test_energy_and_two_derivatives_are_finite_everywhere(name):
    for value in derivatives(MAKERS[name](), wild_points(), order=2):
        assert value.isfinite().all()


@everyone
def test_vacuum_has_neither_energy_nor_potential(name):
    features = wild_points()
    vacuum = features["density"].sum(0) <= DENSITY_THRESHOLD
    for value in derivatives(MAKERS[name](), {key: value[..., vacuum] for key, value in features.items()}):
        assert (value == 0).all()


@everyone
def test_noise_of_an_empty_channel_does_not_move_the_potential(name):
    noise = tensor([0.0, 1e-30, 1e-17, -1e-17, -1e-15])
    features = {
        "density": torch.stack((torch.full_like(noise, 1e-2), noise)),
        "gradient": torch.stack((torch.full((3, 5), 1e-3, dtype=torch.float64), noise.expand(3, 5))),
        "tau": torch.stack((torch.full_like(noise, 1e-3), noise.abs())),
    }
    energy, v, *_ = derivatives(MAKERS[name](), features)
    assert (energy - energy[0]).abs().max() < 1e-15
    assert (v - v[:, :1]).abs().max() < 1e-9


@everyone
def test_first_and_second_derivatives_are_those_of_the_energy(name):
    functional = MAKERS[name]()
    density = tensor([[0.3, 0.02], [0.2, 0.05]])
    gradient = 0.05 * torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tau = gradient.square().sum(1) / (8 * density) + tensor([[0.1, 0.01], [0.05, 0.03]])
    features = {"density": density, "gradient": gradient, "tau": tau}
    leaves = [features[key].requires_grad_() for key in functional.features]

    def energy(*leaves: Tensor) -> Tensor:
        return functional(dict(zip(functional.features, leaves)))

    assert torch.autograd.gradcheck(energy, leaves)
    assert torch.autograd.gradgradcheck(energy, leaves)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_two_derivatives(activation):
    exchange = NeuralExchange(activation=activation)

    def factor(s2: Tensor) -> Tensor:
        return exchange.enhancement({"s2": s2})

    s2 = tensor([0.0, 0.3, 2.0]).requires_grad_()
    assert torch.autograd.gradcheck(factor, s2)
    assert torch.autograd.gradgradcheck(factor, s2)


# configurations


@everyone
def test_what_is_described_is_built_again(name):
    functional = MAKERS[name](seed=3)
    description = json.loads(json.dumps(describe(functional)))
    again = build(description)
    again.load_state_dict(functional.state_dict())
    assert describe(again) == describe(functional)
    assert torch.equal(again(points(50)), functional(points(50)))


def test_seed_decides_the_weights_and_no_global_state_is_read():
    state = torch.get_rng_state()
    first, same, other = NNGGA(seed=1), NNGGA(seed=1), NNGGA(seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first(points(20)), same(points(20)))
    assert not torch.equal(first(points(20)), other(points(20)))


def test_features_and_kind_follow_from_the_rung():
    assert (NeuralExchange(GGA_X).kind, NeuralExchange(GGA_X).features) == ("x", ("density", "gradient"))
    assert NeuralExchange(META_X).features == ("density", "gradient", "tau")
    assert NeuralExchange(GGA_X, parent=describe(R2SCAN())).features == ("density", "gradient", "tau")
    assert (NeuralCorrelation().kind, NNGGA().kind) == ("c", "xc")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NeuralExchange(constraints=["leib_oxford"]), "unknown constraint 'leib_oxford'.*did you mean 'lieb_o"),
        (
            lambda: NeuralCorrelation(constraints=["lieb_oxford"]),
            "expected one of uniform_gas, non_positive",
        ),
        (lambda: NeuralExchange(["s2/(1+s)"]), r"unknown descriptor.*did you mean 's2/\(1\+s2\)'"),
        (lambda: NeuralExchange(["log(1+t2)"]), r"unknown descriptor 'log\(1\+t2\)'"),
        (lambda: NNLDA(["s2/(1+s2)"]), "unknown descriptor.*expected one of rs"),
        (lambda: NNGGA(activation="slu"), "unknown activation 'slu'.*did you mean 'silu'"),
        (lambda: NNGGA(widths=(16, 0)), "widths.*positive integers"),
        (lambda: NeuralExchange(widths=[True]), "widths.*positive integers"),
        (lambda: NeuralExchange(widths=[]), "widths.*positive integers"),
        (lambda: NeuralExchange(seed=-1), "seed=-1: expected an integer from 0 to"),
        (lambda: NeuralExchange(seed=2**70), "seed=1180591620717411303424: expected an integer from 0 to"),
        (lambda: NeuralCorrelation(seed=0.5), "seed=0.5: expected an integer from 0 to"),
        (lambda: NeuralExchange(mu=math.nan), "mu=nan: expected a finite number"),
        (lambda: NeuralExchange([]), "at least one descriptor"),
        (lambda: NNGGA([]), "at least one descriptor"),
        (lambda: NeuralExchange(GGA_X + GGA_X), "is given twice"),
        (lambda: NeuralExchange(form="added"), "unknown form 'added'.*did you mean 'additive'"),
        (lambda: NeuralExchange(constraints=["gradient_expansion"]), "requires the constraint 'uniform_gas'"),
        (lambda: NeuralExchange(["rs/(1+rs)"]), "contradicts the constraint 'uniform_scaling'"),
        (lambda: NeuralExchange(["zeta2"]), "contradicts the constraint 'spin_scaling'"),
        (lambda: NeuralExchange(constraints=["uniform_gas"], mu=0.2), "'gradient_expansion' is not among"),
        (lambda: NeuralExchange(mu=0.2, parent=describe(PBE())), "the parent has its own mu"),
        (lambda: NeuralExchange(parent=describe(LDA())), "parent 'lda': expected an architecture 'pbe'"),
        (lambda: NeuralExchange(parent=describe(revpbe())), "F0, that of the parent, exceeds the bound of lieb_oxford"),
        (lambda: NeuralExchange(META_X, EVERY_EXCHANGE, parent=describe(PBE())), "exceeds the bound of one_orbital"),
        (lambda: NeuralFactors(describe(revpbe())), "exchange factor of the parent, up to 2.245, exceeds the bound"),
        (lambda: NeuralFactors(describe(LDA())), "parent 'lda': expected an architecture 'pbe'"),
        (lambda: NeuralExchange(lieb_oxford=0.9), "F0, 1, exceeds the bound of lieb_oxford by up to 0.1"),
        (lambda: NeuralExchange(META_X, EVERY_EXCHANGE, one_orbital=2.0), "one_orbital=2.0 must be below lieb_oxford"),
    ],
)
def test_a_wrong_or_contradictory_configuration_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("argument", ["mu", "lieb_oxford", "one_orbital"])
@pytest.mark.parametrize("value", ["a", True])
def test_a_constant_that_is_no_number_is_refused(argument, value):
    with pytest.raises(TypeError, match=f"{argument}={value!r}: expected a number"):
        NeuralExchange(**{argument: value})


@pytest.mark.parametrize("feature", ["gradient", "tau"])
def test_two_channels_beside_the_one_of_a_closed_shell_are_refused(feature):
    features = {
        "density": torch.full((1, 4), 0.1, dtype=torch.float64),
        "gradient": torch.zeros(1, 3, 4, dtype=torch.float64),
        "tau": torch.full((1, 4), 0.1, dtype=torch.float64),
    }
    features[feature] = torch.cat((features[feature], features[feature]))
    with pytest.raises(ValueError, match=f"different numbers of spin channels: .*'{feature}': 2"):
        NeuralExchange(META_X)(features)
