"""Gradients of losses of any kind through the SCF, against finite differences of tightly converged ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError
from kohn_sham import TIGHT, Bent, basis_of, crystal_of, rattled_silicon_carbide, slope, triplet
from torch import Tensor

from ase_nnxc import NNXCCalculator
from ase_nnxc.calculator import Differentiable as InASEUnits
from ase_nnxc.eos.birch_murnaghan import fit_birch_murnaghan
from ase_nnxc.ks.adjoint import Differentiable, differentiable
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.ks.occupations import Smearing
from ase_nnxc.ks.response import ResponseError
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.system import System
from ase_nnxc.registry import get_functional
from ase_nnxc.xc import PBE

SLOW = pytest.mark.slow
GAUSSIAN, WIDE, COLD = Smearing("gaussian", 0.01), Smearing("gaussian", 0.02), Smearing("marzari-vanderbilt", 0.01)
FERMI_DIRAC = Smearing("fermi-dirac", 0.005)


def aluminium() -> Atoms:
    return bulk("Al", "fcc", a=4.0)


def sheared_aluminium() -> Atoms:
    atoms = aluminium()
    strain = np.array([[0.02, 0.01, 0], [0.01, -0.02, 0.02], [0, 0.02, 0.01]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


def silicon() -> Atoms:
    atoms = bulk("Si", "diamond", a=5.4)
    atoms.positions[1] += 0.05  # along the threefold axis
    return atoms


def magnesia() -> Atoms:
    return bulk("MgO", "rocksalt", a=4.2)


def nickel() -> Atoms:
    atoms = bulk("Ni", "fcc", a=3.6)
    atoms.set_initial_magnetic_moments([1.0])
    return atoms


def water() -> Atoms:
    atoms = molecule("H2O", cell=(4.2, 4.6, 4.4), pbc=True)
    atoms.center()
    return atoms


def unequal_spins() -> Atoms:
    """More bands hold electrons of one spin than of the other."""
    atoms = Atoms("AlC", cell=[4.2, 4.4, 4.6], positions=[[0.1, 0.0, 0.2], [1.3, 1.2, 1.4]], pbc=True)
    atoms.set_initial_magnetic_moments([1.5, 1.5])
    return atoms


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(math.prod(shape)))


# ---- by the functional's parameters ---------------------------------------------------------------------------------


def density_loss(out: Differentiable) -> Tensor:
    return out.fields.square().sum()


def forces_loss(out: Differentiable) -> Tensor:
    return (out.forces * random(*out.forces.shape)).sum()


def stress_loss(out: Differentiable) -> Tensor:
    return (out.stress - 1e-3 * random(3, 3)).square().sum() * 1e6


def eigenvalues_loss(out: Differentiable) -> Tensor:
    return (out.eigenvalues.square() * out.state.occupations.round()).sum()


def band_gap_loss(out: Differentiable) -> Tensor:
    return InASEUnits(out, None).band_gap.square()


def energy_loss(out: Differentiable) -> Tensor:
    """The extrapolated energy, which is not stationary."""
    return out.energy


LOSSES = [density_loss, stress_loss, eigenvalues_loss, energy_loss]


def check_parameters(
    state: GroundState, losses: Sequence[Callable[[Differentiable], Tensor]], rel: float, h: float = 2.5e-3
) -> None:
    """Gradients by a direction in the space of the functional's parameters against shifted SCFs."""
    scale, direction = state.functional.scale, torch.tensor([0.3, 1.0], dtype=torch.float64)
    out = differentiable(state)
    found = [float(torch.autograd.grad(loss(out), scale, retain_graph=True)[0] @ direction) for loss in losses]
    shifted = {}
    for x in (h, -h, 2 * h, -2 * h):
        functional = Bent("PBE")
        functional.parent, functional.features = state.functional.parent, state.functional.features
        functional.scale.data += x * direction
        system = System(state.crystal, state.basis, functional)
        moved = differentiable(scf(system, state.smearing, settings=TIGHT, start=state))
        shifted[x] = [float(loss(moved).detach()) for loss in losses]
    expected = [slope(lambda x, i=i: shifted[x][i], h) for i in range(len(losses))]
    names = [loss.__name__ for loss in losses]
    assert dict(zip(names, found)) == pytest.approx(dict(zip(names, expected)), rel=rel)


