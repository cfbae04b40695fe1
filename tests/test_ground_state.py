"""The core against itself (finite differences, symmetry, spin, translations, rotations) and against DFTK's numbers."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from kohn_sham import (
    basis_of,
    crystal_of,
    diagonalise,
    k_mesh,
    rattled_silicon_carbide,
    repeated_davidson,
    slope,
    triplet,
)
from pyscf.dft import libxc

from ase_nnxc.ks.basis import Basis, DensityGrid, finer_grid, make_basis, make_sphere, smooth_size
from ase_nnxc.ks.convergence import ConvergenceError, OrbitalTolerance, SCFSettings
from ase_nnxc.ks.crystal import Crystal
from ase_nnxc.ks.eigensolver import Eigenpairs, in_double
from ase_nnxc.ks.fields import Fields, strained_fields
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.ks.hamiltonian import Hamiltonian
from ase_nnxc.ks.initial_guess import atomic_fields, atomic_orbitals, start_density, start_orbitals
from ase_nnxc.ks.occupations import Smearing
from ase_nnxc.ks.pulay_stress import pulay_pressure
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.superposition import structure_factors
from ase_nnxc.ks.symmetry import find_symmetry, identity
from ase_nnxc.ks.system import System
from ase_nnxc.ks.terms import ExchangeCorrelation
from ase_nnxc.ks.terms.xc import COARSE_FINENESS
from ase_nnxc.ks.total_energy import TotalEnergy
from ase_nnxc.ks.transforms import from_box, to_box
from ase_nnxc.pseudopotentials import find_pseudos
from ase_nnxc.registry import get_functional
from ase_nnxc.xc import Functional, NeuralCorrelation, NeuralExchange, Sum, describe

TIGHT = SCFSettings(energy=1e-14)


def solve(
    crystal: Crystal, basis: Basis, smearing: Smearing | None = None, start=None, settings=TIGHT, xc="PBE", **kwargs
):
    smearing = smearing or Smearing("gaussian", 0.01)
    system = System(crystal, basis, get_functional(xc))
    return scf(system, smearing, settings=settings, start=start, **kwargs)


@pytest.mark.parametrize(
    ("xc", "smooth", "pseudos"),
    [
        ("PBE", False, "gth-pbe"),
        ("PBE", True, "gth-pbe"),
        ("r2SCAN", True, "gth-pbe"),
        ("r2SCAN", True, "oncv"),  # with density and tau of the core
    ],
)
def test_forces_and_stress_are_derivatives_of_the_free_energy(xc: str, smooth: bool, pseudos: str) -> None:
    crystal = crystal_of(rattled_silicon_carbide(), pseudos)
    basis = basis_of(crystal, 12.0, (2, 2, 1), smooth=smooth)
    state = solve(crystal, basis, xc=xc)
    forces, stress = state.derivatives()
    direction = torch.tensor([[0.3, 0.5, -0.2], [0.5, -0.7, 0.4], [-0.2, 0.4, 0.6]], dtype=torch.float64)
    move = torch.tensor([[0.0, 0.0, 0.0], [0.6, -0.3, 0.7]], dtype=torch.float64)
    still, unstrained = torch.zeros_like(move), torch.zeros_like(direction)

    def strained(x: float) -> float:
        cell = crystal.deformed(x * direction, still)
        # at constant cutoff the sphere follows the cell: only a smooth cutoff makes that a derivative
        sphere = basis_of(cell, 12.0, (2, 2, 1), smooth=True, gpts=basis.fine.shape) if smooth else basis
        return solve(cell, sphere, start=state, xc=xc).free_energy

    def moved(x: float) -> float:
        return solve(crystal.deformed(unstrained, x * move), basis, start=state, xc=xc).free_energy

    h = 1e-5 if smooth else 2e-3  # its second derivative jumps where a plane wave enters
    assert slope(strained, h) == pytest.approx(float((stress * direction).sum() * crystal.volume), rel=1e-5)
    assert slope(moved, 1e-2) == pytest.approx(-float((forces * move).sum()), rel=1e-5)


@pytest.mark.slow
def test_stress_of_a_ferromagnet_is_the_strain_derivative_of_the_free_energy() -> None:
    atoms = bulk("Ni", "fcc", a=3.7)
    atoms.set_initial_magnetic_moments([1.0])
    crystal = crystal_of(atoms)
    strain = torch.tensor([[0.02, 0.01, 0.0], [0.01, -0.01, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    crystal = crystal.deformed(strain, torch.zeros(1, 3, dtype=torch.float64))
    basis, smearing = basis_of(crystal, 35.0, (3, 2, 2)), Smearing("fermi-dirac", 0.005)
    state = solve(crystal, basis, smearing)
    assert state.total_moment > 0.3
    _, stress = state.derivatives()
    direction = torch.tensor([[0.4, 0.5, 0.0], [0.5, -0.3, 0.0], [0.0, 0.0, 0.2]], dtype=torch.float64)

    def strained(x: float) -> float:
        moved = crystal.deformed(x * direction, torch.zeros(1, 3, dtype=torch.float64))
        return solve(moved, basis, smearing, start=state).free_energy

    assert slope(strained, 2e-3) == pytest.approx(float((stress * direction).sum() * crystal.volume), rel=1e-5)


@pytest.mark.parametrize("xc", ["PBE", pytest.param("r2SCAN", marks=pytest.mark.slow)])
def test_forces_and_stress_of_a_polarised_crystal_are_derivatives_of_the_free_energy(xc: str) -> None:
    atoms = Atoms("H2", cell=[4.6, 4.8, 5.2], positions=[[0.1, 0.0, 0.2], [1.5, 1.4, 2.0]], pbc=True)
    atoms.set_initial_magnetic_moments([1.0, 1.0])
    crystal, smearing = crystal_of(atoms), Smearing("fermi-dirac", 0.005)
    basis = basis_of(crystal, 12.0, (1, 1, 1))
    state = solve(crystal, basis, smearing, xc=xc)
    assert state.total_moment > 1.9
    forces, stress = state.derivatives()
    move = torch.tensor([[0.0, 0.0, 0.0], [0.6, -0.3, 0.7]], dtype=torch.float64)
    strain = torch.tensor([[0.9, 0.2, 0.0], [0.2, 0.6, 0.0], [0.0, 0.0, 0.7]], dtype=torch.float64)

    def changed(strain: torch.Tensor, move: torch.Tensor) -> float:
        # from atoms: with 5e-8 or no electrons in the other channel there are solutions 1e-7 Hartree apart
        return solve(crystal.deformed(strain, move), basis, smearing, xc=xc).free_energy

    work = -float((forces * move).sum())
    assert slope(lambda x: changed(0 * strain, x * move), 1e-2) == pytest.approx(work, rel=1e-5)
    work = float((stress * strain).sum() * crystal.volume)
    assert slope(lambda x: changed(x * strain, 0 * move), 2e-3) == pytest.approx(work, rel=1e-5)


@pytest.mark.parametrize(
    ("atoms", "ecut", "kpts", "gpts", "xc"),
    [
        (bulk("Si", "diamond", a=5.4), 8.0, (3, 3, 3), (24, 24, 24), "PBE"),
        (bulk("Si", "diamond", a=5.4), 8.0, (3, 3, 3), (24, 24, 24), "r2SCAN"),
        (bulk("Mg", "hcp", a=3.2, c=5.3), 8.0, (3, 3, 2), None, "PBE"),
        (bulk("Al", "fcc", a=4.0, cubic=True), 6.0, (2, 2, 2), None, "PBE"),
    ],
    ids=["diamond", "diamond with tau", "hcp", "supercell"],
)
def test_symmetry_changes_no_number(atoms: Atoms, ecut: float, kpts: tuple[int, int, int], gpts, xc: str) -> None:
    crystal = crystal_of(atoms, "gth-pbe-q2" if "Mg" in atoms.get_chemical_symbols() else "gth-pbe")
    basis = basis_of(crystal, ecut, kpts, gpts=gpts)
    plain = basis_of(crystal, ecut, kpts, symmetric=False, gpts=basis.fine.shape)
    assert len(basis.spheres) < len(plain.spheres) / 1.9
    with_symmetry, without = solve(crystal, basis, xc=xc), solve(crystal, plain, xc=xc)
    assert with_symmetry.free_energy == pytest.approx(without.free_energy, abs=1e-8)
    for a, b in zip(with_symmetry.derivatives(), without.derivatives()):
        assert torch.allclose(a, b, rtol=0, atol=1e-7)


@pytest.mark.parametrize("xc", ["PBE", "r2SCAN"])
def test_spin_polarised_equals_unpolarised_without_moments(xc: str) -> None:
    crystal = crystal_of(bulk("Si", "diamond", a=5.4))
    basis = basis_of(crystal, 8.0, (2, 2, 2))
    polarised = replace(crystal, magmoms=torch.zeros(2, dtype=torch.float64))
    energy = solve(crystal, basis, xc=xc).free_energy
    assert solve(polarised, basis, xc=xc).free_energy == pytest.approx(energy, abs=1e-9)


def test_energy_ignores_translations_by_grid_points_and_rotations() -> None:
    atoms = rattled_silicon_carbide()
    crystal = crystal_of(atoms)
    basis = basis_of(crystal, 8.0, (2, 1, 1))
    energy = solve(crystal, basis).free_energy
    shift = torch.tensor([[2.0, 3.0, 1.0]], dtype=torch.float64) / torch.tensor(basis.grid.shape)
    moved = replace(crystal, positions=crystal.positions + shift)
    assert solve(moved, basis_of(moved, 8.0, (2, 1, 1))).free_energy == pytest.approx(energy, abs=1e-9)
    atoms.rotate(37, (1, 2, 3), rotate_cell=True)
    turned = crystal_of(atoms)
    assert solve(turned, basis_of(turned, 8.0, (2, 1, 1))).free_energy == pytest.approx(energy, abs=1e-9)


def silicon_of_dftk(family: str) -> Crystal:
    a = 10.263141334305942
    lattice = a / 2 * torch.tensor([[0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.float64)
    positions = torch.tensor([[0.125] * 3, [-0.125] * 3], dtype=torch.float64)
    return Crystal(lattice, positions, (find_pseudos(["Si"], family, f"gth-{family}")["Si"],) * 2)


def test_silicon_has_the_energy_of_dftk_with_scan() -> None:
    """DFTK's test silicon_scan at 50 Ha."""
    crystal = silicon_of_dftk("pbe")
    basis = basis_of(crystal, 50.0, (3, 3, 3), gpts=(48, 48, 48))
    state = solve(crystal, basis, Smearing("gaussian", 1e-3), settings=SCFSettings(energy=1e-10), xc="SCAN")
    assert state.free_energy == pytest.approx(-7.857384389260792, abs=1e-8)


