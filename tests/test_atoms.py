"""Spherical all-electron atoms: elements, the radial equation, functionals on a sphere, total energies and levels.

Total energies are those of dftatom (O. Certik et al., Comput. Phys. Commun. 184, 1777 (2013)), good to 1e-9 Ha, and of
NIST's database 141 (S. Kotochigova et al., Phys. Rev. A 55, 191 (1997)), printed with six decimals.
"""

import json
import math

import numpy as np
import pytest
import torch

from ase_nnxc.atoms import (
    AtomError,
    Elements,
    Shell,
    check_spherical,
    parse_shells,
    radial_equation,
    solve_atom,
    xc_of_sphere,
)
from ase_nnxc.atoms.all_electron import shell_tau
from ase_nnxc.atoms.elements import atomic_edges
from ase_nnxc.atoms.radial_equation import LIGHT, RadialEquation, coulomb_potential
from ase_nnxc.registry import get_functional
from ase_nnxc.xc import LDA, NNGGA, PBE, R2SCAN, Functional

NEON = "1s2 2s2 2p6"
SILICON = f"{NEON} 3s2 3p2"
COPPER = f"{NEON} 3s2 3p6 3d10 4s1"
SILVER = f"{NEON} 3s2 3p6 3d10 4s2 4p6 4d10 5s1"
GOLD = f"{NEON} 3s2 3p6 3d10 4s2 4p6 4d10 4f14 5s2 5p6 5d10 6s1"
LDA_ENERGIES = {
    "He": (2, "1s2", -2.8348356241),
    "C": (6, "1s2 2s2 2p2", -37.4257485357),
    "Ne": (10, NEON, -128.2334812688),
    "Si": (14, SILICON, -288.1983966033),
    "Cu": (29, COPPER, -1637.7858608686),
    "Ag": (47, SILVER, -5195.0312146635),
    "Au": (79, GOLD, -17860.7909426312),
}
# PySCF with r2SCAN of libxc in even-tempered bases: 26 s functions, ratio 2.0; 40 s and 30 p functions, ratio 1.65
R2SCAN_ENERGIES = {"He": (2, "1s2", -2.9049561), "Ne": (10, NEON, -128.934826)}
SCALAR_RELATIVISTIC_ENERGIES = {
    "Ne": (10, NEON, -128.336369),
    "Cu": (29, COPPER, -1650.858424),
    "Au": (79, GOLD, -18963.123612),
}

NIST_LIGHT = 137.0359895
"""The velocity of light of these energies."""


class MacDonaldVosko(Functional):
    """LDA whose exchange has the relativistic correction that NIST's scalar-relativistic energies hold."""

    def __init__(self):
        super().__init__()
        self.exchange, self.correlation = LDA("vwn", part="x"), LDA("vwn", part="c")

    def forward(self, features):
        # e_x times 1 - 3/2 [(b sqrt(1 + b^2) - arsinh b) / b^2]^2,  b = (3 pi^2 n)^(1/3) / c
        b = (3 * math.pi**2 * features["density"].sum(0)).clamp(min=1e-12) ** (1 / 3) / NIST_LIGHT
        ratio = torch.where(b > 1e-2, (b * (1 + b**2).sqrt() - torch.asinh(b)) / b**2, 2 * b / 3)
        return self.exchange(features) * (1 - 1.5 * ratio**2) + self.correlation(features)


@pytest.mark.parametrize(("n", "l"), [(1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2)])
def test_levels_of_a_nucleus_are_those_of_hydrogen(n, l):  # noqa: E741
    equation = RadialEquation(Elements(atomic_edges(20)), 20, relativistic=False)
    state = equation.bound_state(l, np.zeros(len(equation.elements.radii)), n - l - 1)
    assert state.energy == pytest.approx(-0.5 * (20 / n) ** 2, rel=1e-12)


def test_lowest_relativistic_level_is_that_of_dirac():
    equation = RadialEquation(Elements(atomic_edges(80)), 80, relativistic=True)
    state = equation.bound_state(0, np.zeros(len(equation.elements.radii)), 0)
    assert state.energy == pytest.approx(LIGHT**2 * (math.sqrt(1 - (80 / LIGHT) ** 2) - 1), rel=1e-10)


