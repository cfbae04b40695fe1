"""Smearing functions, their thermodynamics and the Fermi level."""

import math

import pytest
import torch
from torch import Tensor

from ase_nnxc.ks.occupations import TRY_WHOLE, WHOLE, Smearing

NAMES = ["fermi-dirac", "gaussian", "marzari-vanderbilt", "methfessel-paxton"]


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# eigenvalues and Fermi levels of test/occupation.jl of DFTK.jl (MIT licence): magnesium, then ferromagnetic iron
MAGNESIUM = tensor(
    [
        [
            [-0.08063210585291, 0.11227915155236, 0.13057816014162, 0.57672256037074],
            [0.09509047528102, 0.09538152469111, 0.27197836572013, 0.28750689088845],
            [-0.00144586520885, 0.18640677556553, 0.19603060374450, 0.24422060327989],
            [0.05693643182609, 0.16919740718547, 0.24190245274401, 0.25674283154835],
            [-0.06756541677784, 0.03381889875058, 0.23162853469956, 0.50981867707851],
            [0.10685980948954, 0.10728887405642, 0.20784971952147, 0.20786603845828],
            [0.01122399002894, 0.11011069317735, 0.24016826005369, 0.30770620467001],
            [0.06925846412968, 0.16087157153058, 0.19146746736359, 0.27463770659603],
            [-0.02937886574534, -0.02937886574483, 0.36206906745747, 0.36206906745749],
            [0.13314087354890, 0.13314087354890, 0.15834732772541, 0.15834732772541],
            [0.04869672986772, 0.04869672986772, 0.27749728805752, 0.27749728805768],
            [0.10585630776222, 0.10585630776223, 0.22191839818805, 0.22191839818822],
        ]
    ]
)
MAGNESIUM_WEIGHTS = torch.full((12,), 1 / 12, dtype=torch.float64)
IRON = tensor(
    [
        [
            [-0.09317171, 0.05662733, 0.05662733, 0.05662733, 0.1027973, 0.1027973, 1.133822],
            [-0.01970275, 0.04049757, 0.06672252, 0.09504781, 0.09571417, 0.1045477, 0.777691],
            [-0.008317428, 0.02549644, 0.1018706, 0.1075814, 0.140451, 0.2306614, 0.4425744],
            [0.01779316, 0.03559934, 0.06175814, 0.09824229, 0.1133369, 0.2534185, 0.598366],
            [0.03831527, 0.03831527, 0.03831527, 0.1085794, 0.1085794, 0.5062097, 0.5062097],
            [0.02249843, 0.04778311, 0.07322733, 0.07322733, 0.09343694, 0.1691936, 0.8155277],
            [0.01298261, 0.03133082, 0.07131262, 0.0928459, 0.1361777, 0.3808009, 0.4713903],
            [-0.006884875, -0.006884875, 0.1317392, 0.1317392, 0.1317392, 0.560895, 0.560895],
        ],
        [
            [-0.0686855, 0.3042072, 0.3042072, 0.3042072, 0.3824597, 0.3824597, 1.141987],
            [0.01739212, 0.2749508, 0.2790246, 0.3584238, 0.3687848, 0.3864797, 0.8680247],
            [0.1453898, 0.2491354, 0.2495129, 0.3776472, 0.3951613, 0.4310432, 0.6072722],
            [0.1478936, 0.2322534, 0.2519767, 0.3713906, 0.3948955, 0.4582024, 0.707126],
            [0.2196432, 0.2196432, 0.2196432, 0.3973532, 0.3973532, 0.632154, 0.632154],
            [0.09041911, 0.2750986, 0.312412, 0.312412, 0.3584034, 0.4077667, 0.9012088],
            [0.1944933, 0.2061272, 0.3099407, 0.3365089, 0.4243378, 0.4929272, 0.599024],
            [0.1830541, 0.1830541, 0.417559, 0.417559, 0.417559, 0.5923824, 0.5923824],
        ],
    ]
)
IRON_WEIGHTS = tensor([1, 12, 6, 24, 2, 6, 12, 1]) / 64  # bcc, 4 x 4 x 4


def electrons(smearing: Smearing, eigenvalues: Tensor, weights: Tensor, mu: Tensor, degeneracy: int) -> float:
    return degeneracy * float((weights[:, None] * smearing.occupations(eigenvalues, mu)).sum())


