"""Functionals of libxc: their derivatives, and which names are taken or refused."""

import copy
import math

import pytest
import torch
from torch import Tensor

from ase_nnxc.interop.libxc import ALPHA_FLOOR, Libxc, UnknownFunctional, libxc_names
from ase_nnxc.xc import PBE, R2SCAN, build, describe
from ase_nnxc.xc.spins import DENSITY_THRESHOLD

NAMES = ("density", "gradient", "tau")


def features(channels: int) -> list[Tensor]:
    """Density, gradient and tau of three points, tau above its lower bound |grad n|^2 / 8 n; of one channel or two."""
    gradient = 0.05 * torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    density = torch.tensor([[0.3, 0.02, 0.1], [0.2, 0.05, 0.1]], dtype=torch.float64)
    tau = torch.tensor([[0.3, 0.2, 0.2], [0.2, 0.2, 0.3]], dtype=torch.float64)
    return [feature[:channels].requires_grad_() for feature in (density, gradient, tau)]


def energy(functional: torch.nn.Module, *leaves: Tensor) -> Tensor:
    """Energy of features with both channels, or with the one that stands for both in a closed shell."""
    return functional(dict(zip(NAMES, leaves)))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", ["lda_xc_teter93", "gga_c_lyp", "mgga_x_tpss", "r2scan"])
def test_first_and_second_derivatives_are_those_of_the_energy(name, channels):
    functional = Libxc(name)
    leaves = features(channels)[: len(functional.features)]
    assert torch.autograd.gradcheck(lambda *leaves: energy(functional, *leaves), leaves)
    assert torch.autograd.gradgradcheck(lambda *leaves: energy(functional, *leaves), leaves)


