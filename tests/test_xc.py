"""Functionals, point by point, against libxc, extended precision and themselves; and their names."""

import itertools
import math

import numpy as np
import pytest
import torch
from ase.calculators.calculator import InputError
from torch import Tensor

from ase_nnxc.registry import get_functional, pseudo_family
from ase_nnxc.xc import LDA, PBE, Functional
from ase_nnxc.xc.functional import DENSITY_THRESHOLD

LIBXC = {
    "LDA": "lda_x,lda_c_pw_mod",
    "PBE": "gga_x_pbe,gga_c_pbe",
    "PBEsol": "gga_x_pbe_sol,gga_c_pbe_sol",
    "RPBE": "gga_x_rpbe,gga_c_pbe",
    "revPBE": "gga_x_pbe_r,gga_c_pbe",
}
FERMI = (3 * math.pi**2) ** (1 / 3)
names = pytest.mark.parametrize("name", LIBXC)


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def points(count: int, polarised: bool) -> tuple[Tensor, Tensor]:
    """Spin densities (2, n) of total 1e-6 .. 1e2, polarised up to 1 - 1e-6, and gradients (2, 3, n) up to s = 10."""
    rng = np.random.default_rng(2)
    total = 10 ** rng.uniform(-6, 2, count)
    share = 0.5 * 10 ** rng.uniform(-6, 0, count) if polarised else np.full(count, 0.5)
    minority = np.maximum(share * total, 1.01e-12 if polarised else 0)  # libxc clips a channel at 1e-12
    density = np.where(rng.random(count) < 0.5, (minority, total - minority), (total - minority, minority))
    gradient = rng.normal(size=(2, 3, count))
    s = 10 ** rng.uniform(-3, 1, (2, 1, count))
    s[..., : count // 20] = 0
    gradient *= s * FERMI * (2 * density[:, None]) ** (4 / 3) / np.linalg.norm(gradient, axis=1, keepdims=True)
    if not polarised:
        gradient[1] = gradient[0]
    return tensor(density), tensor(gradient)


def evaluate(functional: Functional, density: Tensor, gradient: Tensor, order: int = 1) -> list[Tensor]:
    """Energy per volume, first derivatives, and with order 2 those of their randomly weighted sum."""
    density, gradient = density.clone().requires_grad_(), gradient.clone().requires_grad_()
    leaves = [density, gradient][: len(functional.features)]
    energy = functional({"density": density, "gradient": gradient})
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


@names
def test_energy_and_first_derivatives_are_those_of_libxc(name):
    from pyscf.dft import libxc

    density, gradient = points(4000, polarised=True)
    energy, v, *w = evaluate(get_functional(name), density, gradient)
    n, g = density.numpy(), gradient.numpy()
    rho = np.concatenate((n[:, None], g), axis=1) if w else n
    reference = libxc.eval_xc1(LIBXC[name], rho, spin=1)
    # libxc makes the minority share from 1 - |zeta|, with the rounding error of |zeta|
    rounding = 1e-16 * n.sum(0) / n.min(0)
    assert_close(energy, reference[0] * n.sum(0))
    assert_close(v, reference[1:3], rounding)
    if w:  # dE/d(grad n_up) = 2 vsigma_uu grad n_up + vsigma_ud grad n_dn
        up_up, up_dn, dn_dn = reference[3:6]
        assert_close(w[0][0], 2 * up_up * g[0] + up_dn * g[1], rounding)
        assert_close(w[0][1], 2 * dn_dn * g[1] + up_dn * g[0], rounding)


@names
def test_equal_halves_are_libxcs_closed_shell(name):
    from pyscf.dft import libxc

    density, gradient = points(2000, polarised=False)
    energy, v, *w = evaluate(get_functional(name), density, gradient)
    n, g = density.sum(0).numpy(), gradient.sum(0).numpy()
    reference = libxc.eval_xc1(LIBXC[name], np.concatenate((n[None], g)) if w else n, spin=0)
    assert_close(energy, reference[0] * n)
    for channel in range(2):
        assert_close(v[channel], reference[1])
        if w:
            assert_close(w[0][channel], 2 * reference[2] * g)


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


def wild_points() -> tuple[Tensor, Tensor]:
    """Every pair of spin densities from large to negative, with gradients from zero to s = 1000 and beyond."""
    sizes = [0.0, 1e-300, 1e-25, 1e-15, 5e-13, 1e-12, 1e-10, 1e-6, 1e-3, 1.0, 1e3]
    values = [*sizes, -1e-20, -1e-15, -1e-12, -1e-8, -1e-3, -1.0]
    density = tensor(list(itertools.product(values, values))).T
    own = FERMI * (2 * density.clamp(min=0)) ** (4 / 3)
    total = FERMI * density.sum(0).clamp(min=1e-12).expand(2, -1) ** (4 / 3)
    lengths = [s * k for s in (0.0, 1e-10, 1.0, 30.0, 1e3) for k in (own, total, torch.ones_like(own))]
    length = torch.cat(lengths, dim=1)
    return density.repeat(1, len(lengths)), torch.stack((length, 0.3 * length, -0.2 * length), dim=1)


@names
def test_energy_and_two_derivatives_are_finite_everywhere(name):
    for value in evaluate(get_functional(name), *wild_points(), order=2):
        assert value.isfinite().all()


@names
def test_vacuum_has_neither_energy_nor_potential(name):
    density, gradient = wild_points()
    vacuum = density.sum(0) <= DENSITY_THRESHOLD
    energy, *first = evaluate(get_functional(name), density[:, vacuum], gradient[..., vacuum])
    for value in (energy, *first):
        assert (value == 0).all()
    just_above = density.new_full((2, 1), 0.51 * DENSITY_THRESHOLD)
    assert -1e-15 < evaluate(get_functional(name), just_above, gradient[..., :1])[0] < 0


@names
def test_noise_of_an_empty_channel_does_not_move_the_potential(name):
    noise = tensor([0.0, 1e-30, 1e-17, -1e-17, -1e-15])
    density = torch.stack((torch.full_like(noise, 1e-2), noise))
    gradient = torch.stack((torch.full((3, 5), 1e-3, dtype=torch.float64), noise.expand(3, 5)))
    energy, v, *_ = evaluate(get_functional(name), density, gradient)
    assert (energy - energy[0]).abs().max() < 1e-15
    assert (v - v[:, :1]).abs().max() < 1e-9
    assert (v[0, 0] < v[1, 0] - 0.05).all()  # the minority is not given the majority's exchange


@names
def test_first_and_second_derivatives_are_those_of_the_energy(name):
    functional = get_functional(name)
    density = tensor([[0.3, 0.02, 0.1], [0.2, 0.05, 0.1]]).requires_grad_()
    gradient = (
        0.05 * torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ).requires_grad_()

    def energy(density: Tensor, gradient: Tensor) -> Tensor:
        return functional({"density": density, "gradient": gradient}) + 0 * gradient.sum()

    assert torch.autograd.gradcheck(energy, (density, gradient))
    assert torch.autograd.gradgradcheck(energy, (density, gradient))


@pytest.mark.parametrize("name", [name for name in LIBXC if name != "LDA"])
def test_gradient_corrections_vanish_in_the_uniform_gas(name):
    density, gradient = points(500, polarised=True)
    uniform = evaluate(get_functional("LDA"), density, gradient)
    corrected = evaluate(get_functional(name), density, torch.zeros_like(gradient))
    for value, reference in zip(corrected[:2], uniform):
        torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-14)
    assert (corrected[2] == 0).all()


@names
def test_names_are_found_in_any_case(name):
    for written in (name, name.lower(), name.upper()):
        assert repr(get_functional(written)) == repr(get_functional(name))


def test_objects_pass_through():
    functional = PBE(kappa=0.9)
    assert get_functional(functional) is functional


@pytest.mark.parametrize(("wrong", "close"), [("PBSsol", "PBEsol"), ("rvpbe", "revPBE"), ("LDAA", "LDA")])
def test_unknown_name_is_refused_with_the_known_and_the_closest_one(wrong, close):
    with pytest.raises(InputError, match=f"LDA, PBE, PBEsol, RPBE, revPBE.*did you mean '{close}'"):
        get_functional(wrong)


@pytest.mark.parametrize("wrong", ["", "B3LYP-D4", None, 3, "PBE/", {"name": "PBE"}])
def test_what_names_no_functional_is_refused(wrong):
    with pytest.raises(InputError, match="LDA, PBE, PBEsol, RPBE, revPBE"):
        get_functional(wrong)


def test_pseudopotential_family_follows_the_gradient():
    assert pseudo_family(LDA()) == "pade"
    assert {pseudo_family(get_functional(name)) for name in LIBXC if name != "LDA"} == {"pbe"}
