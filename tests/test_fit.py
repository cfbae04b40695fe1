"""Birch-Murnaghan fit: recovered parameters, gradients, error estimate, refusals."""

import numpy as np
import pytest
import torch
from ase.eos import birchmurnaghan

from ase_nnxc.eos.birch_murnaghan import NoMinimumError, fit_birch_murnaghan

E0, B0, BP, V0 = -57.25, 0.49, 4.7, 16.5  # aluminium-like, eV and A^3


def curve(scales: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    volumes = V0 * scales
    return torch.from_numpy(volumes), torch.from_numpy(birchmurnaghan(volumes, E0, B0, BP, V0))


@pytest.mark.parametrize("centre", [1.0, 0.96, 1.05])
def test_fit_recovers_known_parameters(centre):
    fit = fit_birch_murnaghan(*curve(centre * np.linspace(0.94, 1.06, 7)))
    assert fit.volume.item() == pytest.approx(V0, rel=1e-10)
    assert fit.energy.item() == pytest.approx(E0, rel=1e-12)
    assert fit.bulk_modulus.item() == pytest.approx(B0, rel=1e-9)
    assert fit.bulk_derivative.item() == pytest.approx(BP, rel=1e-8)
    assert fit.energy_at(torch.tensor([V0], dtype=torch.float64)).item() == pytest.approx(E0, rel=1e-13)


def test_fit_does_not_depend_on_units():
    volumes, energies = curve(np.linspace(0.94, 1.06, 7))
    fit, scaled = fit_birch_murnaghan(volumes, energies), fit_birch_murnaghan(volumes * 6.7483345, energies / 27.2114)
    assert scaled.volume.item() == pytest.approx(fit.volume.item() * 6.7483345, rel=1e-11)
    assert scaled.bulk_modulus.item() == pytest.approx(fit.bulk_modulus.item() / 27.2114 / 6.7483345, rel=1e-9)


def test_gradients_of_equilibrium_match_finite_differences():
    volumes, energies = curve(np.linspace(0.94, 1.06, 7))
    noise = 1e-3 * torch.tensor([1.0, -2, 0.5, 1, -1, 2, -0.3], dtype=torch.float64)

    def equilibrium(e):
        fit = fit_birch_murnaghan(volumes, e)
        return fit.volume, fit.energy, fit.bulk_modulus, fit.bulk_derivative

    assert torch.autograd.gradcheck(equilibrium, ((energies + noise).requires_grad_(),), eps=1e-7, atol=1e-6, rtol=1e-6)


def test_error_estimate_matches_scatter_of_noisy_fits():
    generator = torch.Generator().manual_seed(7)
    volumes, energies = curve(np.linspace(0.94, 1.06, 13))
    fits = [
        fit_birch_murnaghan(volumes, energies + 1e-4 * torch.randn(13, generator=generator, dtype=torch.float64))
        for _ in range(400)
    ]
    values = torch.stack([torch.stack((f.volume, f.energy, f.bulk_modulus, f.bulk_derivative)) for f in fits])
    estimate = torch.stack([f.errors for f in fits]).square().mean(dim=0).sqrt()
    assert torch.allclose(values.std(dim=0), estimate, rtol=0.12)


def test_four_points_have_no_error_estimate():
    fit = fit_birch_murnaghan(*curve(np.array([0.95, 0.98, 1.02, 1.05])))
    assert fit.volume.item() == pytest.approx(V0, rel=1e-10)
    assert torch.isnan(fit.errors).all()


def test_fit_works_without_grad_mode():
    with torch.no_grad():
        fit = fit_birch_murnaghan(*curve(np.linspace(0.94, 1.06, 7)))
    assert not fit.volume.requires_grad
    assert torch.isfinite(fit.errors).all()


@pytest.mark.parametrize("spoil", ["few", "repeated", "upside down", "nan"])
def test_energies_without_an_equation_of_state_are_refused(spoil):
    volumes, energies = curve(np.linspace(0.94, 1.06, 7))
    if spoil == "few":
        volumes, energies = volumes[:3], energies[:3]
    elif spoil == "repeated":
        volumes = volumes[[0, 0, 1, 1, 2, 2, 2]]
    elif spoil == "upside down":
        energies = -((volumes - V0) ** 2)
    else:
        energies[2] = torch.nan
    with pytest.raises(ValueError, match="Birch-Murnaghan"):
        fit_birch_murnaghan(volumes, energies)


@pytest.mark.parametrize("energies", [(0, 1, 0), (0, 1, 2), (2, 1, 0), (0, 0, 0)], ids=str)
def test_three_energies_without_a_minimum_are_refused(energies):
    volumes = torch.tensor([15.0, 16.0, 17.0], dtype=torch.float64)
    with pytest.raises(NoMinimumError, match="no minimum at or near their volumes"):
        fit_birch_murnaghan(volumes, torch.tensor(energies, dtype=torch.float64), order=2)


def test_three_volumes_give_the_equation_of_second_order():
    """Its lattice constant is too large by (B0' - 4) h^2 / 18."""
    h, slope = 0.02, 5.2
    x = V0 * np.array([1 - h, 1, 1 + h])
    reduced = (V0 / x) ** (2 / 3) - 1
    energies = 9 * V0 / 16 * (reduced**3 * slope + reduced**2 * (2 - 4 * reduced))  # B0 = 1
    fit = fit_birch_murnaghan(torch.from_numpy(x), torch.from_numpy(energies), order=2)
    assert fit.bulk_derivative.item() == pytest.approx(4, abs=1e-9)
    assert (fit.volume.item() / V0) ** (1 / 3) - 1 == pytest.approx((slope - 4) * h**2 / 18, rel=0.1)
    with pytest.raises(ValueError, match="order 3 needs energies at 4 different volumes"):
        fit_birch_murnaghan(torch.from_numpy(x), torch.from_numpy(energies))