class FourierOrbits:
    """Symmetrisation of the Fourier coefficients, for operations that do not map the box to itself, as DFTK does it."""

    def __init__(self, crystal: Crystal, basis: Basis, grid: DensityGrid):
        shape = grid.shape
        trivial = identity(len(crystal.potentials)).grid_orbits(shape)
        self.labels, self.representatives, self.counts = trivial.labels, trivial.representatives, trivial.counts
        axes = (torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in shape)
        waves = torch.cartesian_prod(*axes)
        half = torch.zeros(shape, dtype=torch.bool)
        for sign in (1, -1):
            half[tuple((sign * grid.miller % torch.tensor(shape)).mT)] = True
        self.inside, self.images, self.phases = half.flatten(), [], []
        for rotation, translation in zip(basis.symmetry.rotations.to(waves), basis.symmetry.translations):
            i, j, k = ((waves @ rotation)[:, axis].long() % n for axis, n in enumerate(shape))
            self.images.append((i * shape[1] + j) * shape[2] + k)
            self.phases.append(torch.exp(2j * math.pi * (waves @ translation)))

    def symmetrize(self, field: torch.Tensor) -> torch.Tensor:
        """f(x) -> mean of f(W x + w): the coefficient of G goes to W^T G with the phase exp(2 pi i G w)."""
        if field.dim() == 4:  # potentials are left as they are
            return field
        waves = torch.fft.fftn(field, dim=(-3, -2, -1)).flatten(-3) * self.inside
        mean = torch.zeros_like(waves)
        for image, phase in zip(self.images, self.phases):
            mean.index_add_(-1, image[self.inside], (waves * phase)[..., self.inside] / len(self.images))
        return torch.fft.ifftn(mean.view_as(field), dim=(-3, -2, -1)).real