def test_levels_below_an_energy_are_counted_by_nodes():
    equation = RadialEquation(Elements(atomic_edges(10)), 10, relativistic=False)
    v = np.zeros(len(equation.elements.radii))
    levels = [equation.levels_below(1, v, energy, 6) for energy in (-13, -12, -5, -2.5)]  # 2p -12.5, 3p -5.6, 4p -3.1
    assert levels == [0, 1, 2, 3]


def test_coulomb_potential_of_hydrogen():
    elements = Elements(atomic_edges(1))
    r = elements.radii
    expected = (1 - np.exp(-2 * r[1:]) * (1 + r[1:])) / r[1:]
    np.testing.assert_allclose(coulomb_potential(elements, np.exp(-2 * r) / np.pi)[1:], expected, atol=1e-11)


@pytest.mark.parametrize("functional", [PBE(), R2SCAN()], ids=["PBE", "r2SCAN"])
def test_potential_is_the_derivative_of_the_energy(functional):
    elements = Elements(atomic_edges(2))
    r = elements.radii
    density, tau = np.exp(-2 * r), np.exp(-2 * r)
    change = 1e-4 * np.exp(-((r - 1) ** 2))
    energies = [
        xc_of_sphere(functional, elements, density + sign * change, tau + 2 * sign * change).energy for sign in (1, -1)
    ]
    xc = xc_of_sphere(functional, elements, density, tau)
    expected = 4 * np.pi * (elements.weights * r**2) @ (xc.v * change + xc.v_tau * 2 * change)
    assert 0.5 * (energies[0] - energies[1]) == pytest.approx(expected, rel=1e-6)


def test_kinetic_energy_density_of_hydrogen():
    """That of one s orbital is von Weizsaecker's, n/2 for exp(-r)."""
    elements = Elements(atomic_edges(1))
    tau = shell_tau(0, 2 * np.exp(-elements.radii), elements)
    np.testing.assert_allclose(tau, np.exp(-2 * elements.radii) / (2 * np.pi), rtol=1e-8, atol=1e-20)


def test_kinetic_energy_density_of_a_p_shell_at_the_nucleus():
    """R = r exp(-r) has R'^2 + 2 R^2 / r^2 = 3 at r = 0."""
    elements = Elements(atomic_edges(1))
    tau = shell_tau(1, elements.radii * np.exp(-elements.radii), elements)
    assert tau[0] == pytest.approx(3 / (8 * np.pi), rel=1e-6)


def test_edges_of_an_atom_hold_those_that_are_asked_for():
    edges = atomic_edges(14, (1.603032, 1.721969))
    assert {1.603032, 1.721969} <= set(edges)
    assert np.diff(edges).min() > 0


@pytest.mark.parametrize("name", LDA_ENERGIES)
def test_total_energy_of_lda(name):
    number, configuration, energy = LDA_ENERGIES[name]
    atom = solve_atom(number, parse_shells(configuration), LDA("vwn"), relativistic=False)
    assert atom.total_energy == pytest.approx(energy, rel=2e-12, abs=1e-8)  # gold rounds to 2e-8


@pytest.mark.parametrize("name", SCALAR_RELATIVISTIC_ENERGIES)
def test_scalar_relativistic_total_energy(name, monkeypatch):
    monkeypatch.setattr(radial_equation, "LIGHT", NIST_LIGHT)
    number, configuration, energy = SCALAR_RELATIVISTIC_ENERGIES[name]
    atom = solve_atom(number, parse_shells(configuration), MacDonaldVosko())
    assert atom.total_energy == pytest.approx(energy, abs=2e-6)


@pytest.mark.parametrize("functional", [PBE(), R2SCAN()], ids=["PBE", "r2SCAN"])
def test_energy_is_stationary_and_its_slope_by_an_occupation_is_the_level(functional):
    """Janak's theorem."""
    atoms = [solve_atom(6, parse_shells(f"1s2 2s2 2p{2 + x}"), functional) for x in (-0.01, 0, 0.01)]
    level = atoms[1].states[Shell(2, 1, 2.0)].energy
    assert (atoms[2].total_energy - atoms[0].total_energy) / 0.02 == pytest.approx(level, abs=1e-5)


