"""Potentials, gaps and charges under the names of GPAW, and ASE's tools that are made of orbitals or dipoles."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import InputError, PropertyNotImplementedError
from ase.dft.bandgap import bandgap
from ase.dft.stm import STM
from ase.dft.wannier import Wannier
from ase.units import Bohr, Hartree, _c, _e, _hbar
from ase.vibrations import Infrared

from ase_nnxc import NNXCCalculator
from ase_nnxc.calculator.fixed_density import FixedDensity
from ase_nnxc.xc import PBE

COULOMB = Bohr * Hartree  # eV Angstrom


def calculated(atoms: Atoms, **parameters) -> NNXCCalculator:
    kpts = {"size": [2 if periodic else 1 for periodic in atoms.pbc], "gamma": True}
    atoms.calc = NNXCCalculator(**{"ecut": 140, "pseudos": "gth-pbe", "kpts": kpts} | parameters)
    atoms.get_potential_energy()
    return atoms.calc


def magnetic_hydrogen() -> Atoms:
    return Atoms("H", cell=[3.5] * 3, pbc=True, magmoms=[1.0])


@pytest.mark.parametrize("xc", ["PBE", "LDA"])
def test_effective_potential_gives_the_level_of_an_atom_without_nonlocal_potential(xc):
    calc = calculated(magnetic_hydrogen(), xc=xc, pseudos={"PBE": "gth-pbe", "LDA": "gth-pade"}[xc])
    shape = calc.get_number_of_grid_points()
    waves = [2 * np.pi / 3.5 * n * np.fft.fftfreq(n) for n in shape]
    kinetic = 0.5 * Hartree * Bohr**2 * sum(g**2 for g in np.meshgrid(*waves, indexing="ij"))
    k = [tuple(point) for point in calc.get_ibz_k_points()].index((0.0, 0.0, 0.0))
    for spin in (0, 1):
        psi = calc.get_pseudo_wave_function(0, k, spin)
        weights = np.abs(np.fft.fftn(psi)) ** 2
        density = np.abs(psi) ** 2
        # eps = <psi| -1/2 lap + v |psi>
        level = (kinetic * weights).sum() / weights.sum()
        level += (calc.get_effective_potential(spin) * density).sum() / density.sum()
        assert level == pytest.approx(calc.get_eigenvalues(k, spin)[0], abs=1e-3)


@pytest.mark.parametrize(("charge", "moment"), [(0, 0.0), (1, 1.0)])
def test_electrostatic_potential_far_from_an_ion_is_that_of_its_charge(charge, moment):
    atoms = Atoms("Mg", cell=[16.0] * 3, magmoms=[moment])
    calc = calculated(atoms, ecut=80, charge=charge, pseudos="gth-pbe-q2", smearing={"name": "gaussian", "width": 0.01})
    boxed, potential = calc.atoms_in_box(), calc.get_electrostatic_potential()
    x, y, z = np.round(boxed.get_scaled_positions()[0] * potential.shape).astype(int)
    points = potential.shape[2] // 4  # in the middle half of the box
    distance = points / potential.shape[2] * boxed.cell.lengths()[2]
    assert potential[x, y, z + points] == pytest.approx(-charge * COULOMB / distance, abs=0.03)
    assert potential[x, y, z] < -10  # attracts electrons


def test_effective_potential_of_a_spin_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="spin=1: expected 0"):
        calculated(bulk("Si")).get_effective_potential(1)


def test_homo_and_lumo_are_the_edges_of_the_gap():
    calc = calculated(bulk("Si"))
    homo, lumo = calc.get_homo_lumo()
    assert lumo - homo == pytest.approx(bandgap(calc)[0])
    assert homo < calc.get_fermi_level() < lumo
    with pytest.raises(InputError, match="spin=1: expected None or 0"):
        calc.get_homo_lumo(1)


def test_homo_and_lumo_of_each_spin_and_of_both():
    calc = calculated(magnetic_hydrogen(), kpts=(1, 1, 1), fixed_magmom=True)
    levels = [calc.get_eigenvalues(0, spin) for spin in (0, 1)]
    assert calc.get_homo_lumo(0) == pytest.approx(levels[0][:2])
    with pytest.raises(InputError, match="no HOMO"):
        calc.get_homo_lumo(1)
    assert calc.get_homo_lumo() == pytest.approx([levels[0][0], min(levels[0][1], levels[1][0])])


def test_lumo_without_empty_bands_is_refused():
    calc = calculated(bulk("Si"), smearing={"name": "gaussian", "width": 0.01}, nbands=5)
    state = calc.ground_state()
    filled = replace(state, fermi_levels=state.eigenvalues.max()[None] + 1)
    path = bulk("Si").cell.bandpath("G", npoints=1)
    with pytest.raises(InputError, match="among the 5 bands: increase nbands"):
        FixedDensity(bulk("Si"), filled, path).get_homo_lumo()


def test_functional_is_reported_by_its_name():
    assert NNXCCalculator("pbesol").get_xc_functional() == "PBEsol"
    assert "PBE" in NNXCCalculator(PBE()).get_xc_functional()


def test_charges_are_those_of_hirshfeld():
    apart = Atoms("He2", [[0, 0, 0], [4, 0, 0]], cell=[8, 4, 4], pbc=True)
    calculated(apart, kpts=(1, 1, 1))
    assert apart.get_charges() == pytest.approx([0, 0], abs=1e-6)
    polar = bulk("AlP", "zincblende", a=5.47)
    calculated(polar)
    aluminium, phosphorus = polar.get_charges()
    assert aluminium == pytest.approx(-phosphorus, abs=1e-8)
    assert 0.05 < aluminium < 1
    ion = Atoms("H2", [[0, 0, 0], [0.9, 0, 0]], cell=[6, 5, 5], magmoms=[1, 0])
    calculated(ion, charge=1, smearing={"name": "gaussian", "width": 0.01})
    assert ion.get_charges() == pytest.approx([0.5, 0.5], abs=1e-4)


def test_wannier_functions_of_silicon_are_centred_on_its_bonds():
    atoms = bulk("Si", a=5.43)
    calc = calculated(atoms, symmetry=False, smearing={"name": "gaussian", "width": 0.05})

    def localised(seed: int) -> Wannier:
        random = np.random.RandomState(seed)
        wannier = Wannier(nwannier=4, calc=calc, fixedstates=4, initialwannier="random", rng=random)
        wannier.localize()
        return wannier

    # from some starts ASE's search ends in a local maximum of the localisation
    wannier = max(map(localised, range(6)), key=lambda wannier: wannier.get_functional_value())
    bonds = [atoms.positions[1] / 2 - shift / 2 for shift in (np.zeros(3), *atoms.cell.array)]
    for centre in wannier.get_centers():
        offsets = np.linalg.solve(atoms.cell.array.T, (centre - bonds).T).T
        distances = np.linalg.norm((offsets - offsets.round()) @ atoms.cell.array, axis=1)
        assert distances.min() < 0.05
    density = np.abs(wannier.get_function(0)) ** 2
    assert density.shape == tuple(2 * calc.get_number_of_grid_points())


def test_wannier_functions_say_what_they_need():
    with pytest.raises(InputError, match="set symmetry=False"):
        calculated(bulk("Si")).get_wannier_localization_matrix(4)
    with pytest.raises(InputError, match="need a crystal"):
        calculated(Atoms("He"), symmetry=False).get_wannier_localization_matrix(1)
    with pytest.raises(PropertyNotImplementedError, match="initialwannier='random', 'bloch' or 'scdm'"):
        Wannier(nwannier=4, calc=calculated(bulk("Si"), symmetry=False), initialwannier="orbitals")


def test_scanning_tunneling_microscope_sees_the_atoms_of_a_layer():
    layer = Atoms("H", positions=[[1.5, 1.5, 0]], cell=[3, 3, 6], pbc=[True, True, False])
    calc = calculated(layer, symmetry=False, kpts=(2, 2, 1))
    boxed = calc.atoms_in_box()
    boxed.calc = calc
    height = boxed.positions[0, 2] + 2.0
    stm = STM(boxed)
    _, _, heights = stm.scan(-5.0, stm.get_averaged_current(-5.0, height), z0=height)
    assert np.unravel_index(heights.argmax(), heights.shape) == tuple(n // 2 for n in heights.shape)
    assert heights.mean() == pytest.approx(height, abs=0.5)


def test_infrared_spectrum_of_a_molecule(tmp_path):
    atoms = Atoms("AlH", [[0, 0, 0], [0, 0, 1.68]])
    calculated(atoms, smearing={"name": "gaussian", "width": 0.01}, convergence={"energy": 1e-10})
    infrared = Infrared(atoms, indices=[1], name=str(tmp_path / "ir"))
    infrared.run()
    infrared.read()
    stretch = infrared.hnu.real.argmax()
    frequency = infrared.hnu[stretch].real * _e / (2 * np.pi * _hbar * _c * 100)  # 1/cm
    assert 1300 < frequency < 1900  # 1683 in experiment
    # (d mu_z / d z)^2 / m
    dipoles = []
    for z in (1.67, 1.69):
        moved = atoms.copy()
        moved.positions[1, 2] = z
        moved.calc = atoms.calc
        dipoles.append(moved.get_dipole_moment()[2] / 0.2081943)  # Debye
    assert infrared.intensities[stretch] == pytest.approx(((dipoles[1] - dipoles[0]) / 0.02) ** 2 / 1.008, rel=1e-3)