def test_silicon_has_the_energy_of_dftk_with_scan_on_a_box_without_the_symmetry() -> None:
    """DFTK's test silicon_scan at 15 Ha. Its 27^3 points break the symmetry, which it imposes on the waves."""
    crystal = silicon_of_dftk("pbe")
    coarse = basis_of(crystal, 15.0, (3, 3, 3), gpts=(27, 27, 27))
    mesh = k_mesh((3, 3, 3))
    symmetry = find_symmetry(crystal.lattice, crystal.positions, (0, 0))
    assert len(symmetry) == 48 > len(coarse.symmetry)
    irreducible, weights, _ = symmetry.irreducible_kpoints(mesh)
    box = coarse.grid.shape
    spheres = tuple(make_sphere(crystal, 15.0, k, w, box) for k, w in zip(irreducible, weights.tolist()))
    basis = replace(coarse, spheres=spheres, symmetry=symmetry)
    basis.__dict__["orbits"] = FourierOrbits(crystal, basis, basis.grid)
    basis.__dict__["fine_orbits"] = FourierOrbits(crystal, basis, basis.fine)
    state = solve(crystal, basis, Smearing("gaussian", 1e-3), settings=SCFSettings(energy=1e-10), xc="SCAN")
    assert state.free_energy == pytest.approx(-7.856498623457256, abs=1e-5)