def test_third_derivative_is_refused():
    leaf = features(2)[0]
    (first,) = torch.autograd.grad(energy(Libxc("lda_x"), leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="no third"):
        torch.autograd.grad(second.sum(), leaf)


@pytest.mark.parametrize("channels", [1, 2])
def test_pbe_of_libxc_is_ours(channels):
    leaves = features(channels)[:2]
    parts = Libxc("gga_x_pbe"), Libxc("gga_c_pbe")
    values = []
    for total in (sum(energy(part, *leaves) for part in parts), energy(PBE(), *leaves)):
        first = torch.autograd.grad(total.sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(v.square().sum() for v in first), leaves)
        values.append((total, *first, *second))
    for theirs, ours in zip(*values):
        torch.testing.assert_close(theirs, ours, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("channels", [1, 2])
def test_r2scan_of_libxc_is_ours_down_to_the_floor_of_alpha(channels):
    density, gradient, _ = features(channels)
    n, g = density.detach(), gradient.detach()
    alpha = torch.tensor([1.0, 1e-3, 2.1 * ALPHA_FLOOR], dtype=torch.float64)
    tau = g.square().sum(1) / (8 * n) + alpha * 0.3 * (6 * math.pi**2) ** (2 / 3) * n ** (5 / 3)
    leaves = [density, gradient, tau.requires_grad_()]
    values = []
    for total in (energy(Libxc("r2scan"), *leaves), energy(R2SCAN(), *leaves)):
        values.append((total, *torch.autograd.grad(total.sum(), leaves)))
    for theirs, ours in zip(*values):
        torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mgga_c_tpss", "mgga_c_revtpss", "mgga_c_m06_l"])
def test_rounding_of_tau_is_no_potential_where_one_orbital_has_no_slope(name):
    """There tau and its bound both go to zero, and the correlation of TPSS makes a potential of -1e4."""
    density = torch.tensor([[1e-5], [0.0]], dtype=torch.float64)
    gradient = torch.tensor([[1e-8], [0.0]], dtype=torch.float64).unsqueeze(1).expand(2, 3, 1)
    bound = torch.tensor([[3e-16 / (8 * 1e-5)], [0.0]], dtype=torch.float64)
    for relative in (-1e-9, 0.0, 1e-9):
        tau = (bound * (1 + relative)).requires_grad_()
        (slope,) = torch.autograd.grad(energy(Libxc(name), density, gradient, tau).sum(), tau)
        assert slope.abs().max() < 0.1


def test_one_channel_of_a_closed_shell_equals_two():
    total = features(1)
    one = energy(Libxc("TPSS"), *total)
    two = energy(Libxc("TPSS"), *(torch.cat((leaf, leaf)) for leaf in total))
    torch.testing.assert_close(one, two, rtol=1e-13, atol=0)


def test_vacuum_has_neither_energy_nor_potential():
    density = torch.tensor([[0.4, 1.0, -1.0, 0.0], [0.4, -1.0, 0.5, 0.0]], dtype=torch.float64) * DENSITY_THRESHOLD
    leaves = [density, torch.ones(2, 3, 4, dtype=torch.float64), torch.ones_like(density)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    total = energy(Libxc("SCAN"), *leaves)
    for value in (total, *torch.autograd.grad(total.sum(), leaves)):
        assert (value == 0).all()


def test_tau_below_its_bound_gives_the_energy_at_the_bound_and_no_potential_far_below():
    """libxc itself would take another gradient, as if it were given: in vacuum its potential can be anything."""
    functional = Libxc("mgga_x_scan")
    density, gradient, _ = (leaf.detach() for leaf in features(2))
    bound = gradient.square().sum(1) / (8 * density)
    at_bound = energy(functional, density, gradient, bound)
    for tau, largest in ((0.999 * bound, 1.0), (bound - 1e3, 1e-6)):
        tau.requires_grad_()
        below = energy(functional, density, gradient, tau)
        torch.testing.assert_close(below, at_bound, rtol=1e-12, atol=0)
        (slope,) = torch.autograd.grad(below.sum(), tau)
        assert ((slope >= 0) & (slope < largest)).all()


@pytest.mark.parametrize("name", ["gga_c_lyp", "mgga_c_tpss", "mgga_x_scan"])
def test_gradient_and_tau_of_an_empty_channel_are_not_read(name):
    """LYP of the gradient of what is noise made the potential anything."""
    density = torch.tensor([[1e-2], [-1e-6]], dtype=torch.float64)
    slopes = []
    for noise in (0.0, 1e-4):
        gradient = torch.tensor([[1e-3], [noise]], dtype=torch.float64).unsqueeze(1).expand(2, 3, 1)
        tau = torch.tensor([[1e-3], [noise]], dtype=torch.float64)
        leaves = [leaf.clone().requires_grad_() for leaf in (density, gradient, tau)][: len(Libxc(name).features)]
        slopes.append(torch.autograd.grad(energy(Libxc(name), *leaves).sum(), leaves))
    for without, with_noise in zip(*slopes):
        assert torch.equal(without, with_noise)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_result_is_on_the_device_of_the_features():
    leaves = [leaf.detach().cuda().requires_grad_() for leaf in features(2)]
    total = energy(Libxc("TPSS"), *leaves)
    slopes = torch.autograd.grad(total.sum(), leaves)
    assert {value.device.type for value in (total, *slopes)} == {"cuda"}
    torch.testing.assert_close(total.cpu(), energy(Libxc("TPSS"), *features(2)))


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("lda_x", "x", 1),
        ("GGA_C_PBE", "c", 2),
        ("gga_xc_kt1", "xc", 2),
        ("mgga_x_r2scan", "x", 3),
        ("BLYP", "xc", 2),
        ("revTPSS", "xc", 3),
        ("M06-L", "xc", 3),
        ("hcth-407", "xc", 2),
        ("lyp", "c", 2),
        ("gga_x_optb88_vdw", "x", 2),
        ("mgga_c_dldf", "c", 3),
    ],
)
def test_kind_and_features_are_those_of_libxc(name, kind, count):
    functional = Libxc(name)
    assert (functional.kind, functional.features) == (kind, NAMES[:count])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PBE0", "exact exchange"),
        ("B3LYP", "exact exchange"),
        ("HF", "exact exchange"),
        ("hyb_gga_xc_pbeh", "exact exchange"),
        ("HSE06", "exact exchange, is range-separated"),
        ("gga_x_hjs_pbe", "is range-separated"),
        ("B97M-V", "has nonlocal"),
        ("wB97M-V", "exact exchange, is range-separated, has nonlocal"),
        ("mgga_c_scan_rvv10", "has nonlocal"),
        ("gga_xc_beefvdw", "has nonlocal"),
        ("optB88-vdW", "has nonlocal"),
        ("vdW-DF2", "has nonlocal"),
        ("SCAN+rVV10", "has nonlocal"),
        ("B97-D", "dispersion"),
        ("gga_xc_b97d", "dispersion"),
        ("gga_xc_b97_3c", "dispersion"),
        ("r2SCAN-3c", "dispersion"),
        ("wB97X-D3", "exact exchange, is range-separated, has a dispersion correction"),
        ("PBE-D3(BJ)", "dispersion"),
        ("PBE+D3", "dispersion"),
        ("D3", "dispersion"),
        ("PBE-TS", "dispersion"),
        ("PBE-MBD", "dispersion"),
        ("lda_c_epc17", "electrons with protons"),
        ("lda_x_erf", "is range-separated"),
        ("gga_c_lypr", "is range-separated"),
        ("mgga_x_br89", "Laplacian"),
        ("SCANL", "Laplacian"),
        ("gga_k_apbe", "kinetic energy"),
        ("lda_x_2d", "fewer than three dimensions"),
        ("gga_x_lb", "a potential but no energy"),
    ],
)
def test_what_is_not_semilocal_exchange_and_correlation_is_refused_with_the_reason(name, reason):
    with pytest.raises(ValueError, match=reason) as error:
        Libxc(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(("name", "hint"), [("gga_x_pbf", "gga_x_p"), ("BLIP", "blyp"), ("r2scam", "r2scan")])
def test_unknown_name_is_refused_with_the_closest_one(name, hint):
    with pytest.raises(UnknownFunctional, match=f"no functional '{name}'; did you mean '{hint}"):
        Libxc(name)


@pytest.mark.parametrize("name", ["", "1", "b88,lyp", "lda_x+lda_c_pw", "0.5*b88", "PBE-LYP"])
def test_expressions_and_numbers_of_pyscf_are_no_names(name):
    with pytest.raises(UnknownFunctional, match="no functional"):
        Libxc(name)


def test_name_that_could_be_two_functionals_is_refused_with_both():
    with pytest.raises(ValueError, match="is ambiguous: write gga_x_am05 or gga_c_am05"):
        Libxc("am05")


def test_functional_is_copied_and_made_again_without_parameters():
    functional = Libxc("mPW91")
    assert not list(functional.parameters())
    for again in (copy.deepcopy(functional), build(describe(functional))):
        assert repr(again) == "Libxc('mpw91')"
        assert torch.equal(energy(again, *features(2)), energy(functional, *features(2)))


def test_every_name_is_calculated_or_refused(capfd):
    taken = 0
    for name in libxc_names():
        try:
            functional = Libxc(name)
        except ValueError:
            continue
        assert energy(functional, *features(2)).isfinite().all(), name
        taken += 1
    assert taken > 500
    assert capfd.readouterr() == ("", "")
