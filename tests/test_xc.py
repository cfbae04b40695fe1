"""Functionals in torch, point by point, against libxc, extended precision and themselves."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ase_nnxc.xc import LDA, PBE, R2SCAN, SCAN, Functional, build, describe, pbesol, revpbe, rpbe
from ase_nnxc.xc.spins import DENSITY_THRESHOLD

# what makes each, and its exchange and correlation in libxc
FUNCTIONALS: dict[str, tuple[Callable[..., Functional], str]] = {
    "LDA": (LDA, "lda_x,lda_c_pw_mod"),
    "LDA-PZ": (lambda part="xc": LDA("pz81", part), "lda_x,lda_c_pz"),
    "LDA-VWN": (lambda part="xc": LDA("vwn", part), "lda_x,lda_c_vwn"),
    "PBE": (PBE, "gga_x_pbe,gga_c_pbe"),
    "PBEsol": (pbesol, "gga_x_pbe_sol,gga_c_pbe_sol"),
    "RPBE": (rpbe, "gga_x_rpbe,gga_c_pbe"),
    "revPBE": (revpbe, "gga_x_pbe_r,gga_c_pbe"),
    "SCAN": (SCAN, "mgga_x_scan,mgga_c_scan"),
    "r2SCAN": (R2SCAN, "mgga_x_r2scan,mgga_c_r2scan"),
}
NAMES = ("density", "gradient", "tau")
FERMI = (3 * math.pi**2) ** (1 / 3)
every = pytest.mark.parametrize("name", FUNCTIONALS)
meta = pytest.mark.parametrize("name", ["SCAN", "r2SCAN"])


def make(name: str) -> Functional:
    return FUNCTIONALS[name][0]()


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def uniform_tau(density: np.ndarray) -> np.ndarray:
    """Kinetic energy density of uniform gases of one spin."""
    return 0.3 * (6 * math.pi**2) ** (2 / 3) * density ** (5 / 3)


def points(count: int, polarised: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Spin densities (2, n) of total 1e-6 .. 1e2, polarised up to 1 - 1e-6, gradients up to s = 10, alpha 0 .. 100."""
    rng = np.random.default_rng(2)
    total = 10 ** rng.uniform(-6, 2, count)
    share = 0.5 * 10 ** rng.uniform(-6, 0, count) if polarised else np.full(count, 0.5)
    # libxc raises the density of a channel to 1e-12 or 1e-11, its gradient to 1e-11^(4/3), its tau to 1e-20
    minority = np.maximum(share * total, 1.01e-11 if polarised else 0)
    density = np.where(rng.random(count) < 0.5, (minority, total - minority), (total - minority, minority))
    gradient = rng.normal(size=(2, 3, count))
    s = 10 ** rng.uniform(-3, 1, (2, 1, count))
    s[..., : count // 20] = 0
    length = s * FERMI * (2 * density[:, None]) ** (4 / 3)
    length = np.where(density[:, None] < 1e-6, np.maximum(length, 3e-15), length)
    gradient *= length / np.linalg.norm(gradient, axis=1, keepdims=True)
    alpha = 10 ** rng.uniform(-6, 2, (2, count))
    alpha[:, -count // 20 :] = 0
    if not polarised:
        gradient[1], alpha[1] = gradient[0], alpha[0]
    tau = np.maximum((gradient**2).sum(1) / (8 * density) + alpha * uniform_tau(density), 1e-20)
    return tensor(density), tensor(gradient), tensor(tau)


def one_channel(total: Tensor) -> Tensor:
    """The channel (1, ...) that stands for both of a closed shell, from the total (1, ...)."""
    return 0.5 * total


def two_channels(total: Tensor) -> Tensor:
    """Both channels (2, ...) of a closed shell, from the total (1, ...)."""
    return (0.5 * total).expand(2, *total.shape[1:]).clone()


def evaluate(
    functional: Functional, *features: Tensor, order: int = 1, channels: Callable[[Tensor], Tensor] = lambda leaf: leaf
) -> list[Tensor]:
    """Energy per volume, first derivatives, and with order 2 those of their randomly weighted sum."""
    leaves = [feature.detach().clone().requires_grad_() for feature in features[: len(functional.features)]]
    energy = functional(dict(zip(NAMES, map(channels, leaves))))
    first = torch.autograd.grad(energy.sum(), leaves, create_graph=order > 1)
    if order == 1:
        return [energy.detach(), *first]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in first]
    second = torch.autograd.grad(sum((w * v).sum() for w, v in zip(weights, first)), leaves)
    return [energy.detach(), *(v.detach() for v in first), *second]


def assert_close(value: Tensor, reference: np.ndarray, rounding: np.ndarray | float = 0.0) -> None:
    error = np.abs(value.numpy() - reference)
    assert (error <= 1e-9 * np.abs(reference) + 1e-12 + rounding).all()


@every
def test_energy_and_first_derivatives_are_those_of_libxc(name):
    from pyscf.dft import libxc

    features = points(4000, polarised=True)
    energy, *first = evaluate(make(name), *features)
    n, g, tau = (feature.numpy() for feature in features)
    rho = np.concatenate((n[:, None], g, tau[:, None])[: len(first)], axis=1).squeeze()
    reference = libxc.eval_xc1(FUNCTIONALS[name][1], rho, spin=1)
    # libxc makes the minority share from 1 - |zeta|, with the rounding error of |zeta|
    rounding = 1e-16 * n.sum(0) / n.min(0)
    assert_close(energy, reference[0] * n.sum(0))
    assert_close(first[0], reference[1:3], rounding)
    if len(first) > 1:  # dE/d(grad n_up) = 2 vsigma_uu grad n_up + vsigma_ud grad n_dn
        up_up, up_dn, dn_dn = reference[3:6]
        assert_close(first[1][0], 2 * up_up * g[0] + up_dn * g[1], rounding)
        assert_close(first[1][1], 2 * dn_dn * g[1] + up_dn * g[0], rounding)
    if len(first) > 2:
        assert_close(first[2], reference[6:8], rounding)


@every
@pytest.mark.parametrize("channels", [one_channel, two_channels])
def test_closed_shell_is_that_of_libxc(name, channels):
    from pyscf.dft import libxc

    totals = [feature.sum(0, keepdim=True) for feature in points(2000, polarised=False)]
    energy, *first = evaluate(make(name), *totals, channels=channels)
    n, g, tau = (total[0].numpy() for total in totals)
    reference = libxc.eval_xc1(
        FUNCTIONALS[name][1], np.concatenate((n[None], g, tau[None])[: len(first)]).squeeze(), spin=0
    )
    assert_close(energy, reference[0] * n)
    assert_close(first[0][0], reference[1])
    if len(first) > 1:
        assert_close(first[1][0], 2 * reference[2] * g)
    if len(first) > 2:
        assert_close(first[2][0], reference[3])


@every
def test_second_derivatives_of_one_channel_equal_those_of_two(name):
    totals = [feature.sum(0, keepdim=True) for feature in points(500, polarised=False)]
    one, two = (evaluate(make(name), *totals, order=2, channels=channels) for channels in (one_channel, two_channels))
    for value, reference in zip(one, two):
        torch.testing.assert_close(value, reference, rtol=1e-8, atol=1e-12)


@every
def test_exchange_and_correlation_alone_add_up_to_both(name):
    maker = FUNCTIONALS[name][0]
    features = dict(zip(NAMES, points(100, polarised=True)))
    exchange, correlation, both = maker(part="x"), maker(part="c"), maker()
    assert (exchange.kind, correlation.kind, both.kind) == ("x", "c", "xc")
    torch.testing.assert_close(exchange(features) + correlation(features), both(features), rtol=1e-14, atol=0)


@every
@pytest.mark.parametrize("part", ["xc", "x", "c"])
def test_functional_is_made_again_from_its_description(name, part):
    functional = FUNCTIONALS[name][0](part=part)
    again = build(describe(functional))
    assert (repr(again), again.kind) == (repr(functional), part)
    features = dict(zip(NAMES, points(10, polarised=True)))
    assert torch.equal(again(features), functional(features))


@pytest.mark.parametrize(
    ("maker", "wrong"), [(PBE, {"form": "rPBE"}), (LDA, {"correlation": "pw"}), (SCAN, {"part": "cx"})]
)
def test_unknown_choice_is_refused(maker, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))!r}: expected "):
        maker(**wrong)