@pytest.mark.parametrize("name", R2SCAN_ENERGIES)
def test_total_energy_of_r2scan(name):
    number, configuration, energy = R2SCAN_ENERGIES[name]
    atom = solve_atom(number, parse_shells(configuration), R2SCAN(), relativistic=False)
    assert atom.total_energy == pytest.approx(energy, abs=2e-5)


@pytest.mark.parametrize("configuration", [f"{NEON} 3s1", f"{NEON} 3s2 3p6 4s1"])
def test_tail_of_one_orbital_converges_with_a_functional_of_tau(configuration):
    shells = parse_shells(configuration)
    atom = solve_atom(round(sum(shell.electrons for shell in shells)), shells, R2SCAN())
    assert atom.states[shells[-1]].energy == pytest.approx(-0.09, abs=0.02)


def test_start_from_another_functional_changes_nothing():
    shells = parse_shells(SILICON)
    start = solve_atom(14, shells, LDA())
    warm, cold = solve_atom(14, shells, PBE(), start=start), solve_atom(14, shells, PBE())
    assert warm.total_energy == pytest.approx(cold.total_energy, abs=1e-8)


def test_frozen_shells_keep_their_functions():
    shells = parse_shells(SILICON)
    start = solve_atom(14, shells, LDA())
    atom = solve_atom(14, shells, PBE(), start=start, frozen=shells[:3])
    np.testing.assert_array_equal(atom.states[shells[0]].values, start.states[shells[0]].values)
    assert atom.states[shells[4]].energy != pytest.approx(start.states[shells[4]].energy, abs=1e-3)


@pytest.mark.parametrize("relativistic", [False, True])
def test_potential_that_is_infinite_at_a_point_nucleus_converges(relativistic):
    """That of BLYP, whose terms grow with the gradient; the density has a cusp there, or is infinite itself."""
    atom = solve_atom(13, parse_shells(f"{NEON} 3s2 3p1"), get_functional("BLYP"), relativistic=relativistic)
    assert atom.states[Shell(3, 1, 1.0)].energy == pytest.approx(-0.1, abs=0.03)


def test_functional_of_another_feature_is_refused():
    class Laplacian(PBE):
        features = ("density", "laplacian")

    with pytest.raises(ValueError, match="Laplacian depends on laplacian; expected a functional of the density, its"):
        check_spherical(Laplacian())


def test_functional_without_a_bound_atom_is_an_error():
    network = NNGGA(seed=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(math.nan)
    with pytest.raises(AtomError, match="Z = 3 does not converge with NNGGA"):
        solve_atom(3, parse_shells("1s2 2s1"), network)


@pytest.mark.parametrize("text", ["1p2", "2s3", "2s", "1s1 1s1"])
def test_impossible_configuration_is_refused(text):
    with pytest.raises(ValueError, match="shell"):
        parse_shells(text)


@pytest.mark.slow
def test_levels_of_pbe_for_all_elements(shared_reference):
    """Levels above -6 Ha of Hamann's program, whose mesh is good for 2e-5 Ha; all inputs of PseudoDojo 0.4."""
    results = json.loads((shared_reference / "oncv_reference.json").read_text())["results"]
    inputs = json.loads((shared_reference / "oncv_inputs.json").read_text())["sets"]["standard"]
    for entry in inputs.values():
        atom = solve_atom(entry["Z"], parse_shells(" ".join(entry["core"] + entry["valence"])), PBE())
        for shell, state in atom.states.items():
            if state.energy > -6:
                assert state.energy == pytest.approx(results[entry["name"]]["eigenvalues"][str(shell)], abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 93))
def test_total_energy_of_lda_for_all_elements(number, shared_reference):
    expected = json.loads((shared_reference / "atoms_ae.json").read_text())["atoms"][str(number)]
    shells = parse_shells(" ".join(f"{shell}{electrons}" for shell, electrons in expected["configuration"].items()))
    atom = solve_atom(number, shells, LDA("vwn"), relativistic=False)
    assert atom.total_energy == pytest.approx(expected["nist_lda"], abs=1.1e-6)
    levels = [atom.states[shell].energy for shell in sorted(shells)]
    np.testing.assert_allclose(levels, expected["lda_eigenvalues"], atol=1e-8)