@pytest.mark.parametrize("name", NAMES)
def test_entropy_is_conjugate_to_occupation(name):
    """s' = x f', exactly by autograd and by finite differences: else forces would not be derivatives of F."""
    smearing = Smearing(name, 0.02)
    e = torch.linspace(-0.15, 0.15, 301, dtype=torch.float64, requires_grad=True)
    mu = 0.013
    (ds,) = torch.autograd.grad(smearing.entropy(e, mu).sum(), e)
    (df,) = torch.autograd.grad(smearing.occupations(e, mu).sum(), e)
    x = (e - mu) / smearing.width
    torch.testing.assert_close(ds, x * df, rtol=0, atol=1e-12)
    torch.testing.assert_close(smearing.derivatives(e, mu), df, rtol=0, atol=1e-12)
    h = 1e-5
    numerical = (smearing.occupations(e + h, mu) - smearing.occupations(e - h, mu)) / (2 * h)
    torch.testing.assert_close(df, numerical, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_far_states_are_full_or_empty_with_finite_gradients(name):
    smearing = Smearing(name, 1e-4)
    e = tensor([-1e3, -1.0, 1.0, 1e3]).requires_grad_()
    f, s = smearing.occupations(e, 0.0), smearing.entropy(e, 0.0)
    assert f.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert s.tolist() == [0.0, 0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad((f + s).sum(), e)
    assert gradient.tolist() == [0.0, 0.0, 0.0, 0.0]


def test_occupations_at_the_fermi_level():
    """Values known in closed form, so that a wrong sign or unit of x is seen."""
    at = {name: float(Smearing(name, 0.1).occupations(tensor([0.1]), 0.0)) for name in NAMES}  # x = 1
    y = 1 + 1 / math.sqrt(2)
    assert at["fermi-dirac"] == pytest.approx(1 / (math.e + 1), rel=1e-14)
    assert at["gaussian"] == pytest.approx(math.erfc(1) / 2, rel=1e-14)
    cold = math.erfc(y) / 2 + math.exp(-(y**2)) / math.sqrt(2 * math.pi)
    assert at["marzari-vanderbilt"] == pytest.approx(cold, rel=1e-14)
    mp = math.erfc(1) / 2 - math.exp(-1) / (2 * math.sqrt(math.pi))
    assert at["methfessel-paxton"] == pytest.approx(mp, rel=1e-14)


@pytest.mark.parametrize(
    ("name", "width", "reference"),
    [
        ("fermi-dirac", 0.01, 0.16163115311626172),
        ("fermi-dirac", 0.02, 0.1624111568340279),
        ("fermi-dirac", 0.03, 0.1630075080960013),
        ("methfessel-paxton", 0.01, 0.16120395021955866),
        ("methfessel-paxton", 0.02, 0.16153528960704408),
        ("methfessel-paxton", 0.03, 0.16131173898225953),
    ],
)
def test_fermi_level_is_dftk_magnesium(name, width, reference):
    smearing = Smearing(name, width)
    mu = smearing.fermi_level(MAGNESIUM, MAGNESIUM_WEIGHTS, 4, 2)
    assert float(mu) == pytest.approx(reference, abs=1e-12)
    assert electrons(smearing, MAGNESIUM, MAGNESIUM_WEIGHTS, mu, 2) == pytest.approx(4, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "width", "reference"),
    [
        ("gaussian", 1e-2, 0.26725860386964656),
        ("marzari-vanderbilt", 1e-2, 0.2624352644962286),
        ("methfessel-paxton", 1e-2, 0.2685411900311375),
        ("gaussian", 1e-3, 0.27413279592006573),
        ("marzari-vanderbilt", 1e-3, 0.2744172412944558),
        ("methfessel-paxton", 1e-3, 0.27445994971377974),
        ("gaussian", 1e-4, 0.27488223611466617),
        ("marzari-vanderbilt", 1e-4, 0.27490853712608),
        ("methfessel-paxton", 1e-4, 0.274908008227603),
    ],
)
def test_fermi_level_of_iron_is_the_one_next_to_gaussian(name, width, reference):
    """The number of electrons is not monotonic here, and bisection alone finds other levels."""
    smearing = Smearing(name, width)
    mu = smearing.fermi_level(IRON, IRON_WEIGHTS, 8, 1)
    assert float(mu) == pytest.approx(reference, abs=1e-12)
    assert electrons(smearing, IRON, IRON_WEIGHTS, mu, 1) == pytest.approx(8, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [1e-4, 1e-3, 1e-2, 0.1])
def test_random_bands_hold_their_electrons(name, width):
    generator = torch.Generator().manual_seed(7)
    weights = torch.rand(9, generator=generator, dtype=torch.float64)
    weights /= weights.sum()
    smearing = Smearing(name, width)
    for nelectrons in (0.1, 1.0, 3.0, 7.3, 11.9):
        eigenvalues = torch.rand((2, 9, 6), generator=generator, dtype=torch.float64)
        mu = smearing.fermi_level(eigenvalues, weights, nelectrons, 1)
        assert electrons(smearing, eigenvalues, weights, mu, 1) == pytest.approx(nelectrons, abs=2e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gap", [0.2, 0.04, 0.03, 0.015, 0.004])
def test_insulators_hold_their_electrons_whatever_gap_and_width(name, gap):
    valence = torch.linspace(-0.3, 0.0, 12, dtype=torch.float64).view(1, 3, 4)
    eigenvalues = torch.cat([valence, valence + 0.3 + gap], dim=-1)
    weights = tensor([0.5, 0.3, 0.2])
    smearing = Smearing(name, 0.001)
    mu = smearing.fermi_level(eigenvalues, weights, 8, 2)
    assert electrons(smearing, eigenvalues, weights, mu, 2) == pytest.approx(8, abs=1e-12)
    assert -0.001 < float(mu) < gap + 0.001
    if gap == 0.2:
        assert float(mu) == pytest.approx(gap / 2, abs=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_full_bands_without_empty_ones_stay_full(name):
    eigenvalues = tensor([[[-0.3, -0.1], [-0.2, 0.1]]])
    weights = tensor([0.25, 0.75])
    smearing = Smearing(name, 0.01)
    mu = smearing.fermi_level(eigenvalues, weights, 4, 2)
    assert electrons(smearing, eigenvalues, weights, mu, 2) == pytest.approx(4, abs=1e-12)


def test_no_electrons_leave_the_bands_empty():
    smearing = Smearing("gaussian", 0.01)
    mu = smearing.fermi_level(MAGNESIUM, MAGNESIUM_WEIGHTS, 0, 2)
    assert electrons(smearing, MAGNESIUM, MAGNESIUM_WEIGHTS, mu, 2) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_free_energy_is_stationary_in_the_occupations(name):
    """dF/de_i at fixed number of electrons is the occupation alone, the change of mu and f dropping out."""
    smearing, n = Smearing(name, 0.02), 4

    def free_energy(eigenvalues: Tensor) -> float:
        mu = smearing.fermi_level(eigenvalues, MAGNESIUM_WEIGHTS, n, 2)
        f, s = smearing.occupations(eigenvalues, mu), smearing.entropy(eigenvalues, mu)
        return float((2 * MAGNESIUM_WEIGHTS[:, None] * (f * eigenvalues - smearing.width * s)).sum())

    mu = smearing.fermi_level(MAGNESIUM, MAGNESIUM_WEIGHTS, n, 2)
    expected = 2 * MAGNESIUM_WEIGHTS[:, None] * smearing.occupations(MAGNESIUM, mu)
    for band in [(0, 0, 1), (0, 3, 1), (0, 10, 2)]:
        step = torch.zeros_like(MAGNESIUM)
        step[band] = 1e-5
        slope = (free_energy(MAGNESIUM + step) - free_energy(MAGNESIUM - step)) / 2e-5
        assert slope == pytest.approx(float(expected[band]), abs=1e-7)


@pytest.mark.parametrize("name", ["fermi-dirac", "gaussian"])
def test_extrapolation_removes_the_leading_error_in_the_width(name):
    """A band of free electrons: E0 changes with the fourth power of the width, F with the second."""
    k = torch.linspace(0, 3, 20001, dtype=torch.float64)
    eigenvalues, weights = k.square()[None, :, None], k.square() / k.square().sum()

    def energies(width: float) -> tuple[float, float]:
        smearing = Smearing(name, width)
        mu = smearing.fermi_level(eigenvalues, weights, 0.3, 1)
        f, s = smearing.occupations(eigenvalues, mu), smearing.entropy(eigenvalues, mu)
        term = -width * float((weights[:, None] * s).sum())
        free = float((weights[:, None] * f * eigenvalues).sum()) + term
        return free, free + smearing.extrapolation * term

    (narrow, narrow0), (wide, wide0) = energies(0.05), energies(0.2)
    assert abs(wide0 - narrow0) < 2e-3 * abs(wide - narrow)


def test_extrapolation_factors():
    assert [Smearing(name, 1.0).extrapolation for name in NAMES] == [-1 / 2, -1 / 2, 0, pytest.approx(-1 / 3)]


def test_too_few_bands_are_an_error():
    with pytest.raises(ValueError, match="too few bands: they hold 8 of 9 electrons"):
        Smearing("gaussian", 0.01).fermi_level(MAGNESIUM, MAGNESIUM_WEIGHTS, 9, 2)


@pytest.mark.parametrize("width", [0.0, -0.1, math.nan, math.inf])
def test_width_must_be_positive(width):
    with pytest.raises(ValueError, match="width of the smearing must be positive"):
        Smearing("gaussian", width)


def test_unknown_smearing_names_the_known_ones():
    with pytest.raises(ValueError, match="fermi-dirac, gaussian, marzari-vanderbilt, methfessel-paxton"):
        Smearing("fermi", 0.1)


@pytest.mark.parametrize("nelectrons", [-1.0, math.nan])
def test_senseless_numbers_of_electrons_are_errors(nelectrons):
    with pytest.raises(ValueError, match="number of electrons"):
        Smearing("gaussian", 0.1).fermi_level(MAGNESIUM, MAGNESIUM_WEIGHTS, nelectrons, 2)


def test_eigenvalues_that_are_not_numbers_are_errors():
    eigenvalues = MAGNESIUM.clone()
    eigenvalues[0, 3, 2] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        Smearing("gaussian", 0.1).fermi_level(eigenvalues, MAGNESIUM_WEIGHTS, 4, 2)


def gap_of(widths: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two filled and two empty levels at two k-points, with a gap of so many widths of 0.01 Ha."""
    levels = torch.tensor([-0.3, -0.1, -0.1, 0.3], dtype=torch.float64)
    levels[2:] += 0.01 * widths
    levels = torch.stack((levels, levels + torch.tensor([-0.05, -0.05, 0.05, 0.05])))
    return levels[None], torch.tensor([0.5, 0.5], dtype=torch.float64)


def test_wide_gap_is_filled_with_whole_electrons_and_its_level_is_the_middle():
    levels, weights = gap_of(9.6)
    states = Smearing("marzari-vanderbilt", 0.01).fill(levels, weights, [(slice(None), 4.0)])
    assert states.occupations.tolist() == [[[1.0, 1.0, 0.0, 0.0]] * 2]
    assert float(states.fermi_levels[0]) == pytest.approx(-0.1 + 0.048, abs=1e-12)
    assert states.entropy == 0.0


def test_narrow_gap_is_filled_as_a_metal():
    levels, weights = gap_of(5.0)
    states = Smearing("marzari-vanderbilt", 0.01).fill(levels, weights, [(slice(None), 4.0)])
    assert float(states.electrons.sum()) == pytest.approx(4.0, abs=1e-12)
    assert states.entropy != 0.0


def test_whole_electrons_are_tried_at_narrower_gaps():
    smearing, reservoirs = Smearing("marzari-vanderbilt", 0.01), [(slice(None), 4.0)]
    strict, tried = (smearing.fill(*gap_of(7.0), reservoirs, whole) for whole in (WHOLE, TRY_WHOLE))
    assert strict.entropy != 0.0 == tried.entropy
    assert strict.missed == 0.0
    assert WHOLE < tried.missed < TRY_WHOLE


def test_fractions_that_cancel_are_not_whole_electrons():
    levels = torch.tensor([[[-0.001, 0.001, 0.045]]], dtype=torch.float64)  # a gap of 0.2 widths
    weights = torch.tensor([1.0], dtype=torch.float64)
    states = Smearing("methfessel-paxton", 0.01).fill(levels, weights, [(slice(None), 2.0)])
    assert states.missed == 0.0
    assert 0.5 < float(states.occupations[0, 0, 0]) < 0.7


@pytest.mark.parametrize("widths", [6.0, 7.6, 7.84, 7.86, 8.1])
def test_a_doubled_cell_is_filled_in_the_same_way(widths):
    levels, weights = gap_of(widths)
    smearing = Smearing("marzari-vanderbilt", 0.01)
    primitive = smearing.fill(levels, weights, [(slice(None), 4.0)])
    doubled = smearing.fill(levels.reshape(1, 1, -1), torch.ones(1, dtype=torch.float64), [(slice(None), 8.0)])
    assert doubled.missed == primitive.missed
    assert float(doubled.fermi_levels[0]) == pytest.approx(float(primitive.fermi_levels[0]), abs=1e-12)
    assert doubled.entropy == pytest.approx(2 * primitive.entropy, abs=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_density_of_states_is_the_derivative_of_the_number_of_electrons(name: str) -> None:
    """That of Gaussian smearing, whose density of states is never negative."""
    states = Smearing(name, 0.02).fill(IRON, IRON_WEIGHTS, [(slice(None), 8.0)])
    level, gaussian = float(states.fermi_levels[0]), Smearing("gaussian", 0.02)

    def number(mu: float) -> float:
        return float((gaussian.occupations(IRON, mu).sum(-1) * IRON_WEIGHTS).sum())

    slope = (number(level + 1e-4) - number(level - 1e-4)) / 2e-4
    assert states.density_of_states == pytest.approx(slope, rel=1e-4)
    assert slope > 1