def test_nearly_full_polarisation_is_exact_where_libxc_rounds():
    """1 - zeta = 1e-6; the numbers are those of the formulae with fifty digits, differentiated by mpmath."""
    density = tensor([[0.2, 3e-4], [1e-7, 1.5e-10]])
    gradient = tensor(
        [[[0.1, -2e-4], [-0.05, 0.0], [0.2, 1e-4]], [[1e-7, 0.0], [2e-7, 1e-10], [0.0, -1e-10]]]
    )  # (2, 3, 2)
    energy, v, w = evaluate(PBE(), density, gradient)
    assert_close(energy, np.array([-0.11527375813514956, -2.448699437894899e-05]))
    assert_close(v[0], np.array([-0.7563519934405665, -0.08310565758911079]))
    assert_close(v[1], np.array([0.403511040253843, 0.2377592770900085]))
    assert_close(w[0, :, 0], np.array([-0.0017393762244765265, 0.0008696976498724421, -0.003478760079060396]))
    assert_close(w[1, :, 0], np.array([0.0038137278661917406, -0.0019101784465236772, 0.007630107343125726]))
    assert_close(w[0, :, 1], np.array([0.022798860480830817, 2.4089532701064668e-09, -0.011399432649368678]))
    assert_close(w[1, :, 1], np.array([-0.004817906540212934, -3.9735843917055817e-08, 0.0024089930059503837]))


