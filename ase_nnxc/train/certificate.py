"""Certificate of a clone: its differences from the parent where it was not fitted, at points and self-consistently."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import SCFError
from tqdm import tqdm

from ..calculator import NNXCCalculator
from ..interop.pyscf import solve_molecule
from ..units import HARTREE
from ..xc import Functional
from .clone import counterparts, energy_along, random_directions, uniform_exchange
from .records import fixed_pseudos
from .samples import BASES, Samples, mesh_points, named_molecule, sample_mesh

SEED = 1_000_003  # of the mesh; clones are fitted to meshes with other seeds
# molecules and crystals that are not in the samples of `sample_defaults`
MOLECULES = ("NH3", "CO", "C2H4", "F2", "CH3", "P")
CRYSTALS = ("Al", "Si", "Cu")


def certificate(functional: Functional, parent: Functional, self_consistent: bool = True) -> dict[str, Any]:
    """Return the differences between a clone and its parent, as plain data for a card.

    Parameters
    ----------
    functional, parent : Functional
        Clone and parent.
    self_consistent : bool
        Whether to also compare self-consistent total energies, which takes a minute.

    Returns
    -------
    dict
        "points" of `compare_points`; "molecules_mHa" of `compare_molecules`, by basis; "crystals_mHa_per_atom" of
        `compare_crystals`.
    """
    differences: dict[str, Any] = {"points": compare_points(functional, parent)}
    if self_consistent:
        differences["molecules_mHa"] = {
            name: compare_molecules(functional, parent, MOLECULES, *basis) for name, basis in BASES.items()
        }
        crystals = {name: bulk(name) for name in CRYSTALS}
        differences["crystals_mHa_per_atom"] = compare_crystals(functional, parent, crystals, kpts=(4, 4, 4))
    return differences


def compare_points(functional: Functional, parent: Functional, count: int = 4096) -> dict[str, dict[str, float]]:
    """Return errors of the enhancement factor F = e / (n eps_x^LDA(n)), for each part of the clone and their sum.

    Parameters
    ----------
    functional, parent : Functional
        Clone and parent.
    count : int
        Number of points of the mesh.

    Returns
    -------
    dict
        Errors by kind. "max_dF" and "max_dF_ds" are the largest |dF| and |d(dF)/ds| for s = 0, 0.01 ... 3 without
        polarisation (rs = 0.5, 1, 2, 5 bohr; alpha = 0, 0.5, 1, 2, 5 for a meta-GGA). "rms_dF" and "rms_slope" are the
        root mean squares of dF and of its derivative along random directions (see `clone`) over a mesh of variables.
    """
    lines, mesh = _lines("tau" in parent.features), sample_mesh(count, SEED)
    pairs = {part.kind: (part, parent_part) for part, parent_part in counterparts(functional, parent)}
    pairs["xc"] = (functional, parent)
    return {kind: _largest_errors(*pair, *lines) | mean_errors(*pair, mesh) for kind, pair in pairs.items()}


def mean_errors(functional: Functional, parent: Functional, samples: Samples) -> dict[str, float]:
    """Return weighted root mean squares of the errors at points.

    Parameters
    ----------
    functional, parent : Functional
        Clone and parent, of the same kind.
    samples : Samples
        The points.

    Returns
    -------
    dict
        "rms_dF" of the enhancement factor F = e / (n eps_x^LDA(n)), and "rms_slope" of its derivative along random
        directions (see `clone`).
    """
    directions = random_directions(samples, torch.Generator(device="cpu").manual_seed(SEED))
    energies, slopes = (
        energy_along(functional, samples.features, directions) - energy_along(parent, samples.features, directions)
    ) / uniform_exchange(samples.density)
    return {
        name: float((samples.weights * errors.square()).sum().sqrt())
        for name, errors in (("rms_dF", energies), ("rms_slope", slopes))
    }


def _lines(meta: bool) -> tuple[torch.Tensor, Samples]:
    """Return s (n,) along lines of increasing s, which requires a gradient, and the points."""
    axes = ([0.5, 1.0, 2.0, 5.0], [0.0, 0.5, 1.0, 2.0, 5.0] if meta else [1.0], [0.01 * i for i in range(301)])
    tensors = [torch.tensor(axis, dtype=torch.float64, device="cpu") for axis in axes]
    rs, alpha, s = (mesh.flatten() for mesh in torch.meshgrid(*tensors, indexing="ij"))
    s.requires_grad_()
    return s, mesh_points(rs, torch.zeros_like(rs), s, alpha)


def _largest_errors(functional: Functional, parent: Functional, s: torch.Tensor, points: Samples) -> dict[str, float]:
    error = (functional(points.features) - parent(points.features)) / uniform_exchange(points.density)
    (slope,) = torch.autograd.grad(error.sum(), s, retain_graph=True)
    return {"max_dF": float(error.detach().abs().max()), "max_dF_ds": float(slope.abs().max())}


def compare_molecules(
    functional: Functional, parent: Functional, names: Sequence[str], basis: str, pseudo: str | None = None
) -> dict[str, float | None]:
    """Return the self-consistent total energies of molecules in PySCF, clone minus parent, milli-Hartree.

    The difference is None if one of the calculations has not converged.

    Parameters
    ----------
    functional, parent : Functional
        Clone and parent.
    names : sequence of str
        Names in ASE's G2 set.
    basis, pseudo : str
        See `interop.pyscf.solve_molecule`.

    Raises
    ------
    InputError
        If ASE has no molecule of such a name, see `samples.named_molecule`.
    """

    def difference(name: str) -> float | None:
        try:
            energies = [solve_molecule(named_molecule(name), xc, basis, pseudo).e_tot for xc in (functional, parent)]
        except SCFError:
            return None
        return 1e3 * float(energies[0] - energies[1])

    return {name: difference(name) for name in tqdm(names, desc="molecules", disable=None)}


def compare_crystals(
    functional: Functional, parent: Functional, crystals: Mapping[str, Atoms], **parameters: Any
) -> dict[str, float]:
    """Return the self-consistent free energies of crystals, clone minus parent, milli-Hartree per atom.

    Both have the same pseudopotentials, those of `fixed_pseudos`.

    Parameters
    ----------
    functional, parent : Functional
        Clone and parent.
    crystals : mapping of str to Atoms
        Crystals by name.
    **parameters
        Parameters of `NNXCCalculator`.
    """
    differences = {}
    parameters |= {"pseudos": fixed_pseudos(NNXCCalculator(parent, **parameters))}
    for name, atoms in tqdm(crystals.items(), desc="crystals", disable=None):
        calculators = [NNXCCalculator(xc, **parameters) for xc in (functional, parent)]
        energies = [calculator.get_property("free_energy", atoms) for calculator in calculators]
        differences[name] = 1e3 * (energies[0] - energies[1]) / HARTREE / len(atoms)
    return differences