def test_silicon_has_the_energy_of_abinit() -> None:
    """DFTK's test silicon_pbe, whose reference is from ABINIT."""
    crystal = silicon_of_dftk("pbe")
    basis = basis_of(crystal, 25.0, (3, 3, 3), gpts=(33, 33, 33))
    state = solve(crystal, basis, Smearing("gaussian", 1e-3), settings=SCFSettings(energy=1e-10))
    assert state.free_energy == pytest.approx(-7.854477356672080, abs=1e-6)
    (gamma,) = (e for s, e in zip(basis.spheres, state.eigenvalues[0]) if not s.kpoint.any())
    assert float(gamma[3] - gamma[0]) == pytest.approx(0.258840553222639 + 0.181210259413818, abs=1e-5)


class LibxcLDA(Functional):
    """Slater exchange with VWN correlation, from libxc."""

    class _Energy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, density):
            energy, (slopes, *_) = libxc.eval_xc("lda,vwn", density.detach().numpy(), spin=1)[:2]
            ctx.save_for_backward(torch.as_tensor(slopes).mT)
            return torch.as_tensor(energy) * density.sum(0)

        @staticmethod
        def backward(ctx, cotangent):
            return cotangent * ctx.saved_tensors[0]

    def forward(self, features):
        return self._Energy.apply(features["density"].contiguous())