@pytest.mark.parametrize(
    ("atoms", "ecut", "kpts", "xc", "smearing", "losses"),
    [
        (silicon(), 5.0, (2, 2, 2), "r2SCAN", GAUSSIAN, [*LOSSES, forces_loss, band_gap_loss]),
        (aluminium(), 6.0, (4, 4, 4), "PBE", GAUSSIAN, LOSSES),
        pytest.param(
            silicon(), 6.0, (2, 2, 2), "LDA", COLD, [density_loss, stress_loss, energy_loss, forces_loss], marks=SLOW
        ),
        pytest.param(
            silicon(),
            6.0,
            (2, 2, 2),
            "PBE",
            GAUSSIAN,
            [density_loss, stress_loss, energy_loss, forces_loss],
            marks=SLOW,
        ),
        pytest.param(aluminium(), 6.0, (4, 4, 4), "LDA", FERMI_DIRAC, LOSSES, marks=SLOW),
        pytest.param(aluminium(), 6.0, (4, 4, 4), "PBE", COLD, LOSSES, marks=SLOW),
        pytest.param(aluminium(), 6.0, (4, 4, 4), "r2SCAN", Smearing("methfessel-paxton", 0.02), LOSSES, marks=SLOW),
        pytest.param(magnesia(), 15.0, (2, 2, 2), "PBE", GAUSSIAN, [*LOSSES, band_gap_loss], marks=SLOW),
        pytest.param(nickel(), 30.0, (3, 3, 3), "PBE", GAUSSIAN, LOSSES, marks=SLOW),
        pytest.param(water(), 15.0, (1, 1, 1), "PBE", GAUSSIAN, [*LOSSES, forces_loss, band_gap_loss], marks=SLOW),
        pytest.param(triplet(), 8.0, (1, 1, 1), "r2SCAN", GAUSSIAN, [*LOSSES, forces_loss], marks=SLOW),
    ],
)
def test_gradients_by_parameters_are_those_of_shifted_ground_states(
    atoms: Atoms, ecut: float, kpts, xc: str, smearing: Smearing, losses
) -> None:
    crystal = crystal_of(atoms)
    state = scf(System(crystal, basis_of(crystal, ecut, kpts), Bent(xc)), smearing, settings=TIGHT)
    check_parameters(state, losses, rel=1e-5)


def test_gradients_at_a_fixed_moment_are_those_of_shifted_ground_states() -> None:
    crystal = replace(crystal_of(triplet()), fixed_moment=1.0)
    state = scf(System(crystal, basis_of(crystal, 6.0, (1, 1, 1)), Bent("PBE")), WIDE, settings=TIGHT)
    check_parameters(state, [density_loss, eigenvalues_loss, lambda out: out.fermi_levels[0]], rel=1e-5)


def test_gradient_of_the_free_energy_needs_no_response() -> None:
    crystal = crystal_of(aluminium())
    state = scf(System(crystal, basis_of(crystal, 6.0, (4, 4, 4)), Bent("PBE")), GAUSSIAN, settings=TIGHT)
    check_parameters(state, [lambda out: out.free_energy], rel=1e-7, h=1e-2)


def test_irreducible_mesh_gives_the_gradients_of_the_full_mesh() -> None:
    crystal = crystal_of(silicon())
    gradients = []
    for symmetric in (True, False):
        basis = basis_of(crystal, 5.0, (2, 2, 2), symmetric=symmetric, gpts=(16, 16, 16))
        out = differentiable(scf(System(crystal, basis, Bent("PBE")), GAUSSIAN, settings=TIGHT), tolerance=1e-9)
        loss = (out.forces * random(2, 3)).sum() + 100 * (out.stress * random(3, 3)).sum()
        gradients.append(torch.autograd.grad(loss, out.state.functional.scale)[0])
    assert torch.allclose(*gradients, rtol=1e-7, atol=0)


