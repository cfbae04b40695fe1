"""Linear response and gradients through the SCF against finite differences of tightly converged ones."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from kohn_sham import TIGHT, Bent, basis_of, crystal_of, diagonalise, slope, triplet
from torch import Tensor

from ase_nnxc.ks.adjoint import Differentiable, differentiable
from ase_nnxc.ks.convergence import SCFSettings
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.ks.occupations import Smearing
from ase_nnxc.ks.potential import potential_of_spins
from ase_nnxc.ks.response import Response, ResponseError, divided_differences
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.system import System

FERMI_DIRAC, GAUSSIAN = Smearing("fermi-dirac", 0.005), Smearing("gaussian", 0.01)


def silicon() -> Atoms:
    return bulk("Si", "diamond", a=5.4)


def aluminium() -> Atoms:
    return bulk("Al", "fcc", a=4.0)


def nickel() -> Atoms:
    atoms = bulk("Ni", "fcc", a=3.6)
    atoms.set_initial_magnetic_moments([1.0])
    return atoms


def solve(
    atoms: Atoms, ecut: float, kpts, xc: str, smearing: Smearing, settings: SCFSettings = TIGHT, **kwargs
) -> GroundState:
    crystal = crystal_of(atoms)
    return scf(System(crystal, basis_of(crystal, ecut, kpts, **kwargs), Bent(xc)), smearing, settings=settings)


def smooth_weights(state: GroundState, seed: int = 0) -> Tensor:
    """Something to weigh the fields with (nfields, n1, n2, n3), with the symmetry of the crystal."""
    basis, generator = state.basis, torch.Generator().manual_seed(seed)
    noise = torch.randn(len(state.fields), *basis.grid.shape, dtype=torch.float64, generator=generator)
    damping = torch.exp(-0.5 * basis.grid.wavevectors(state.crystal.reciprocal).square().sum(-1))
    return basis.grid.to_real(damping * basis.grid.to_fourier(basis.orbits.symmetrize(noise)))


def check_gradient(
    state: GroundState,
    loss: Callable[[Differentiable], Tensor],
    rel: float,
    h: float = 5e-3,
    settings: SCFSettings = TIGHT,
) -> None:
    """The gradient by a direction in the space of the functional's parameters against shifted SCFs."""
    scale, direction = state.functional.scale, torch.tensor([0.3, 1.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss(differentiable(state)), scale)

    def shifted(x: float) -> float:
        functional = Bent("PBE")
        functional.parent, functional.features = state.functional.parent, state.functional.features
        functional.scale.data += x * direction
        system = System(state.crystal, state.basis, functional)
        moved = scf(system, state.smearing, settings=settings, start=state)
        return float(loss(differentiable(moved)).detach())

    assert float(gradient @ direction) == pytest.approx(slope(shifted, h), rel=rel)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("atoms", "ecut", "kpts", "xc", "smearing"),
    [
        (silicon(), 5.0, (2, 2, 2), "r2SCAN", GAUSSIAN),
        (aluminium(), 6.0, (4, 4, 4), "LDA", FERMI_DIRAC),
        (silicon(), 5.0, (1, 1, 1), "LDA", Smearing("marzari-vanderbilt", 0.0095)),  # whole electrons
        pytest.param(silicon(), 6.0, (2, 2, 2), "PBE", GAUSSIAN, marks=SLOW),
        pytest.param(aluminium(), 6.0, (4, 4, 4), "r2SCAN", Smearing("methfessel-paxton", 0.02), marks=SLOW),
        pytest.param(aluminium(), 6.0, (4, 4, 4), "PBE", Smearing("marzari-vanderbilt", 0.01), marks=SLOW),
        pytest.param(triplet(), 10.0, (1, 1, 1), "r2SCAN", GAUSSIAN, marks=SLOW),
        pytest.param(nickel(), 30.0, (3, 3, 3), "PBE", GAUSSIAN, marks=SLOW),
    ],
)
def test_gradient_of_a_loss_on_the_fields_is_that_of_shifted_ground_states(
    atoms: Atoms, ecut: float, kpts, xc: str, smearing: Smearing
) -> None:
    state = solve(atoms, ecut, kpts, xc, smearing)
    check_gradient(state, lambda out: out.fields.square().sum(), rel=1e-5)


@pytest.mark.slow
def test_gradient_of_a_loss_on_the_fields_of_full_polarisation() -> None:
    """PBE holds (1 - zeta)^(2/3): with rounded zeta the residual comes no nearer to zero than this."""
    settings = SCFSettings(energy=1e-15)
    state = solve(triplet(), 8.0, (1, 1, 1), "PBE", GAUSSIAN, settings)
    check_gradient(state, lambda out: out.fields.square().sum(), rel=1e-5, settings=settings)


@pytest.fixture(scope="module")
def metal() -> GroundState:
    return solve(aluminium(), 6.0, (4, 4, 4), "PBE", GAUSSIAN)


@pytest.fixture(scope="module")
def magnet() -> GroundState:
    return solve(triplet(), 6.0, (1, 1, 1), "r2SCAN", Smearing("gaussian", 0.02), SCFSettings(energy=1e-12))


def test_gradients_of_levels_and_entropy_are_those_of_shifted_ground_states(
    metal: GroundState,
) -> None:
    weights = metal.system.kpoints.weights[:, None]

    def loss(out: Differentiable) -> Tensor:
        entropy = (GAUSSIAN.entropy(out.eigenvalues, out.fermi_level) * weights).sum()
        occupations = GAUSSIAN.occupations(out.eigenvalues, out.fermi_level)
        moments = (occupations * (1 + weights) * out.eigenvalues.square()).sum()
        return moments + 0.3 * out.fermi_level + 10 * entropy

    check_gradient(metal, loss, rel=1e-5)