def test_components_after_one_diagonalisation_are_those_of_dftk() -> None:
    """DFTK's test energies_guess_density: silicon, 15 Ha, 27^3 points, Gaussians of width 1.1 bohr, LDA with VWN."""
    crystal = silicon_of_dftk("pade")
    points = torch.tensor([[0, y, z / 3] for y in (0.25, -0.25) for z in (0, 1, -1)], dtype=torch.float64)
    basis = make_basis(crystal, 15.0, points, identity(2), (27, 27, 27))
    q2 = basis.grid.wavevectors(crystal.reciprocal).square().sum(-1)
    guess = 4 * torch.exp(-q2 * 1.1**2) * structure_factors(basis.grid, crystal.positions)[None] / crystal.volume
    system = System(crystal, basis, LibxcLDA())
    energy, at = TotalEnergy(system), Fields(basis.grid, 1, fourier=guess)
    terms = {term.name: float(term.energy(at)) for term in energy.density_terms}
    assert terms["hartree"] == pytest.approx(0.3527293727197568, abs=1e-6)
    assert terms["xc"] == pytest.approx(-2.3033165870558165, abs=1e-6)

    potential = energy.potential(guess).values
    orbitals = []
    for block in system.kpoints.blocks:
        hamiltonian = energy.hamiltonian(block, potential[0], torch.complex128)
        start = start_orbitals(hamiltonian, atomic_orbitals(crystal, block.sphere), 8, seed=block.k)
        orbitals.append(diagonalise(hamiltonian, start, 1e-8, 4).vectors[:4])
    electrons = torch.full((1, 6, 4), 2 / 6, dtype=torch.float64)
    density = energy.fields_of(orbitals, electrons)
    terms = energy.components(orbitals, electrons, density, entropy=0.0)
    expected = {
        "kinetic": 3.3824289861522194,
        "local": -2.4178712046759157 - 0.294622067031369,  # the mean of the potential stands apart there
        "nonlocal": 1.664289455206788,
        "hartree": 0.6712993199211524,
        "xc": -2.4489960475309056,
        "ewald": -8.397893578467201,
    }
    assert {name: terms[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    pbe = TotalEnergy(System(crystal, basis, get_functional("PBE"))).components(orbitals, electrons, density, 0.0)
    assert pbe["xc"] == pytest.approx(-2.469375219486637, abs=1e-6)


def uncorrected(state: GroundState) -> list[torch.Tensor]:
    return list(replace(state, residual=torch.zeros_like(state.residual)).derivatives())


@pytest.mark.parametrize("xc", ["PBE", "r2SCAN"])
def test_error_of_forces_and_stress_is_the_residual_times_the_response_of_the_fields(xc: str) -> None:
    crystal = crystal_of(rattled_silicon_carbide())
    basis, tolerance = basis_of(crystal, 8.0, (2, 1, 1)), OrbitalTolerance(1e-7, 1e-7, crystal.nelectrons)
    exact = solve(crystal, basis, xc=xc)
    loose = SCFSettings(energy=1e-7)
    state = solve(crystal, basis, settings=loose, tolerance=tolerance, eigensolver=repeated_davidson, xc=xc)
    errors = [a - b for a, b in zip(uncorrected(state), exact.derivatives())]
    energy, h = TotalEnergy(state.system), 1e-3
    residual = energy.potential(state.fields).by_fields - energy.potential(state.fields - state.residual).by_fields
    still, unstrained = torch.zeros_like(crystal.positions), torch.zeros_like(crystal.lattice)
    move, strain = still.clone(), torch.tensor([[0.3, 0.5, -0.2], [0.5, -0.7, 0.4], [-0.2, 0.4, 0.6]]).double()
    move[1] = torch.tensor([0.6, -0.3, 0.7])

    def contracted(x: float, strain: torch.Tensor, move: torch.Tensor) -> float:
        """The potential of the residual times the change of fields of a moved crystal, less that at fixed orbitals."""
        moved = crystal.deformed(x * strain, x * move)
        fields = basis.grid.to_real(solve(moved, basis, start=exact, xc=xc).fields)
        fixed = strained_fields(basis, crystal, moved, basis.grid.to_real(exact.fields), exact.kinetic_tensors())
        return float((residual * (fields - fixed)).sum() * moved.volume) / basis.grid.size

    by_move, by_strain = (slope(lambda x, d=d: contracted(x, *d), h) for d in ((unstrained, move), (strain, still)))
    assert float((errors[0] * move).sum()) == pytest.approx(by_move, rel=0.1)
    assert float((errors[1] * strain).sum() * crystal.volume) == pytest.approx(-by_strain, rel=0.1)


@pytest.mark.parametrize(
    ("atoms", "xc", "kpts", "energy"),
    [
        (rattled_silicon_carbide(), "PBE", (2, 1, 1), 1e-6),
        (rattled_silicon_carbide(), "r2SCAN", (2, 1, 1), 1e-7),
        (triplet(), "PBE", (1, 1, 1), 1e-6),
    ],
    ids=["pbe", "r2scan", "spins"],
)
def test_forces_are_corrected_for_the_residual(
    atoms: Atoms, xc: str, kpts: tuple[int, int, int], energy: float
) -> None:
    crystal = crystal_of(atoms, "oncv")
    basis = basis_of(crystal, 8.0, kpts)
    exact, _ = solve(crystal, basis, xc=xc).derivatives()
    state = solve(crystal, basis, settings=SCFSettings(energy=energy), xc=xc)
    before, after = (float((forces - exact).abs().max()) for forces, _ in (uncorrected(state), state.derivatives()))
    assert after < 0.5 * before


@pytest.mark.parametrize("xc", ["PBE", "r2SCAN"])
def test_correction_of_the_stress_is_the_residual_times_the_change_of_superposed_atoms(xc: str) -> None:
    crystal = crystal_of(rattled_silicon_carbide(), "oncv")
    basis = basis_of(crystal, 8.0, (2, 1, 1))
    state = solve(crystal, basis, settings=SCFSettings(energy=1e-5), xc=xc)
    energy = TotalEnergy(state.system)
    residual = energy.potential(state.fields).by_fields - energy.potential(state.fields - state.residual).by_fields
    strain = torch.tensor([[0.3, 0.5, -0.2], [0.5, -0.7, 0.4], [-0.2, 0.4, 0.6]]).double()

    def contracted(x: float) -> float:
        moved = crystal.deformed(x * strain, torch.zeros_like(crystal.positions))
        atoms = basis.grid.to_real(atomic_fields(moved, basis, energy.nfields))
        fixed = strained_fields(basis, crystal, moved, basis.grid.to_real(state.fields), state.kinetic_tensors())
        return float((residual * (atoms - fixed)).sum() * moved.volume) / basis.grid.size

    correction = state.derivatives()[1] - uncorrected(state)[1]
    assert float((correction * strain).sum() * crystal.volume) == pytest.approx(slope(contracted, 1e-4), rel=1e-4)


def test_correction_for_the_residual_is_that_without_symmetry_and_with_spins() -> None:
    atoms = bulk("SiC", "zincblende", a=4.36)
    atoms.positions[1] += [0.05, 0.05, 0.05]
    paired = crystal_of(atoms)
    polarised = replace(paired, magmoms=torch.zeros(2, dtype=torch.float64))
    corrections = []
    for crystal, symmetric in ((paired, True), (paired, False), (polarised, True)):
        basis, tolerance = basis_of(crystal, 8.0, (2, 2, 1), symmetric), OrbitalTolerance(1e-8, 1e-8, 8.0)
        state = solve(crystal, basis, None, None, SCFSettings(1e-5), tolerance=tolerance, eigensolver=repeated_davidson)
        corrections.append([a - b for a, b in zip(state.derivatives(), uncorrected(state))])
    for other in corrections[1:]:
        for a, b, allowed in zip(other, corrections[0], (1e-8, 1e-10)):
            assert torch.allclose(a, b, rtol=0, atol=allowed)
            assert b.abs().max() > 1000 * allowed


@pytest.mark.parametrize(
    ("xc", "same"), [("PBE", "gga_x_pbe+gga_c_pbe"), ("r2SCAN", "mgga_x_r2scan+mgga_c_r2scan")], ids=["pbe", "r2scan"]
)
def test_energy_is_that_with_libxc(xc: str, same: str) -> None:
    crystal = crystal_of(rattled_silicon_carbide())
    basis, settings = basis_of(crystal, 8.0, (2, 1, 1)), SCFSettings(energy=1e-10)
    ours, libxcs = (solve(crystal, basis, settings=settings, xc=name) for name in (xc, same))
    assert ours.free_energy == pytest.approx(libxcs.free_energy, abs=1e-8)
    for a, b in zip(ours.derivatives(), libxcs.derivatives()):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("xc", ["PBE", "r2SCAN"])
def test_energy_of_an_anchored_network_is_its_parents(xc: str) -> None:
    parent = get_functional(xc)
    parts = [part(parent=describe(parent)) for part in (NeuralExchange, NeuralCorrelation)]
    crystal = crystal_of(rattled_silicon_carbide())
    basis, settings = basis_of(crystal, 8.0, (2, 1, 1)), SCFSettings(energy=1e-11)
    expected = solve(crystal, basis, settings=settings, xc=parent)
    state = solve(crystal, basis, settings=settings, xc=Sum([(1.0, part) for part in parts]))
    assert state.free_energy == pytest.approx(expected.free_energy, abs=1e-9)
    assert len(state.history) == len(expected.history)


@pytest.fixture(scope="module")
def carbide_with_tau() -> GroundState:
    crystal = crystal_of(rattled_silicon_carbide())
    return solve(crystal, basis_of(crystal, 8.0, (2, 1, 1)), settings=SCFSettings(energy=1e-8), xc="r2SCAN")


def test_kinetic_energy_density_is_half_the_squared_gradients_of_the_orbitals(carbide_with_tau: GroundState) -> None:
    state = carbide_with_tau
    crystal, basis = state.crystal, state.basis
    expected = torch.zeros(basis.grid.shape, dtype=torch.float64)
    for sphere, psi, electrons in zip(basis.spheres, state.orbitals, state.electrons[0]):
        for q in sphere.wavevectors(crystal.reciprocal).mT:
            slopes = to_box(1j * q * psi, sphere, basis.grid.shape).abs().square()
            expected += 0.5 * torch.einsum("n,nxyz->xyz", electrons, slopes) / crystal.volume
    expected = basis.orbits.symmetrize(expected)
    tau = basis.grid.to_real(state.fields[1])
    assert torch.allclose(tau, expected, rtol=0, atol=1e-12)
    assert float(tau.mean() * crystal.volume) == pytest.approx(state.terms["kinetic"], rel=1e-12)


def test_tau_operator_is_the_divergence_of_the_weighted_gradient(carbide_with_tau: GroundState) -> None:
    state = carbide_with_tau
    energy = TotalEnergy(state.system)
    block, psi = state.system.kpoints.blocks[1], state.orbitals[1]
    operator = energy.grid_potential(block.sphere, energy.potential(state.fields).values[0])
    sphere, v = block.sphere, operator.tau
    expected = torch.zeros_like(psi)
    for q in sphere.wavevectors(state.crystal.reciprocal).mT:
        slopes = to_box(1j * q * psi, sphere, state.basis.grid.shape)
        expected += -0.5j * q * from_box(slopes.mul_(v), sphere)
    waves = -state.basis.grid.wavevectors(state.crystal.reciprocal).square().sum(-1)
    laplacian = state.basis.grid.to_real(waves * state.basis.grid.to_fourier(v))
    without = replace(operator, local=operator.local - 0.25 * laplacian, tau=None)
    applied = torch.zeros_like(psi)
    operator.add_to(applied, psi)
    without.add_to(applied, -psi)
    assert torch.allclose(applied, expected, rtol=0, atol=1e-12)


def test_start_from_another_rung_changes_nothing(carbide_with_tau: GroundState) -> None:
    state, settings = carbide_with_tau, SCFSettings(energy=1e-10)
    for xc, start in (("PBE", state), ("r2SCAN", solve(state.crystal, state.basis, settings=settings))):
        warm = solve(state.crystal, state.basis, settings=settings, start=start, xc=xc)
        cold = solve(state.crystal, state.basis, settings=settings, xc=xc)
        assert warm.free_energy == pytest.approx(cold.free_energy, abs=1e-8)


def test_davidson_finds_the_eigenvalues_of_the_dense_matrix() -> None:
    crystal = crystal_of(rattled_silicon_carbide())
    basis = basis_of(crystal, 5.0, (2, 1, 1))
    system = System(crystal, basis, get_functional("PBE"))
    energy = TotalEnergy(system)
    potential = energy.potential(start_density(crystal, basis)).values
    hamiltonian = energy.hamiltonian(system.kpoints.blocks[1], potential[0], torch.complex128)
    dense = hamiltonian.apply(torch.eye(hamiltonian.npw, dtype=torch.complex128)).mT
    assert torch.allclose(dense, dense.mH, atol=1e-12)
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(8, hamiltonian.npw, dtype=torch.complex128, generator=generator)
    pairs = diagonalise(hamiltonian, start, 1e-9, 6)
    assert torch.allclose(pairs.values[:6], torch.linalg.eigvalsh(dense)[:6], rtol=0, atol=1e-11)


def test_warm_start_from_another_cell_saves_steps_and_changes_nothing() -> None:
    first, second = (crystal_of(bulk("Al", "fcc", a=a)) for a in (4.0, 4.1))
    bases = [basis_of(c, 10.0, (4, 4, 4), gpts=(16, 16, 16)) for c in (first, second)]
    cold = solve(second, bases[1])
    warm = solve(second, bases[1], start=solve(first, bases[0]))
    assert warm.free_energy == pytest.approx(cold.free_energy, abs=1e-10)
    assert len(warm.history) < len(cold.history)


@pytest.mark.parametrize("change", ["mesh", "fewer bands", "compression", "broken symmetry", "hot"])
def test_warm_start_from_a_very_different_state_changes_nothing(change: str) -> None:
    atoms = bulk("Si", "diamond", a=5.4)
    first, smearing, settings = crystal_of(atoms), Smearing("gaussian", 0.005), SCFSettings(energy=1e-11)
    hot = Smearing("fermi-dirac", 0.2) if change == "hot" else smearing
    start = solve(first, basis_of(first, 6.0, (2, 2, 2)), hot, settings=settings)
    if change == "compression":
        atoms.set_cell(0.8 * atoms.cell.array, scale_atoms=True)
    if change == "broken symmetry":
        atoms.positions[0] += [0.1, 0.05, -0.02]
    second = crystal_of(atoms)
    basis = basis_of(second, 6.0, (3, 3, 3) if change == "mesh" else (2, 2, 2))
    nbands = 6 if change == "fewer bands" else None
    warm, cold = (solve(second, basis, smearing, start=s, settings=settings, nbands=nbands) for s in (start, None))
    assert warm.free_energy == pytest.approx(cold.free_energy, abs=1e-8)


def test_start_of_other_atoms_is_an_error() -> None:
    silicon, aluminium = crystal_of(bulk("Si")), crystal_of(bulk("Al"))
    start = solve(aluminium, basis_of(aluminium, 5.0, (1, 1, 1)), settings=SCFSettings(energy=1e-6))
    with pytest.raises(ValueError, match="of the same atoms"):
        solve(silicon, basis_of(silicon, 5.0, (1, 1, 1)), start=start)


def test_early_single_precision_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    crystal = crystal_of(bulk("Al", "fcc", a=4.0))
    basis = basis_of(crystal, 10.0, (3, 3, 3))
    mixed = solve(crystal, basis)
    monkeypatch.setattr("ase_nnxc.ks.convergence.SINGLE_PRECISION", 1.0)  # nothing is as loose as that
    assert solve(crystal, basis).free_energy == pytest.approx(mixed.free_energy, abs=1e-11)


@pytest.mark.parametrize(
    ("atoms", "pseudos", "gpts"),
    [
        (bulk("Si", "diamond", a=5.43), "gth-pbe", (36, 36, 36)),
        (Atoms("Si", cell=3.5 * np.eye(3), pbc=True, magmoms=[2.0]), "oncv", (40, 40, 40)),  # with a core
    ],
)
def test_coarse_potentials_on_fewer_points_change_nothing(atoms, pseudos, gpts, monkeypatch) -> None:
    crystal = crystal_of(atoms, pseudos)
    fine = basis_of(crystal, 8.0, (2, 2, 2), gpts=gpts)
    evaluated: list[int] = []  # points of each evaluation of the functional
    features = ExchangeCorrelation.features

    def counted(self: ExchangeCorrelation, *arguments: Any) -> list[torch.Tensor]:
        evaluated.append(self.system.basis.fine.size)
        return features(self, *arguments)

    monkeypatch.setattr(ExchangeCorrelation, "features", counted)
    mixed = solve(crystal, fine, xc="r2SCAN")
    assert evaluated[0] == finer_grid(crystal, fine, COARSE_FINENESS).size
    assert evaluated[-1] == math.prod(gpts)
    assert evaluated == sorted(evaluated)
    monkeypatch.setattr("ase_nnxc.ks.convergence.COARSE_POTENTIAL", 1.0)  # nothing is as loose as that
    assert solve(crystal, fine, xc="r2SCAN").free_energy == pytest.approx(mixed.free_energy, abs=1e-11)


class LinearMixer:
    """A third of the residual is added."""

    def error(self, residual: torch.Tensor, volume: torch.Tensor) -> float:
        return float(volume * residual.abs().square().sum())

    def step(self, density: torch.Tensor, residual: torch.Tensor, states: float) -> torch.Tensor:
        return density + 0.33 * residual

    def change_map(self) -> None:
        pass

    def secants(self, density: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return torch.zeros(0)


def dense(hamiltonian: Hamiltonian, psi: torch.Tensor, tolerance: float, nconverge: int) -> Eigenpairs:
    """Diagonalise the matrix of H at each k-point."""
    vectors = torch.zeros_like(psi)
    values = torch.zeros(psi.shape[:2], dtype=torch.float64)
    for k, npw in enumerate(hamiltonian.numbers):
        unit = torch.zeros(len(psi), npw, hamiltonian.npw, dtype=psi.dtype)
        unit[k, :, :npw] = torch.eye(npw)
        matrix = hamiltonian.apply(unit)[k, :, :npw].mT
        energies, waves = torch.linalg.eigh(in_double(matrix))
        values[k], vectors[k, :, :npw] = energies[: psi.shape[1]], waves[:, : psi.shape[1]].mT.to(psi.dtype)
    return Eigenpairs(values, vectors, torch.zeros_like(values), torch.zeros(len(psi), dtype=torch.int64))


def test_another_mixer_eigensolver_and_schedule_find_the_same_ground_state() -> None:
    crystal = crystal_of(bulk("Si", "diamond", a=5.4))
    basis, settings = basis_of(crystal, 5.0, (2, 2, 2)), SCFSettings(energy=1e-10)
    expected = solve(crystal, basis, settings=settings)
    always_double = OrbitalTolerance(first=1e-5, final=1e-5, nelectrons=8.0)
    for arguments in ({"mixer": LinearMixer()}, {"eigensolver": dense}, {"tolerance": always_double}):
        state = solve(crystal, basis, settings=settings, **arguments)
        assert state.free_energy == pytest.approx(expected.free_energy, abs=1e-8), arguments


def test_occupied_orbitals_are_converged_at_the_end() -> None:
    crystal = crystal_of(rattled_silicon_carbide())
    basis, settings = basis_of(crystal, 8.0, (2, 1, 1)), SCFSettings(energy=1e-9)
    last = solve(crystal, basis, settings=settings).history[-1]
    assert last.error <= settings.energy
    assert last.residual <= 0.3 * math.sqrt(settings.energy / crystal.nelectrons)


def test_smooth_cutoff_makes_the_energy_a_smooth_function_of_the_cell() -> None:
    def roughness(smooth: bool) -> float:
        energies = []
        for x in np.linspace(0.985, 1.015, 8):
            crystal = crystal_of(bulk("Al", "fcc", a=4.0 * x))
            basis = basis_of(crystal, 6.0, (3, 3, 3), smooth=smooth, gpts=(15, 15, 15))
            energies.append(solve(crystal, basis, settings=SCFSettings(energy=1e-11)).free_energy)
        return float(np.abs(np.diff(energies, 4)).max())

    assert roughness(True) < 0.05 * roughness(False)


def test_unconverged_scf_raises_with_its_history() -> None:
    crystal = crystal_of(bulk("Al", "fcc", a=4.0))
    with pytest.raises(ConvergenceError, match="has not converged in 2 steps") as error:
        solve(crystal, basis_of(crystal, 6.0, (2, 2, 2)), settings=SCFSettings(energy=1e-12, maxiter=2))
    assert len(error.value.history) == 2


def test_too_few_bands_are_an_error() -> None:
    crystal = crystal_of(bulk("Si", "diamond", a=5.4))
    with pytest.raises(ValueError, match="too few bands"):
        solve(crystal, basis_of(crystal, 5.0, (1, 1, 1)), nbands=3)


def test_box_must_hold_the_density() -> None:
    crystal = crystal_of(bulk("Si", "diamond", a=5.4))
    with pytest.raises(ValueError, match="cannot hold the density"):
        basis_of(crystal, 8.0, (1, 1, 1), gpts=(12, 12, 12))


def test_box_sizes_have_small_primes() -> None:
    assert [smooth_size(n) for n in (11, 13, 17, 23, 29, 31, 37)] == [12, 14, 18, 24, 30, 32, 40]
    assert smooth_size(23, multiple=4) == 24
    assert smooth_size(25, multiple=4) == 28


def test_pulay_pressure_is_what_a_larger_cutoff_adds_to_the_stress() -> None:
    def pressure(state: GroundState) -> float:
        return float(state.derivatives()[1].trace() / 3)

    crystal = crystal_of(bulk("Si", "diamond", a=5.4))
    low, high = (solve(crystal, basis_of(crystal, ecut, (2, 2, 2))) for ecut in (8.0, 25.0))
    missing = pressure(high) - pressure(low)
    assert pulay_pressure(low) == pytest.approx(missing, rel=0.5)
    assert math.isclose(abs(pulay_pressure(high)), 0, abs_tol=2e-6)
