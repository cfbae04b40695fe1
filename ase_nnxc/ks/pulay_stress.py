"""The stress's error from a finite cutoff.

A fixed set of plane waves is not a fixed cutoff: the stress of one misses the pressure 2/3 ecut/Omega dE/decut (Francis
and Payne, J. Phys.: Condens. Matter 2, 4395 (1990), eq. 10).
"""

import torch

from .basis import make_sphere, shared_waves
from .ground_state import GroundState
from .hamiltonian import Hamiltonian, TauOperator
from .parallel import map_kpoints
from .scf import Problem
from .terms.nonlocal_ import projectors

MARGIN = 0.1  # of the cutoff: the plane waves that are looked at beyond it


def pulay_pressure(state: GroundState) -> float:
    """Estimate of the Pulay pressure, Hartree/bohr^3; negative, as the stress without it is too compressive.

    The slope of the energy is that of second-order perturbation theory,

        dE/decut ~ -1/(MARGIN ecut) sum_n f_n sum_G |<k+G|V|psi_n>|^2 / (|k+G|^2/2 - e_n),

    over the plane waves between ecut and (1 + MARGIN) ecut.
    """
    crystal, basis, electrons = state.crystal, state.basis, state.electrons
    problem = Problem(crystal, basis, state.functional)
    potentials, _ = problem.potentials(state.fields)

    def lowering(block: tuple[int, int]) -> float:
        spin, k = block
        sphere = basis.spheres[k]
        wide = make_sphere(crystal, (1 + MARGIN) * basis.ecut, sphere.kpoint, sphere.weight, basis.grid.shape)
        filled = electrons[spin, k] != 0
        psi = state.orbitals[spin][k][filled]
        old, new = shared_waves(sphere.miller, wide.miller)
        spread = psi.new_zeros(len(psi), wide.npw)
        spread[:, new] = psi[:, old]
        half_squares = wide.half_squares(crystal.reciprocal)
        tau = TauOperator(half_squares, potentials[spin, 1]) if potentials.shape[1] == 2 else None
        potential_alone = Hamiltonian(
            wide,
            torch.zeros_like(half_squares),
            basis.ecut,
            projectors(crystal, wide),
            problem.coupling,
            potentials[spin, 0],
            tau,
        )
        gap = half_squares - state.eigenvalues[spin, k][filled][:, None]
        change = potential_alone.apply(spread).abs().square() / gap
        change[:, new] = 0.0
        return float(electrons[spin, k][filled] @ change.sum(1))

    slope = -sum(map_kpoints(lowering, basis.blocks(crystal.nspin), crystal.device)) / (MARGIN * basis.ecut)
    return 2 / 3 * basis.ecut / float(crystal.volume) * slope