# ---- by positions and strain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("atoms", "ecut", "kpts", "xc", "smearing", "smooth"),
    [
        (rattled_silicon_carbide(), 5.0, (2, 1, 1), "PBE", GAUSSIAN, True),
        pytest.param(rattled_silicon_carbide(), 6.0, (2, 1, 1), "r2SCAN", GAUSSIAN, False, marks=SLOW),
        pytest.param(sheared_aluminium(), 5.0, (3, 3, 3), "LDA", WIDE, False, marks=SLOW),
        pytest.param(sheared_aluminium(), 5.0, (3, 3, 3), "r2SCAN", WIDE, True, marks=SLOW),
        pytest.param(triplet(), 6.0, (1, 1, 1), "r2SCAN", WIDE, False, marks=SLOW),
        pytest.param(unequal_spins(), 5.0, (1, 1, 1), "PBE", GAUSSIAN, False, marks=SLOW),
    ],
)
def test_gradients_by_positions_and_strain_are_those_of_moved_ground_states(
    atoms: Atoms, ecut: float, kpts, xc: str, smearing: Smearing, smooth: bool
) -> None:
    crystal = crystal_of(atoms)
    basis = basis_of(crystal, ecut, kpts, symmetric=False, smooth=smooth)
    state = scf(System(crystal, basis, get_functional(xc)), smearing, settings=TIGHT)
    damping = torch.exp(-0.5 * basis.grid.wavevectors(crystal.reciprocal).square().sum(-1))
    weights = basis.grid.to_real(damping * basis.grid.to_fourier(random(len(state.fields), *basis.grid.shape)))

    def loss(out: Differentiable) -> Tensor:
        of_derivatives = (random(*out.forces.shape) * out.forces).sum() + 10 * (random(3, 3) * out.stress).sum()
        return of_derivatives + (weights * out.fields).sum() + 0.3 * eigenvalues_loss(out) + 0.5 * out.energy

    moves, strains = random(len(atoms), 3), random(3, 3) + random(3, 3).mT
    displacements = torch.zeros_like(moves, requires_grad=True)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    by_displacements, by_strain = torch.autograd.grad(
        loss(differentiable(state, displacements, strain)), (displacements, strain)
    )

    def shifted(move: float, stretch: float) -> float:
        moved = crystal.deformed(stretch * strains, move * moves)
        out = differentiable(scf(System(moved, basis, state.functional), smearing, settings=TIGHT, start=state))
        return float(loss(out).detach())

    found = [float((by_displacements * moves).sum()), float((by_strain * strains).sum())]
    expected = [slope(lambda x: shifted(x, 0.0), 1e-3), slope(lambda x: shifted(0.0, x), 3e-4)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_derivatives_by_positions_ask_for_a_state_without_symmetry() -> None:
    crystal = crystal_of(aluminium())
    state = scf(System(crystal, basis_of(crystal, 4.0, (2, 2, 2)), get_functional("LDA")), GAUSSIAN)
    with pytest.raises(ValueError, match="need a ground state without symmetry"):
        differentiable(state, torch.zeros(1, 3, dtype=torch.float64, requires_grad=True))


def test_fermi_level_in_a_gap_has_no_derivatives() -> None:
    crystal = crystal_of(silicon())
    state = scf(System(crystal, basis_of(crystal, 4.0, (1, 1, 1)), Bent("LDA")), Smearing("gaussian", 1e-3))
    with pytest.raises(ResponseError, match="lies in a gap"):
        differentiable(state).fermi_level.backward()


# ---- by the calculator ----------------------------------------------------------------------------------------------

SETTINGS = {"ecut": 120, "kpts": {"size": (2, 2, 2), "gamma": True}, "smearing": {"name": "gaussian", "width": 0.2}}


@pytest.fixture(scope="module")
def calculator() -> NNXCCalculator:
    return NNXCCalculator(PBE(trainable=("kappa", "mu")), **SETTINGS, convergence={"energy": 1e-11})


def test_tensors_are_the_results_of_the_calculator(calculator: NNXCCalculator) -> None:
    atoms = silicon()
    out = calculator.differentiable(atoms)
    results = atoms.copy()
    results.calc = calculator
    assert float(out.free_energy.detach()) == results.get_potential_energy(force_consistent=True)
    assert float(out.energy.detach()) == pytest.approx(results.get_potential_energy(), abs=1e-10)
    assert out.forces.detach().numpy() == pytest.approx(results.get_forces(), abs=1e-10)
    assert out.stress.detach().numpy() == pytest.approx(results.get_stress(), abs=1e-10)
    electrons = float(out.density.detach().mean()) * atoms.get_volume()
    assert electrons == pytest.approx(8, abs=1e-9)


def test_losses_reach_parameters_positions_and_strain_by_backward(calculator: NNXCCalculator) -> None:
    atoms, functional = silicon(), calculator.parameters["xc"]
    positions = torch.tensor(atoms.positions, requires_grad=True)
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    out = calculator.differentiable(atoms, positions=positions, strain=strain)
    (out.forces.square().sum() + out.stress.square().sum() + out.band_gap + out.magnetisation.sum()).backward()
    for tensor in (positions, strain, functional.kappa, functional.mu):
        assert bool(tensor.grad.abs().max() > 0)
        tensor.grad = None


def test_positions_and_strain_are_where_the_atoms_are_taken(calculator: NNXCCalculator) -> None:
    atoms, strain = silicon(), torch.diag(torch.tensor([0.01, 0.0, -0.02], dtype=torch.float64))
    positions = torch.tensor(atoms.positions + np.array([[0.0, 0.0, 0.0], [0.03, 0.0, 0.0]]))
    out = calculator.differentiable(atoms, positions=positions, strain=strain)
    moved = atoms.copy()
    moved.positions = positions.numpy()
    moved.set_cell(moved.cell.array @ (np.eye(3) + strain.numpy()), scale_atoms=True)
    moved.calc = calculator
    assert float(out.free_energy.detach()) == moved.get_potential_energy(force_consistent=True)


def test_derivatives_are_by_the_tensors_that_were_given(calculator: NNXCCalculator) -> None:
    """Also at positions and a strain other than those of the atoms: by forces and stress there."""
    atoms = silicon()
    positions = torch.tensor(atoms.positions + np.array([[0.0, 0.0, 0.0], [0.03, 0.0, 0.0]]), requires_grad=True)
    strain = torch.tensor([[0.02, 0.01, 0.0], [0.01, 0.0, 0.0], [0.0, 0.0, -0.02]], dtype=torch.float64)
    out = calculator.differentiable(atoms, positions=positions, strain=strain.requires_grad_())
    by_positions, by_strain = torch.autograd.grad(out.free_energy, (positions, strain))
    stretch = torch.eye(3, dtype=torch.float64) + strain.detach()
    volume = atoms.get_volume() * torch.linalg.det(stretch)
    stress = out.stress.detach()[torch.tensor([[0, 5, 4], [5, 1, 3], [4, 3, 2]])]
    # r = r_0 S: dF/dr_0 = -f S^T and, the atoms moving along, dF/dS = S^-T Omega sigma
    assert torch.allclose(by_positions, -out.forces.detach() @ stretch.mT, atol=1e-10)
    assert torch.allclose(by_strain, torch.linalg.inv(stretch).mT @ stress * volume, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": torch.zeros(3, 3, dtype=torch.float64)}, r"positions is torch.float64 \(3, 3\), .* \(2, 3\)"),
        ({"strain": torch.zeros(3, 3, dtype=torch.float32)}, "strain is torch.float32"),
    ],
)
def test_wrong_tensors_are_refused(calculator: NNXCCalculator, arguments, message: str) -> None:
    with pytest.raises(InputError, match=message):
        calculator.differentiable(silicon(), **arguments)