def test_gradient_at_fixed_orbitals_is_not_that_of_the_extrapolated_energy(metal: GroundState) -> None:
    """The free energy is stationary, what is added to it is not."""
    weights = 2 * metal.system.kpoints.weights[:, None]
    out = differentiable(metal)
    entropy = -GAUSSIAN.width * (GAUSSIAN.entropy(out.eigenvalues, out.fermi_level) * weights).sum()
    assert float(entropy.detach()) == pytest.approx(metal.terms["entropy"], rel=1e-10)
    (gradient,) = torch.autograd.grad(GAUSSIAN.extrapolation * entropy, metal.functional.scale)
    assert float(gradient.abs().max()) > 1e-5


def test_irreducible_mesh_gives_the_gradient_of_the_full_mesh() -> None:
    gradients = []
    for symmetric in (True, False):
        state = solve(aluminium(), 5.0, (3, 3, 3), "PBE", GAUSSIAN, symmetric=symmetric, gpts=(12, 12, 12))
        out = differentiable(state, tolerance=1e-9)
        loss = out.fields.square().sum() + out.fermi_level
        gradients.append(torch.autograd.grad(loss, state.functional.scale)[0])
    assert torch.allclose(*gradients, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", ["metal", "magnet"])
def test_response_is_symmetric_and_keeps_the_electrons(name: str, request: pytest.FixtureRequest) -> None:
    state = request.getfixturevalue(name)
    response = Response(state)
    first, second = (smooth_weights(state, seed) for seed in (1, 2))
    changes = [response.chi0(v, 1e-10) for v in (first, second)]
    a, b = (float((v * state.basis.grid.to_real(c)).sum()) for v, c in ((second, changes[0]), (first, changes[1])))
    assert a == pytest.approx(b, rel=1e-8)
    assert abs(complex(changes[0][0, 0])) * float(state.crystal.volume) < 1e-12
    kernels = [state.basis.grid.to_fourier(response.kernel(c)) for c in changes]
    a, b = (float(state.basis.grid.inner(k, c).sum()) for k, c in zip(kernels, reversed(changes)))
    assert a == pytest.approx(b, rel=1e-10)


@pytest.mark.parametrize("name", ["metal", "magnet"])
def test_response_without_interaction_is_that_of_shifted_potentials(name: str, request: pytest.FixtureRequest) -> None:
    state = request.getfixturevalue(name)
    crystal, response = state.crystal, Response(state)
    energy, kpoints, perturbation = response.energy, state.system.kpoints, smooth_weights(state)
    shift = potential_of_spins(state.system, perturbation)

    def fields(x: float) -> Tensor:
        shifted = response.potential + x * shift

        def solved(block, psi):
            hamiltonian = energy.hamiltonian(block, shifted[block.spin], torch.complex128)
            return diagonalise(hamiltonian, psi, 1e-10, response.nbands)

        pairs = kpoints.map(solved, state.orbitals)
        filled = state.smearing.fill(kpoints.gather([p.values for p in pairs]), kpoints.weights, crystal.reservoirs)
        return energy.fields_of([p.vectors for p in pairs], filled.electrons)

    h = 1e-2 / float(perturbation.abs().max())
    expected = (8 * (fields(h) - fields(-h)) - (fields(2 * h) - fields(-2 * h))) / (12 * h)
    change = response.chi0(perturbation, 1e-10)
    assert float((change - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["metal", "magnet"])
def test_kernel_is_the_derivative_of_the_potentials(name: str, request: pytest.FixtureRequest) -> None:
    state = request.getfixturevalue(name)
    response = Response(state)
    change = response.chi0(smooth_weights(state), 1e-8)  # leaves an empty channel empty
    h = 1e-4 * float(state.fields.abs().max() / change.abs().max())
    plus, minus = (response.energy.potential(state.fields + x * change).values for x in (h, -h))
    density = state.basis.grid.to_real(state.fields[0])  # potentials of nothing, an empty channel's too, do not matter
    expected = density * (plus - minus)[0] / (2 * h)
    found = density * potential_of_spins(state.system, response.kernel(change))[0]
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_divided_differences_are_smooth_where_levels_meet() -> None:
    smearing, distances = Smearing("marzari-vanderbilt", 0.01), torch.logspace(-12, -1, 45, dtype=torch.float64)
    levels = torch.cat((torch.tensor([0.2], dtype=torch.float64), 0.2 + distances))
    found = divided_differences(smearing, levels, 0.203)[0]
    slope_there = smearing.derivatives(levels[0], 0.203)
    assert float(found[0]) == pytest.approx(float(slope_there), rel=1e-12)
    assert torch.allclose(found[1:10], slope_there.expand(9), rtol=1e-6)
    quotient = (smearing.occupations(levels, 0.203)[1:] - smearing.occupations(levels, 0.203)[0]) / distances
    assert torch.allclose(found[1:][distances > 1e-4], quotient[distances > 1e-4], rtol=1e-10)


def test_fermi_level_without_response_is_an_error(metal: GroundState) -> None:
    cold = Smearing("methfessel-paxton", 0.01)
    eigenvalues = metal.fermi_level + torch.where(metal.occupations > 0.5, -0.0135, 0.0135)  # df/de > 0
    with pytest.raises(ResponseError, match="Fermi level has no well-defined response: methfessel-paxton"):
        Response(replace(metal, smearing=cold, eigenvalues=eigenvalues))


def test_changed_parameters_are_an_error(metal: GroundState) -> None:
    out = differentiable(metal)
    with torch.no_grad():
        metal.functional.scale += 0.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.fields.sum().backward()
