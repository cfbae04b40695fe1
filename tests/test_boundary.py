"""Molecules and layers: the truncated Coulomb interaction, its cell, and what a calculator makes of them."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import graphene, molecule
from ase.calculators.calculator import InputError, PropertyNotImplementedError
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.io.cube import read_cube_data
from ase.units import Bohr, Hartree
from kohn_sham import basis_of, crystal_of, slope
from scipy.special import erf, erfc
from torch import Tensor

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.convergence import SCFSettings
from ase_nnxc.ks.coulomb import coulomb_kernel
from ase_nnxc.ks.crystal import Crystal, open_cell
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.superposition import structure_factors
from ase_nnxc.ks.terms import ewald
from ase_nnxc.ks.terms.ewald import ewald_energy

TIGHT = {"ecut": 140, "pseudos": "gth-pbe", "convergence": {"energy": 1e-12}}
LAYER = TIGHT | {"kpts": (3, 3, 1), "smooth_cutoff": True}
WIDTH = 0.6  # bohr, of the Gaussian charges below
CHARGES = (1.0, -2.0, 1.5)
PLACES = ((0.0, 0.0, 0.0), (1.3, 0.4, -0.9), (-0.8, 1.1, 2.0))  # bohr


def tensor(values) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")


def gaussians(cell, pbc: tuple[bool, bool, bool], charges=CHARGES) -> float:
    """Energy, Hartree, on a grid, of Gaussian charges in a cell (3, 3), bohr."""
    lattice = tensor(cell)
    crystal = crystal_of(Atoms("H3", cell=lattice.numpy() * Bohr, positions=np.array(PLACES) * Bohr, pbc=True))
    crystal = Crystal(lattice, crystal.positions, crystal.potentials, pbc=pbc)
    grid = basis_of(crystal, 20.0, (1, 1, 1), symmetric=False).grid
    g2 = grid.wavevectors(crystal.reciprocal).square().sum(-1)
    rho = torch.zeros(len(g2), dtype=torch.complex128)
    for charge, place in zip(charges, crystal.positions):
        rho += charge * structure_factors(grid, place[None]) * torch.exp(-0.5 * WIDTH**2 * g2) / crystal.volume
    return float(0.5 * crystal.volume * grid.inner(rho, coulomb_kernel(grid, crystal) * rho))


def layer_of_gaussians(charges, area: float, reciprocal: np.ndarray) -> float:
    """The same without a grid, of Gaussians that repeat in a plane: D. E. Parry, Surf. Sci. 49, 433 (1975)."""
    eta, total = 1 / (2 * WIDTH), 0.0
    waves = np.array([(i, j) for i in range(-25, 26) for j in range(-25, 26) if (i, j) != (0, 0)]) @ reciprocal
    g = np.linalg.norm(waves, axis=1)
    for q1, r1 in zip(charges, PLACES):
        for q2, r2 in zip(charges, PLACES):
            x, z = np.subtract(r1, r2)[:2], r1[2] - r2[2]
            sides = sum(np.exp(s * g * z) * erfc(g / (2 * eta) + s * eta * z) for s in (1, -1))
            mean = z * erf(eta * z) + math.exp(-((eta * z) ** 2)) / (eta * math.sqrt(math.pi))
            total += 0.5 * q1 * q2 / area * (math.pi * (np.cos(waves @ x) / g * sides).sum() - 2 * math.pi * mean)
    return total


@pytest.mark.parametrize("lengths", [(16.0, 18.0, 21.0), (24.0, 24.0, 24.0), (17.0, 19.0, 33.0)])
def test_isolated_charges_have_their_analytic_energy_in_any_cell(lengths):
    expected = sum(q * q for q in CHARGES) / (2 * WIDTH * math.sqrt(math.pi))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        r = math.dist(PLACES[i], PLACES[j])
        expected += CHARGES[i] * CHARGES[j] * math.erf(r / (2 * WIDTH)) / r
    assert gaussians(np.diag(lengths), (False, False, False)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("height", [16.0, 23.0])
@pytest.mark.parametrize("charges", [CHARGES, (1.0, -2.0, 1.0)], ids=["charged", "neutral"])
def test_layer_of_charges_has_its_analytic_energy_in_any_cell(height, charges):
    plane = np.array([[5.0, 0.3], [-1.4, 6.0]])
    cell = np.zeros((3, 3))
    cell[:2, :2], cell[2, 2] = plane, height
    expected = layer_of_gaussians(charges, abs(np.linalg.det(plane)), 2 * math.pi * np.linalg.inv(plane).T)
    assert gaussians(cell, (True, True, False), charges) == pytest.approx(expected, abs=1e-9)


def test_square_layer_of_ions_has_its_madelung_constant():
    """OEIS A088537."""
    lattice = tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 7.0]])
    ions = tensor([[0.0, 0.0, 0.1], [0.5, 0.5, 0.1]])
    energy = ewald_energy(lattice, ions, tensor([1.0, -1.0]), pbc=(True, True, False))
    assert float(energy) == pytest.approx(-1.61554262671282472386, abs=1e-12)


def test_layer_of_ions_does_not_depend_on_splitting_or_height(monkeypatch):
    plane = tensor([[4.0, 0.5, 0.0], [-1.0, 5.0, 0.0], [0.0, 0.0, 1.0]])
    places = tensor([[0.1, 0.2, 0.0], [0.6, 3.1, 1.4], [2.0, -0.2, -2.0]])
    energies = []
    for height, eta in ((14.0, None), (14.0, 1.6), (25.0, None), (25.0, 0.9)):
        lattice = plane * tensor([1.0, 1.0, height])
        x = places @ torch.linalg.inv(lattice)
        with monkeypatch.context() as patch:
            if eta is not None:
                patch.setattr(ewald, "splitting", lambda *_: eta)
            energies.append(float(ewald_energy(lattice, x, tensor([1.0, 4.0, 6.0]), (True, True, False))))
    assert energies == pytest.approx([energies[0]] * 4, abs=1e-11)
    with pytest.raises(ValueError, match="extend over"):
        ewald_energy(plane * tensor([1.0, 1.0, 6.0]), places / 6, tensor([1.0, 4.0, 6.0]), pbc=(True, True, False))


def test_one_periodic_direction_has_no_interaction():
    with pytest.raises(ValueError, match="no Coulomb interaction"):
        gaussians(12 * np.eye(3), (True, False, False))


def test_own_cell_is_perpendicular_centred_and_never_shorter_than_needed():
    cell, places = tensor([[4.0, 0, 0], [2.0, 5.0, 0], [3.0, 0, 9.0]]), tensor([[1.0, 1.0, 2.0], [0.0, 0.0, 4.0]])
    lattice, x = open_cell(cell, places, tensor([4.0, 3.0]), (True, True, False))
    assert lattice[2].tolist() == [0, 0, 18.0]  # 2 * (4 + 3 - -2) of the given 9
    assert x[:, 2].tolist() == pytest.approx([-1 / 18, 1 / 18])
    lattice, _ = open_cell(cell * 3, places, tensor([4.0, 3.0]), (True, True, False))
    assert lattice[2].tolist() == [0, 0, 27.0]
    for held, length in ((17.2, 17.2), (16.9, 18.0), (24.5, 18.0)):
        lattice, _ = open_cell(cell, places, tensor([4.0, 3.0]), (True, True, False), tensor([0, 0, held]))
        assert float(lattice[2, 2]) == pytest.approx(length)
    lattice, _ = open_cell(0 * cell, places, tensor([4.0, 3.0]), (False, False, False))
    assert lattice.diagonal().tolist() == [16.0, 16.0, 18.0]


# ---- molecules ------------------------------------------------------------------------------------------------------


def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=3)
    return atoms


def test_molecule_needs_no_cell_and_no_place():
    atoms = water()
    atoms.calc = NNXCCalculator(**TIGHT)
    energy, forces, dipole = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_dipole_moment()
    assert np.abs(forces.sum(0)).max() < 1e-10
    turned = atoms.copy()
    turned.positions = turned.positions[:, [1, 2, 0]] * [1, -1, 1] + [3.7, -2.2, 0.4]
    turned.calc = NNXCCalculator(**TIGHT)
    assert turned.get_potential_energy() == pytest.approx(energy, abs=1e-8)
    assert turned.get_forces() == pytest.approx(forces[:, [1, 2, 0]] * [1, -1, 1], abs=1e-5)
    assert turned.get_dipole_moment() == pytest.approx(dipole[[1, 2, 0]] * [1, -1, 1], abs=1e-6)


def test_forces_on_a_molecule_are_slopes_of_its_energy():
    atoms = water()
    calc = atoms.calc = NNXCCalculator(**TIGHT)
    forces, moved = atoms.get_forces(), np.random.default_rng(0).normal(size=(3, 3))

    def energy(h: float) -> float:
        return calc.get_potential_energy(Atoms(atoms.numbers, atoms.positions + h * moved))

    assert slope(energy, 0.004) == pytest.approx(-(forces * moved).sum(), abs=2e-5)


def test_symmetric_molecule_has_the_energy_of_an_unsymmetric_search():
    atoms = molecule("CH4")
    atoms.calc = NNXCCalculator(**TIGHT)
    with_symmetry = atoms.get_potential_energy()
    assert len(atoms.calc.ground_state().basis.symmetry) == 24
    atoms.calc = NNXCCalculator(**TIGHT, symmetry=False)
    assert atoms.get_potential_energy() == pytest.approx(with_symmetry, abs=1e-8)


@pytest.mark.parametrize("charge", [0, 1])
def test_longer_cell_of_a_molecule_is_used_and_changes_nothing(charge):
    atoms = molecule("H2")
    levels = []
    for cell in (None, 25 * Bohr * np.eye(3)):
        atoms.cell = cell
        atoms.calc = NNXCCalculator(ecut=300, charge=charge, smooth_cutoff=True)
        energy, state = atoms.get_potential_energy(), atoms.calc.ground_state()
        levels.append([energy, 10 * float(state.eigenvalues[0, 0, 0])])
    assert state.crystal.lattice.diagonal().tolist() == pytest.approx([25.0] * 3)
    assert levels[0] == pytest.approx(levels[1], abs=3e-3)


def test_hessian_of_a_molecule_is_the_slope_of_its_forces():
    atoms = molecule("H2")
    atoms.positions[1] += [0.1, -0.05, 0.02]
    calc = NNXCCalculator(**TIGHT)
    positions = tensor(atoms.positions).requires_grad_()
    out = calc.differentiable(atoms, positions=positions)
    weights = tensor(np.random.default_rng(1).normal(size=(2, 3)))
    (gradient,) = torch.autograd.grad((out.forces * weights).sum(), positions)
    assert gradient.sum(0).abs().max() < 1e-8

    def loss(h: float) -> float:
        places = atoms.positions + h * np.array([[0, 0, 0], [0.3, 1.0, -0.5]])
        return float((calc.get_forces(Atoms("H2", places)) * weights.numpy()).sum())

    assert slope(loss, 0.01) == pytest.approx(float(gradient[1] @ tensor([0.3, 1.0, -0.5])), abs=2e-4)


# ---- layers ---------------------------------------------------------------------------------------------------------


def sheet() -> Atoms:
    """Graphene, strained and buckled, without symmetry."""
    atoms = graphene(a=2.5, vacuum=3.0)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.diag([0.02, -0.01, 0])), scale_atoms=True)
    atoms.positions[1] += [0.03, -0.02, 0.1]
    return atoms


def test_layer_is_the_same_along_any_axis():
    atoms = sheet()
    atoms.calc = NNXCCalculator(**LAYER)
    energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)
    assert np.abs(forces[:, 2].sum()) < 1e-10
    assert np.abs(stress[2]).max() == 0
    for axes in ([1, 2, 0], [2, 0, 1]):
        turned = Atoms(atoms.numbers, atoms.positions[:, axes], cell=atoms.cell.array[axes][:, axes])
        turned.pbc = atoms.pbc[axes]
        turned.calc = NNXCCalculator(**LAYER | {"kpts": tuple(np.array(LAYER["kpts"])[axes].tolist())})
        assert turned.get_potential_energy() == pytest.approx(energy, abs=1e-8)
        assert turned.get_forces() == pytest.approx(forces[:, axes], abs=1e-5)
        assert turned.get_stress(voigt=False) == pytest.approx(stress[axes][:, axes], abs=1e-6)


def test_forces_and_stress_of_a_layer_are_slopes_of_its_energy():
    atoms = sheet()
    calc = NNXCCalculator(**LAYER | {"convergence": {"energy": 1e-15}}, symmetry=False)
    state = calc.ground_state(atoms)
    crystal, (forces, stress) = state.crystal, state.derivatives()
    moved = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    strain = tensor([[0.7, 0.4, 0], [0.4, -0.5, 0], [0, 0, 0]])

    def energy(strain: Tensor, moved: Tensor) -> float:
        crystal_there = crystal.deformed(strain, moved)
        settings = SCFSettings(1e-15)
        return scf(state.system.at(crystal_there), state.smearing, settings=settings, start=state).free_energy

    work = float((forces * moved).sum())
    assert slope(lambda x: energy(0 * strain, x * moved), 2e-3) == pytest.approx(-work, rel=1e-5)
    work = float((stress * strain).sum() * crystal.volume)
    assert slope(lambda x: energy(x * strain, 0 * moved), 7e-4) == pytest.approx(work, rel=1e-5)
    atoms.calc = calc
    assert (atoms.get_stress(voigt=False) * strain.numpy()).sum() * atoms.get_volume() == pytest.approx(work * Hartree)


def test_gradients_of_a_layer_by_strain_lie_in_its_plane():
    atoms = sheet()
    calc = NNXCCalculator(**LAYER)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    out = calc.differentiable(atoms, strain=strain)
    (gradient,) = torch.autograd.grad(out.free_energy, strain)
    atoms.calc = calc
    assert gradient.numpy() == pytest.approx(atoms.get_stress(voigt=False) * atoms.get_volume(), abs=1e-8)
    assert out.stress.detach().numpy() == pytest.approx(atoms.get_stress(), abs=1e-12)
    with pytest.raises(InputError, match="the strain must be zero"):
        calc.differentiable(atoms, strain=tensor(np.diag([0, 0, 0.01])))


def test_cell_filter_leaves_the_height_of_a_layer():
    atoms = sheet()
    atoms.calc = NNXCCalculator(**LAYER | {"convergence": {"energy": 1e-8}})
    gradient = FrechetCellFilter(atoms).get_forces()[-3:]
    assert np.abs(gradient[2]).max() == 0
    assert np.abs(gradient[:, 2]).max() == 0
    assert np.abs(gradient[:2, :2]).max() > 0.1


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_stress_and_dipole_are_refused_where_they_have_no_meaning():
    atoms = molecule("H2")
    atoms.calc = NNXCCalculator(ecut=140)
    with pytest.raises(PropertyNotImplementedError, match="molecule has no stress"):
        atoms.get_stress()
    layer = graphene(a=2.5)
    layer.calc = NNXCCalculator(ecut=140, kpts=(1, 1, 1))
    with pytest.raises(PropertyNotImplementedError, match="third vector"):
        layer.get_stress()
    with pytest.raises(PropertyNotImplementedError, match="dipole moment is defined only"):
        layer.get_dipole_moment()


def test_layer_cannot_be_charged():
    atoms = graphene(a=2.5)
    atoms.calc = NNXCCalculator(ecut=140, charge=1)
    with pytest.raises(InputError, match="layer cannot be charged"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("kpts", [(2, 2, 2), {"size": (1, 1, 3)}, [[0, 0, 0.25]]])
def test_kpoints_along_a_direction_without_period_are_refused(kpts):
    atoms = graphene(a=2.5)
    atoms.calc = NNXCCalculator(ecut=140, kpts=kpts)
    with pytest.raises(InputError, match="not periodic"):
        atoms.get_potential_energy()


def test_density_of_kpoints_has_one_along_a_direction_without_period():
    calc = NNXCCalculator(ecut=140)
    assert calc.resolve(molecule("H2"))["kpts"]["size"] == (1, 1, 1)
    assert calc.resolve(graphene(a=2.5))["kpts"]["size"][2] == 1


def test_cube_file_of_a_molecule_holds_its_dipole_moment(tmp_path):
    atoms = water()
    atoms.positions += [1.7, -0.4, 0.9]
    atoms.calc = NNXCCalculator(**TIGHT)
    dipole, boxed = atoms.get_dipole_moment(), atoms.calc.atoms_in_box()
    write(tmp_path / "density.cube", boxed, data=atoms.calc.get_pseudo_density())
    density, image = read_cube_data(tmp_path / "density.cube")
    assert image.positions.mean(0) == pytest.approx(image.cell.lengths() / 2, abs=0.1)
    points = np.stack(np.meshgrid(*(np.arange(n) / n for n in density.shape), indexing="ij"), -1) @ image.cell.array
    electrons = density[..., None] * image.get_volume() / density.size
    assert electrons.sum() == pytest.approx(8, abs=1e-4)
    assert np.array([6, 1, 1]) @ image.positions - (electrons * points).sum((0, 1, 2)) == pytest.approx(
        dipole, abs=1e-3
    )
    waves = (atoms.calc.get_pseudo_wave_function(band) for band in range(4))
    assert sum(2 * np.abs(wave) ** 2 for wave in waves) == pytest.approx(atoms.calc.get_pseudo_density(), abs=1e-4)


def test_density_of_a_layer_lies_at_the_height_of_its_atoms():
    layer = graphene(a=2.5)
    layer.positions += [0.3, 0.2, 4.1]
    layer.calc = NNXCCalculator(**LAYER)
    layer.get_potential_energy()
    boxed, density = layer.calc.atoms_in_box(), layer.calc.get_pseudo_density()
    assert density.mean() * boxed.get_volume() == pytest.approx(8)
    assert boxed.positions[:, :2] == pytest.approx(layer.positions[:, :2])
    planes = density.sum((0, 1))
    height = planes @ np.arange(len(planes)) / planes.sum() / len(planes)
    assert boxed.get_scaled_positions()[:, 2] == pytest.approx([height] * 2, abs=1e-4)