def wild_points() -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of spin densities from large to negative, gradients from zero to s = 1000 and beyond, any tau."""
    sizes = [0.0, 1e-300, 1e-25, 1e-15, 5e-13, 1e-12, 1e-10, 1e-6, 1e-3, 1.0, 1e3]
    values = [*sizes, -1e-20, -1e-15, -1e-12, -1e-8, -1e-3, -1.0]
    density = tensor(list(itertools.product(values, values))).T
    own = FERMI * (2 * density.clamp(min=0)) ** (4 / 3)
    total = FERMI * density.sum(0).clamp(min=1e-12).expand(2, -1) ** (4 / 3)
    lengths = [s * k for s in (0.0, 1e-10, 1.0, 30.0, 1e3) for k in (own, total, torch.ones_like(own))]
    length = torch.cat(lengths, dim=1)
    density, gradient = density.repeat(1, len(lengths)), torch.stack((length, 0.3 * length, -0.2 * length), dim=1)
    one_orbital = gradient.square().sum(1) / (8 * density.clamp(min=1e-30))
    gas = tensor(uniform_tau(density.clamp(min=0).numpy()))
    constant = torch.ones_like(gas)
    taus = (one_orbital, one_orbital + gas, one_orbital + 1e4 * gas, 0 * gas, -1e-17 * constant, 1e3 * constant)
    return density.repeat(1, len(taus)), gradient.repeat(1, 1, len(taus)), torch.cat(taus, dim=1)


@every
def test_energy_and_two_derivatives_are_finite_everywhere(name):
    for value in evaluate(make(name), *wild_points(), order=2):
        assert value.isfinite().all()


@every
def test_vacuum_has_neither_energy_nor_potential(name):
    features = wild_points()
    vacuum = features[0].sum(0) <= DENSITY_THRESHOLD
    for value in evaluate(make(name), *(feature[..., vacuum] for feature in features)):
        assert (value == 0).all()
    just_above = torch.full((2, 1), 0.51 * DENSITY_THRESHOLD, dtype=torch.float64)
    assert -1e-15 < evaluate(make(name), just_above, torch.zeros(2, 3, 1), torch.zeros(2, 1))[0] < 0


@every
def test_noise_of_an_empty_channel_does_not_move_the_potential(name):
    noise = tensor([0.0, 1e-30, 1e-17, -1e-17, -1e-15])
    density = torch.stack((torch.full_like(noise, 1e-2), noise))
    gradient = torch.stack((torch.full((3, 5), 1e-3, dtype=torch.float64), noise.expand(3, 5)))
    tau = torch.stack((torch.full_like(noise, 1e-3), 3 * noise))
    energy, v, *w = evaluate(make(name), density, gradient, tau)
    assert (energy - energy[0]).abs().max() < 1e-15
    assert (v - v[:, :1]).abs().max() < 1e-9
    assert (v[0, 0] < v[1, 0] - 0.05).all()  # the minority is not given the majority's exchange
    if len(w) > 1:
        assert (w[1] - w[1][:, :1]).abs().max() < 1e-9


@meta
@pytest.mark.parametrize("total", [1e-2, 1e-6, 1e-10])
def test_orbitals_of_an_empty_channel_feel_no_exchange_through_tau(name, total):
    """d(e_x)/d(tau_s) goes as n_s^(-1/3): with density and tau that are noise it would be anything up to 1e4."""
    noise = tensor([0.0, 1e-17, 5e-16, -1e-17, 1e-15])
    density = torch.stack((torch.full_like(noise, total), noise))
    tau = torch.stack((tensor(uniform_tau(density[0].numpy())), noise.flip(0)))
    *_, slope = evaluate(FUNCTIONALS[name][0](part="x"), density, torch.zeros(2, 3, 5), tau)
    assert (slope[1] == 0).all()


@meta
def test_rounding_of_tau_is_rounding_of_the_potential_where_one_orbital_holds_the_density(name):
    """There alpha is zero: were alpha cut off at zero, half of these potentials would jump."""
    density, gradient = tensor([[0.1, 1e-4]]), tensor([[[0.05, 1e-5], [0.0, 2e-5], [0.02, 0.0]]])
    tau = gradient.square().sum(1) / (8 * density)
    exact = evaluate(make(name), density, gradient, tau, channels=one_channel)
    for relative in (1e-12, -1e-12):
        for value, reference in zip(
            evaluate(make(name), density, gradient, tau * (1 + relative), channels=one_channel), exact
        ):
            torch.testing.assert_close(value, reference, rtol=1e-10, atol=0)


@every
def test_first_and_second_derivatives_are_those_of_the_energy(name):
    functional = make(name)
    gradient = 0.05 * torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    features = [tensor([[0.3, 0.02, 0.1], [0.2, 0.05, 0.1]]), gradient, tensor([[0.3, 0.2, 0.1], [0.2, 0.1, 0.05]])]
    leaves = [feature.requires_grad_() for feature in features[: len(functional.features)]]

    def energy(*leaves: Tensor) -> Tensor:
        return functional(dict(zip(NAMES, leaves)))

    assert torch.autograd.gradcheck(energy, leaves)
    assert torch.autograd.gradgradcheck(energy, leaves)


@pytest.mark.parametrize("name", [name for name in FUNCTIONALS if not name.startswith("LDA")])
def test_gradient_corrections_vanish_in_the_uniform_gas(name):
    density, gradient, _ = points(500, polarised=True)
    still, tau = torch.zeros_like(gradient), tensor(uniform_tau(density.numpy()))
    uniform = evaluate(LDA(), density)
    corrected = evaluate(make(name), density, still, tau)
    torch.testing.assert_close(corrected[0], uniform[0], rtol=1e-11, atol=1e-14)
    assert (corrected[1 + NAMES.index("gradient")] == 0).all()
    if name not in ("SCAN", "r2SCAN"):  # those answer to a change of the density at constant tau
        torch.testing.assert_close(corrected[1], uniform[1], rtol=1e-12, atol=1e-14)


@meta
def test_enhancement_of_one_orbital_is_its_bound(name):
    """F_x(s = 0, alpha = 0) = 1.174: J. P. Perdew et al., J. Chem. Phys. 140, 18A533 (2014)."""
    zero = torch.zeros(1, dtype=torch.float64)
    assert float(make(name).enhancement(zero, zero)) == pytest.approx(1.174, abs=1e-14)