@pytest.mark.slow
def test_lattice_constant_has_the_gradient_of_a_refit() -> None:
    """d(a0)/d(mu) by the differentiable equation of state against fits of energies with another mu."""
    functional = PBE(trainable=("mu",))
    calculator = NNXCCalculator(functional, **SETTINGS, smooth_cutoff=True, convergence={"energy": 1e-12})
    structures = [bulk("Si", a=a) for a in (5.25, 5.35, 5.45, 5.55, 5.65)]
    calculator.set(gpts=calculator.resolve(structures[-1])["gpts"])
    volumes = torch.tensor([atoms.get_volume() for atoms in structures], dtype=torch.float64)

    def lattice_constant() -> Tensor:
        energies = torch.stack([calculator.energy_tensor(atoms) for atoms in structures])
        return (4 * fit_birch_murnaghan(volumes, energies).volume) ** (1 / 3)

    (gradient,) = torch.autograd.grad(lattice_constant(), functional.mu)

    def refitted(x: float) -> float:
        with torch.no_grad():
            functional.mu += x
            a = float(lattice_constant())
            functional.mu -= x
        return a

    assert float(gradient) == pytest.approx(slope(refitted, 2e-2), rel=1e-4)


def test_a_ground_state_of_loose_convergence_still_responds(calculator: NNXCCalculator) -> None:
    loose = NNXCCalculator(calculator.parameters["xc"], **SETTINGS, convergence={"energy": 1e-5})
    parameter = calculator.parameters["xc"].mu
    gradients = [
        float(torch.autograd.grad(calc.differentiable(silicon()).density.square().sum(), parameter)[0])
        for calc in (loose, calculator)
    ]
    assert gradients[0] == pytest.approx(gradients[1], rel=2e-2)
