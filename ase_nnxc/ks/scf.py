"""The self-consistent field: density -> potential -> orbitals -> density, until input and output agree."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..xc.functional import Functional
from .basis import Basis, Sphere, shared_waves
from .crystal import Crystal
from .eigensolver import Eigenpairs, davidson
from .ground_state import GroundState, energy_terms, fields_of
from .guess import atomic_orbitals, noise, start_density, start_orbitals, start_tau
from .hamiltonian import Hamiltonian, TauOperator
from .mixing import AndersonMixer
from .occupations import Smearing, TooFewBands
from .parallel import map_kpoints
from .terms.coulomb import coulomb_kernel, lattice_kernel
from .terms.ewald import ewald_energy
from .terms.hartree import hartree_energy
from .terms.kinetic import kinetic_energy
from .terms.local import local_potential
from .terms.nonlocal_ import coupling, projectors
from .terms.xc import nfields, up_and_down, xc_potential

SCREENING = 0.8  # Kerker's wave vector where there are periods, bohr^-1
# residual norms of the first diagonalisation, Hartree: from atoms; from a ground state of other positions; from one of
# the same positions and another functional, whose small change of the density rougher orbitals would hide
LOOSE_TOLERANCE, WARM_TOLERANCE, CLOSE_TOLERANCE = 1e-2, 1e-3, 3.1e-4
SINGLE_PRECISION = 3e-4  # looser residual norms than this are reached in complex64
COLLAPSED = 0.05  # a magnetisation below this share of the initial moments is started again from them
EMPTY = 1e-6  # a band with a smaller occupation need not be converged
TOO_FULL = 1e-3  # more than this in the highest of the bands that the caller allows is an error


class ConvergenceError(RuntimeError):
    """The SCF did not reach its tolerance; `history` holds its steps."""

    def __init__(self, message: str, history: "list[Step]"):
        super().__init__(message)
        self.history = history


@dataclass(frozen=True)
class Step:
    """One step of the SCF.

    Attributes
    ----------
    number : int
        From 1.
    free_energy : float
        Harris-Foulkes functional of the input density, Hartree.
    error : float
        Electrostatic energy of the density's residual, an estimate of the energy's error, Hartree.
    tolerance, residual : float
        Largest residual norm asked of the occupied orbitals, and the one reached, Hartree.
    fermi_level : float
        Hartree.
    moment : float
        Bohr magnetons.
    applications : int
        Applications of H, summed over k-points.
    seconds : float
        Wall time of the step.
    """

    number: int
    free_energy: float
    error: float
    tolerance: float
    residual: float
    fermi_level: float
    moment: float
    applications: int
    seconds: float


@dataclass(frozen=True)
class SCFSettings:
    """What ends an SCF.

    Attributes
    ----------
    energy : float
        Error of the energy, Hartree, as estimated by the electrostatic energy of the density's residual.
    maxiter : int
        Most steps.
    """

    energy: float = 1e-9
    maxiter: int = 100


def default_nbands(crystal: Crystal) -> int:
    """A fifth more bands than electron pairs, at least four more; with spin, counted for the majority channel."""
    moment = crystal.fixed_moment
    if moment is None:
        moment = 0.0 if crystal.magmoms is None else float(crystal.magmoms.sum())
    filled = math.ceil((crystal.nelectrons + abs(moment)) / 2)
    return filled + max(4, math.ceil(0.2 * filled))


class Problem:
    """The parts of the Hamiltonian that stay the same during one SCF."""

    def __init__(self, crystal: Crystal, basis: Basis, functional: Functional):
        self.crystal, self.basis, self.functional = crystal, basis, functional
        self.kernel = coulomb_kernel(basis.grid, crystal)
        self.local = local_potential(crystal, basis.grid, self.kernel)
        self.ewald = float(ewald_energy(crystal.lattice, crystal.positions, crystal.charges, pbc=crystal.pbc))
        self.coupling = coupling(crystal).to(torch.complex128)
        self.half_squares = [s.half_squares(crystal.reciprocal) for s in basis.spheres]
        self.kinetic = [kinetic_energy(t, basis.ecut, basis.smooth_cutoff) for t in self.half_squares]
        self.projectors = [projectors(crystal, s) for s in basis.spheres]

    def potentials(self, fields: Tensor) -> tuple[Tensor, float]:
        """Potentials on the grid (nspin, 1 or 2, n1, n2, n3), made by fields (nfields, ng).

        The first of each spin is the local potential, Hartree; if the energy depends on tau, the second is v = dE/dtau,
        and the first holds 1/4 lap v (see `hamiltonian`). The second result, E_xc - int (v_xc n + v tau) - E_H, added
        to the sum of eigenvalues, makes the Harris-Foulkes energy.
        """
        grid, volume = self.basis.grid, self.crystal.volume
        real = grid.to_real(fields)
        e_xc, slopes = xc_potential(self.functional, real, self.crystal, self.basis)
        if not (math.isfinite(e_xc) and bool(slopes.isfinite().all())):
            raise FloatingPointError("the functional gives NaN or infinity, as energy or as potential")
        contracted = float((slopes * real).sum() * volume) / grid.size
        hartree = float(hartree_energy(fields[0], self.kernel, grid, volume))
        slopes[0] += grid.to_real(self.local + self.kernel * fields[0])
        return self.on_grid(slopes), e_xc - contracted - hartree

    def on_grid(self, slopes: Tensor) -> Tensor:
        """Potentials of each spin, as `potentials` gives them, of derivatives (nfields, n1, n2, n3) by the fields."""
        grid, nspin = self.basis.grid, self.crystal.nspin
        local = up_and_down(slopes[:nspin])
        if len(slopes) == nspin:
            return local[:, None]
        tau = up_and_down(slopes[nspin:])
        laplacian = grid.to_real(-grid.wavevectors(self.crystal.reciprocal).square().sum(-1) * grid.to_fourier(tau))
        return torch.stack((local + 0.25 * laplacian, tau), dim=1)

    def missing_bands(self, nbands: int) -> int:
        """How many bands to add when the highest of `nbands` holds electrons: a quarter, if there are plane waves."""
        return max(0, min(2 + nbands // 4, min(s.npw for s in self.basis.spheres) - nbands))

    def hamiltonian(self, k: int, potentials: Tensor, dtype: torch.dtype) -> Hamiltonian:
        """H at k-point number `k` with the `potentials` (1 or 2, n1, n2, n3) of one spin, in the precision `dtype`."""
        local, *tau = potentials.to(dtype.to_real())
        return Hamiltonian(
            self.basis.spheres[k],
            self.kinetic[k].to(local.dtype),
            self.basis.ecut,
            self.projectors[k].to(dtype),
            self.coupling.to(dtype),
            local,
            TauOperator(self.half_squares[k].to(local.dtype), tau[0]) if tau else None,
        )


def scf(
    crystal: Crystal,
    basis: Basis,
    functional: Functional,
    smearing: Smearing,
    nbands: int | None = None,
    settings: SCFSettings | None = None,
    start: GroundState | None = None,
    callback: Callable[[Step], None] | None = None,
) -> GroundState:
    """Solve the Kohn-Sham equations.

    Parameters
    ----------
    crystal, basis, functional, smearing
        The problem.
    nbands : int, optional
        Bands per k-point; default: `default_nbands`, more when their occupations ask for it.
    settings : SCFSettings, optional
        Tolerance and number of steps.
    start : GroundState, optional
        State of the same atoms, moved or strained, to start from.
    callback : callable, optional
        Receives each `Step` as it is finished.

    Returns
    -------
    GroundState

    Raises
    ------
    ConvergenceError
        If the tolerance is not reached within `settings.maxiter` steps.
    TooFewBands
        If `nbands` cannot hold the electrons.
    FloatingPointError
        If the functional gives energies or potentials that are not finite.
    ValueError
        If `start` is a state of other atoms.
    """
    settings = settings or SCFSettings()
    if start is not None and not can_start(start.crystal, crystal):
        raise ValueError("a start must be a ground state of the same atoms, moments and cell of what is not periodic")
    problem = Problem(crystal, basis, functional)
    fields, orbitals = _start(problem, nbands, start)
    # in molecules no charge sloshes: 9 steps in place of 17 for H2O, CO and Si
    screening = SCREENING if any(crystal.pbc) else 0.0
    # residuals are measured by 4 pi / G^2, which is positive; a truncated interaction need not be
    metric = lattice_kernel(basis.grid.miller, crystal.lattice, (True, True, True))
    secants = _secants(start, crystal, fields)
    mixer = AndersonMixer(basis.grid, metric, crystal.nspin, screening=screening, secants=secants)
    # an error of the orbitals of this size changes the energy by less than the tolerance
    final = min(SINGLE_PRECISION, 0.3 * math.sqrt(settings.energy / crystal.nelectrons))
    warm = WARM_TOLERANCE if secants is None else CLOSE_TOLERANCE
    tolerance = LOOSE_TOLERANCE if start is None else warm
    in_use = len(orbitals[0][0])
    history: list[Step] = []
    for number in range(1, settings.maxiter + 1):
        clock = time.perf_counter()
        potentials, correction = problem.potentials(fields)
        pairs = _diagonalise(problem, potentials, orbitals, tolerance, in_use)
        orbitals = basis.by_spin([p.vectors for p in pairs])
        electrons = _fill(problem, torch.stack([p.values for p in pairs]), smearing)
        output = fields_of(crystal, basis, functional, orbitals, electrons.numbers)
        residual = output - fields
        error = mixer.error(residual, crystal.volume)
        step = Step(
            number,
            float((electrons.eigenvalues * electrons.numbers).sum()) + correction + problem.ewald + electrons.entropy,
            error,
            tolerance,
            _largest_residual(pairs, electrons.occupations),
            float(electrons.fermi_levels.max()),
            float(output[1, 0].real * crystal.volume) if crystal.nspin == 2 else 0.0,
            sum(p.applications for p in pairs),
            time.perf_counter() - clock,
        )
        history.append(step)
        if callback is not None:
            callback(step)
        highest = float(electrons.occupations[..., -1].abs().max())
        missing = problem.missing_bands(len(orbitals[0][0])) if nbands is None and highest > EMPTY else 0
        if missing:
            orbitals = [[_with_more_bands(psi, missing, t) for psi, t in zip(row, problem.kinetic)] for row in orbitals]
        elif error <= settings.energy and tolerance <= final and step.residual <= final:
            if highest > TOO_FULL:
                raise TooFewBands(f"too few bands: the highest of {len(orbitals[0][0])} is filled to {highest:.1e}")
            terms = energy_terms(crystal, basis, functional, orbitals, electrons.numbers, output, electrons.entropy)
            return GroundState(
                crystal,
                basis,
                functional,
                smearing,
                orbitals,
                electrons.eigenvalues,
                electrons.occupations,
                electrons.fermi_levels,
                output,
                terms,
                history,
                mixer.secants(fields, residual),
            )
        fields = mixer.step(fields, residual)
        tolerance = min(tolerance, 0.2 * math.sqrt(error / crystal.nelectrons))
        if tolerance < 3 * final:  # no further step for its sake
            tolerance = 0.5 * final
        in_use = len(orbitals[0][0]) if missing else _bands_in_use(electrons.occupations)
    last = history[-1]
    raise ConvergenceError(
        f"no self-consistency after {last.number} steps: the estimated error of the energy is {last.error:.1e} Ha, "
        f"{settings.energy:.1e} Ha were asked for; the largest residual of an orbital is {last.residual:.1e} Ha",
        history,
    )


def _diagonalise(
    problem: Problem, potentials: Tensor, orbitals: list[list[Tensor]], tolerance: float, in_use: int
) -> list[Eigenpairs]:
    """Eigenpairs of every block, `in_use` of each to the tolerance; in complex64 as long as that is loose."""
    dtype = torch.complex64 if tolerance > SINGLE_PRECISION else torch.complex128

    def one(block: tuple[int, int]) -> Eigenpairs:
        spin, k = block
        hamiltonian = problem.hamiltonian(k, potentials[spin], dtype)
        return davidson(hamiltonian, orbitals[spin][k].to(dtype), tolerance, in_use)

    return map_kpoints(one, problem.basis.blocks(problem.crystal.nspin), problem.crystal.device)


@dataclass(frozen=True)
class _Electrons:
    """Eigenvalues, occupations, numbers of electrons (nspin, nk, nbands), Fermi levels (nspin,) and -T S, Hartree."""

    eigenvalues: Tensor
    occupations: Tensor
    numbers: Tensor
    fermi_levels: Tensor
    entropy: float


def _fill(problem: Problem, values: Tensor, smearing: Smearing) -> _Electrons:
    """Fill the states of eigenvalues (nblocks, nbands)."""
    crystal, weights = problem.crystal, problem.basis.weights
    degeneracy = 2 // crystal.nspin
    eigenvalues = values.view(crystal.nspin, len(weights), -1)
    levels = eigenvalues.new_empty(crystal.nspin)
    for spins, number in crystal.reservoirs:
        levels[spins] = smearing.fermi_level(eigenvalues[spins], weights, number, degeneracy)
    fermi = levels[:, None, None]
    occupations = smearing.occupations(eigenvalues, fermi)
    states = degeneracy * weights[:, None]
    entropy = -smearing.width * float((smearing.entropy(eigenvalues, fermi) * states).sum())
    return _Electrons(eigenvalues, occupations, occupations * states, levels, entropy)


def _with_more_bands(psi: Tensor, extra: int, kinetic: Tensor) -> Tensor:
    """Orbitals (nbands, npw) and `extra` more of them, made of noise."""
    return torch.cat((psi, noise(extra, kinetic, seed=len(psi)).to(psi.dtype)))


def _bands_in_use(occupations: Tensor) -> int:
    """Number of bands up to the highest that holds electrons anywhere, of either spin, and one more."""
    filled = (occupations.abs().amax(dim=(0, 1)) > EMPTY).nonzero()
    return min(occupations.shape[-1], int(filled.max()) + 2)


def _largest_residual(pairs: list[Eigenpairs], occupations: Tensor) -> float:
    """The largest residual norm of an orbital that holds electrons, Hartree."""
    residuals = torch.stack([p.residuals for p in pairs]).view_as(occupations)
    return float(residuals[occupations.abs() > EMPTY].max())


def can_start(old: Crystal, new: Crystal) -> bool:
    """Whether a ground state of `old` is a start for `new`: the same atoms and initial moments, moved or strained.

    Not if the cell is another along directions that are not periodic: its plane waves would be, too.
    """
    if old.potentials != new.potentials or old.nspin != new.nspin or old.device != new.device or old.pbc != new.pbc:
        return False
    open_ = [not periodic for periodic in old.pbc]
    if not torch.allclose(old.lattice[open_], new.lattice[open_], rtol=0, atol=1e-6):
        return False
    return old.magmoms is None or new.magmoms is None or bool((old.magmoms == new.magmoms).all())


def _start(problem: Problem, nbands: int | None, start: GroundState | None) -> tuple[Tensor, list[list[Tensor]]]:
    """Fields (nfields, ng) and orbitals [spin][k] to begin with; `nbands` of them, or as many as seem right."""
    crystal, basis = problem.crystal, problem.basis
    npw = min(s.npw for s in basis.spheres)
    wanted = nbands or min(default_nbands(crystal), npw)
    atoms = _atomic_fields(crystal, basis, nfields(problem.functional, crystal.nspin))
    if start is None:
        return atoms, rough_orbitals(problem, atoms, wanted)
    fields = _moved_fields(start, crystal, basis, atoms)
    held = start.eigenvalues.shape[-1]
    if not _same_kpoints(start.basis, basis) or held < wanted:
        return fields, rough_orbitals(problem, fields, wanted)
    keep = nbands or min(held, npw)
    return fields, [
        [_moved_orbitals(psi[:keep], old, new) for psi, old, new in zip(row, start.basis.spheres, basis.spheres)]
        for row in start.orbitals
    ]


def _secants(start: GroundState | None, crystal: Crystal, fields: Tensor) -> Tensor | None:
    """What a mixer has learned from the SCF of `start`, for another functional; no help once atoms have moved."""
    if start is None or start.fields.shape != fields.shape:
        return None
    old = start.crystal
    same = torch.equal(old.lattice, crystal.lattice) and torch.equal(old.positions, crystal.positions)
    return start.secants if same and len(start.secants) else None


def _atomic_fields(crystal: Crystal, basis: Basis, count: int) -> Tensor:
    """The first `count` fields (count, ng) of superposed atoms."""
    density = start_density(crystal, basis)
    return density if count == len(density) else torch.cat((density, start_tau(crystal, basis)))


def rough_orbitals(problem: Problem, fields: Tensor, nbands: int) -> list[list[Tensor]]:
    """Orbitals [spin][k] -> (nbands, npw) in the potential of fields (nfields, ng), to begin a diagonalisation with."""
    crystal, basis = problem.crystal, problem.basis
    potentials, _ = problem.potentials(fields)

    def diagonalise(block: tuple[int, int]) -> Tensor:
        spin, k = block
        atoms = atomic_orbitals(crystal, basis.spheres[k])
        return start_orbitals(problem.hamiltonian(k, potentials[spin], torch.complex128), atoms, nbands, seed=k)

    return basis.by_spin(map_kpoints(diagonalise, basis.blocks(crystal.nspin), crystal.device))


def _same_kpoints(old: Basis, new: Basis) -> bool:
    return len(old.spheres) == len(new.spheres) and all(
        torch.equal(a.kpoint, b.kpoint) for a, b in zip(old.spheres, new.spheres)
    )


def _moved_orbitals(psi: Tensor, old: Sphere, new: Sphere) -> Tensor:
    """Orbitals (nbands, npw) on another sphere of the same k-point: shared plane waves keep their coefficients."""
    source, target = shared_waves(old.miller, new.miller)
    moved = psi.new_zeros(len(psi), new.npw)
    moved[:, target] = psi[:, source]
    return moved


def _moved_fields(start: GroundState, crystal: Crystal, basis: Basis, atoms: Tensor) -> Tensor:
    """Old fields (nfields, ng) carried to the new cell: the new atoms plus what the old ones had beyond their atoms.

    A moment that has collapsed would never come back: it is then that of the atoms again.
    """
    known = min(len(start.fields), len(atoms))  # the functional may be another
    difference = start.fields[:known] - _atomic_fields(start.crystal, start.basis, known)
    old, new = shared_waves(start.basis.grid.miller, basis.grid.miller)
    fields = atoms.clone()
    fields[:known, new] += difference[:, old] * (start.crystal.volume / crystal.volume)
    if crystal.nspin == 2:
        kept, wanted = (float(basis.grid.to_real(f[1]).abs().mean()) for f in (fields, atoms))
        if kept < COLLAPSED * wanted:
            fields[1::2] = atoms[1::2]
    return basis.grid.to_fourier(basis.orbits.symmetrize(basis.grid.to_real(fields)))  # the symmetry may be another
