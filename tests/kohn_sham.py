"""Small Kohn-Sham problems, and differences of what they give, that several files of tests use."""

from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import kpts2sizeandoffsets
from ase.dft.kpoints import monkhorst_pack
from ase.units import Bohr
from torch import Tensor

from ase_nnxc.ks.basis import Basis, fft_box, make_basis
from ase_nnxc.ks.convergence import SCFSettings
from ase_nnxc.ks.crystal import Crystal
from ase_nnxc.ks.eigensolver import Eigenpairs, davidson
from ase_nnxc.ks.hamiltonian import Hamiltonian
from ase_nnxc.ks.symmetry import find_symmetry, identity
from ase_nnxc.pseudopotentials import find_pseudos
from ase_nnxc.registry import get_functional
from ase_nnxc.xc import PBE, Functional

TIGHT = SCFSettings(energy=2e-21)  # forces are of first order in what is left of the residual


class Bent(Functional):
    """The energy of a parent times one parameter, and exchange of the uniform gas times another."""

    def __init__(self, name: str):
        super().__init__()
        self.parent = get_functional(name)
        self.features = self.parent.features
        self.scale = torch.nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Energy per volume (n,)."""
        bent = (features["density"].clamp(min=1e-12) ** (4 / 3)).sum(0)
        return self.scale[0] * self.parent(features) - self.scale[1] * bent


def crystal_of(atoms: Atoms, pseudos: str = "gth-pbe") -> Crystal:
    """The crystal of ASE's atoms."""
    tables = find_pseudos(atoms.get_chemical_symbols(), "pbe", pseudos, functional=PBE())
    moments = atoms.get_initial_magnetic_moments()
    return Crystal(
        torch.as_tensor(atoms.cell.array / Bohr),
        torch.as_tensor(atoms.get_scaled_positions(wrap=False)),
        tuple(tables[s] for s in atoms.get_chemical_symbols()),
        torch.as_tensor(moments) if moments.any() else None,
    )


def basis_of(
    crystal: Crystal, ecut: float, kpts: tuple[int, int, int], symmetric: bool = True, smooth: bool = False, gpts=None
) -> Basis:
    """Basis of a mesh with Gamma; `ecut` in Hartree."""
    kinds = [list(crystal.species).index(p) for p in crystal.potentials]
    symmetry = identity(len(kinds))
    if symmetric:
        symmetry = find_symmetry(crystal.lattice, crystal.positions, kinds, crystal.magmoms)
    box = gpts or fft_box(crystal.lattice, ecut, symmetry.box_multiples())
    return make_basis(crystal, ecut, k_mesh(kpts), symmetry, box, smooth)


def k_mesh(size: tuple[int, int, int], gamma: bool = True) -> Tensor:
    """All k-points (nk, 3) of a mesh, with Gamma or as Monkhorst and Pack's."""
    size, offsets = kpts2sizeandoffsets(size, gamma=gamma or None)
    return torch.as_tensor(monkhorst_pack(size) + offsets)


def diagonalise(hamiltonian: Hamiltonian, psi: Tensor, tolerance: float, nconverge: int) -> Eigenpairs:
    """The lowest eigenpairs of H at one k-point, whatever it takes."""
    stack = Hamiltonian.stack([hamiltonian])
    (pairs,) = repeated_davidson(stack, psi[None], tolerance, nconverge).of_blocks(stack.numbers)
    return pairs


def repeated_davidson(hamiltonian: Hamiltonian, psi: Tensor, tolerance: float, nconverge: int) -> Eigenpairs:
    """The lowest eigenpairs of H at several k-points, whatever it takes."""
    for _ in range(20):
        pairs = davidson(hamiltonian, psi, tolerance, nconverge)
        if bool((pairs.residuals[:, :nconverge] <= tolerance).all()):
            return pairs
        psi = pairs.vectors
    raise AssertionError("not converged")


def rattled_silicon_carbide() -> Atoms:
    """Two species, no symmetry but time reversal."""
    atoms = bulk("SiC", "zincblende", a=4.36)
    strain = np.array([[0.02, 0.01, 0], [0.01, -0.01, 0.03], [0, 0.03, 0]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.positions[1] += [0.05, -0.03, 0.08]
    return atoms


def triplet() -> Atoms:
    """Two hydrogen atoms with parallel spins, without symmetry."""
    atoms = Atoms("H2", cell=[4.6, 4.8, 5.2], positions=[[0.1, 0.0, 0.2], [1.5, 1.4, 2.0]], pbc=True)
    atoms.set_initial_magnetic_moments([1.0, 1.0])
    return atoms


def slope(function: Callable[[float], float], h: float) -> float:
    """Derivative at zero to fourth order."""
    return (8 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12 * h)
