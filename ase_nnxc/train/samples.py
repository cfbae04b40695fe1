"""Samples: points of density, gradient and kinetic energy density on which a functional is cloned.

The points come from three sources: a mesh in (rs, zeta, s, alpha), molecules from PySCF, and crystals of this package.
The weight of a point is proportional to n |eps_x^LDA(n)| times its volume, so that the weighted mean of the error of
F = e / (n eps_x^LDA) over a system is the relative error of its energy.
"""

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import InputError
from ase.collections import g2
from ase.formula import Formula
from scipy.stats import qmc
from torch import Tensor
from tqdm import tqdm

from ..calculator import NNXCCalculator
from ..interop.pyscf import grid_features, solve_molecule
from ..ks.fields import Fields, fields_of_orbitals
from ..ks.ground_state import GroundState
from ..ks.terms.xc import ExchangeCorrelation
from ..regular_files import complete_or_absent, read_regular_file
from ..xc import Functional
from ..xc.reduced import features_at
from .schema import closest

LARGEST = 2**28  # bytes of a file of samples, also unpacked; that of `nnxc clone` has 2**20

LARGEST_RATIO = 20.0
"""Largest s and alpha of a mesh."""

FEATURES = ("density", "gradient", "tau")
"""The features that samples hold."""

_ARRAYS = (*FEATURES, "weights", "system")


@dataclass(frozen=True, eq=False)
class Samples:
    """Points of space, Hartree atomic units, spin channel (up, down) first.

    Attributes
    ----------
    density : Tensor
        (2, n) bohr^-3.
    gradient : Tensor
        (2, 3, n) bohr^-4.
    tau : Tensor
        (2, n) Hartree bohr^-3, sum |grad psi|^2 / 2.
    weights : Tensor
        (n,) shares of the loss; their sum is one.
    system : Tensor
        (n,) int64, index into `systems`, -1 for points of a mesh.
    systems : tuple of str
        Names of the molecules and crystals.
    """

    density: Tensor
    gradient: Tensor
    tau: Tensor
    weights: Tensor
    system: Tensor
    systems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def features(self) -> dict[str, Tensor]:
        """The features of `FEATURES` by name."""
        return {name: getattr(self, name) for name in FEATURES}

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers and names, for a card."""
        digest = hashlib.sha256("\n".join(self.systems).encode())
        for name in _ARRAYS:
            array = getattr(self, name).numpy()
            digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    @property
    def of_molecules(self) -> bool:
        """Whether all points are of molecules, whose names end with their basis, and not of a mesh or of crystals."""
        return bool((self.system >= 0).all()) and all(" " in name for name in self.systems)

    def select(self, index: Tensor) -> "Samples":
        """Return the points of an index or a mask, with weights whose sum is one again."""
        picked = {name: getattr(self, name)[..., index] for name in _ARRAYS}
        return Samples(**picked | {"weights": picked["weights"] / picked["weights"].sum()}, systems=self.systems)

    def save(self, path: str | Path) -> None:
        """Write a NumPy archive."""
        with complete_or_absent(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez(file, systems=np.array(self.systems, str), **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path: str | Path) -> "Samples":
        """Read the archive that `save` wrote.

        Raises
        ------
        InputError
            If the path is not such an archive, or if its arrays are not those of samples.
        OSError
            If there is no such file.
        """
        try:
            samples = _samples_in(read_regular_file(path, LARGEST))
            _check(samples)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path} is not a file of samples, or it is damaged: {reason}") from error
        return samples


def _samples_in(data: bytes) -> Samples:
    """Return the samples in the content of a file; raise ValueError if it is larger when it is unpacked."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > LARGEST:
        raise ValueError(f"it has {size} bytes when it is unpacked, more than the limit {LARGEST}")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in _ARRAYS}
        return Samples(**arrays, systems=tuple(file["systems"].tolist()))


def _check(samples: Samples) -> None:
    """Raise ValueError unless the arrays have the shapes, types and ranges of samples."""
    shapes = {"density": (2,), "gradient": (2, 3), "tau": (2,), "weights": (), "system": ()}
    n = samples.weights.shape[-1] if samples.weights.ndim else 0
    for name, leading in shapes.items():
        array, dtype = getattr(samples, name), torch.int64 if name == "system" else torch.float64
        if array.shape != (*leading, n) or array.dtype != dtype or not n:
            raise ValueError(
                f"{name} has the shape {tuple(array.shape)} and the type {array.dtype}, expected {(*leading, 'n')} and "
                f"{dtype} with n points"
            )
        if not array.isfinite().all():
            raise ValueError(f"{name} has numbers that are not finite")
    if (samples.weights < 0).any() or abs(samples.weights.sum().item() - 1) > 1e-6:
        raise ValueError("the weights must be zero or more, with the sum one")
    if (samples.density < 0).any() or (samples.tau < 0).any():
        raise ValueError("density and tau must be zero or more")
    if not all(isinstance(name, str) for name in samples.systems):
        raise ValueError("the names of the systems must be text")
    if samples.system.min() < -1 or samples.system.max() >= len(samples.systems):
        raise ValueError(f"system must be from -1 to {len(samples.systems) - 1}, the numbers of the names")


def join(sets: Sequence[Samples], shares: Sequence[float] | None = None) -> Samples:
    """Join several sets of points.

    Parameters
    ----------
    sets : sequence of Samples
        The sets.
    shares : sequence of float, optional
        Share of each set in the weights; default: equal shares.
    """
    shares = [1.0] * len(sets) if shares is None else shares
    starts = np.cumsum([0, *(len(part.systems) for part in sets)]).tolist()
    return Samples(
        density=torch.cat([part.density for part in sets], dim=-1),
        gradient=torch.cat([part.gradient for part in sets], dim=-1),
        tau=torch.cat([part.tau for part in sets], dim=-1),
        weights=torch.cat([share / sum(shares) * part.weights for share, part in zip(shares, sets)]),
        system=torch.cat([torch.where(part.system < 0, -1, part.system + i) for part, i in zip(sets, starts)]),
        systems=tuple(name for part in sets for name in part.systems),
    )


# ---- mesh ----------------------------------------------------------------------------------------------------------


def sample_mesh(count: int, seed: int = 0) -> Samples:
    """Return points that are spread evenly over the variables, with equal weights.

    A scrambled Sobol sequence of log rs from 0.02 to 20 bohr, of zeta (zero in half of the points, else from -1 to 1),
    and of s / (1 + s) and alpha / (1 + alpha) up to s = alpha = `LARGEST_RATIO`.

    Parameters
    ----------
    count : int
        Number of points.
    seed : int
        Seed of the scrambling.
    """
    sequence = qmc.Sobol(4, rng=np.random.default_rng(seed)).random_base2(math.ceil(math.log2(count)))
    u = torch.from_numpy(sequence[:count].T.copy())
    zeta = torch.where(u[1] < 0.5, 0.0, 4 * u[1] - 3)
    fraction = u[2:] * LARGEST_RATIO / (1 + LARGEST_RATIO)
    s, alpha = fraction / (1 - fraction)
    return mesh_points(0.02 * 1000 ** u[0], zeta, s, alpha)


def mesh_points(rs: Tensor, zeta: Tensor, s: Tensor, alpha: Tensor) -> Samples:
    """Return points with given variables and equal weights.

    The gradients of both spins are parallel, in proportion to the densities, and both spins have the same alpha.

    Parameters
    ----------
    rs, zeta, s, alpha : Tensor
        (n,) Wigner-Seitz radius (bohr), polarisation, reduced gradient and iso-orbital indicator, see `xc.reduced`.
    """
    features = features_at(3 / (4 * math.pi * rs**3), zeta, s, alpha)
    return Samples(
        density=features["density"],
        gradient=features["gradient"],
        tau=features["tau"],
        weights=torch.full_like(rs, 1 / len(rs)),
        system=torch.full_like(rs, -1, dtype=torch.int64),
    )


# ---- molecules and crystals ----------------------------------------------------------------------------------------


def sample_molecules(
    names: Sequence[str], functional: Functional, count: int, *, basis: str, pseudo: str | None = None, seed: int = 0
) -> Samples:
    """Return points of the self-consistent densities of molecules and atoms, from PySCF.

    Parameters
    ----------
    names : sequence of str
        Names in ASE's G2 set.
    functional : Functional
        Functional of the calculations.
    count : int
        Number of points for each molecule, drawn in proportion to their weight.
    basis, pseudo : str
        PySCF's names of the basis and of the pseudopotentials; None for all electrons.
    seed : int
        Seed of the drawing.

    Raises
    ------
    InputError
        If ASE has no molecule of such a name, see `named_molecule`.
    """
    rng = np.random.default_rng(seed)
    systems = []
    for name, atoms in tqdm([(name, named_molecule(name)) for name in names], desc="molecules", disable=None):
        mf = solve_molecule(atoms, functional, basis, pseudo, grid_level=1, second_order=True)
        systems.append(_draw(*grid_features(mf), f"{name} {pseudo or 'all-electron'} {basis}", count, rng))
    return join(systems)


def named_molecule(name: str) -> Atoms:
    """Return a molecule or an atom of ASE's G2 set by its name.

    Raises
    ------
    InputError
        If ASE has no molecule of this name; the message gives its names for the same atoms, or the closest name.
    """
    if not isinstance(name, str):
        raise InputError(f"{name!r} is not the name of a molecule: expected a string such as 'H2O'")
    try:
        return molecule(name)
    except KeyError:
        pass
    try:
        same = [known for known in g2.names if g2[known].symbols.formula.count() == Formula(name).count()]
    except ValueError:  # the name is not a formula
        same = []
    hint = f"; its name for these atoms is {' or '.join(map(repr, same))}" if same else closest(name, g2.names)
    raise InputError(f"ASE has no molecule {name!r}{hint} (ase.collections.g2.names lists all names)")


def sample_crystals(
    crystals: Mapping[str, Atoms], functional: Functional, count: int, *, seed: int = 0, **parameters: Any
) -> Samples:
    """Return points of the self-consistent densities of crystals.

    Parameters
    ----------
    crystals : mapping of str to Atoms
        Crystals by name.
    functional : Functional
        Functional of the calculations.
    count : int
        Number of points for each crystal, drawn in proportion to their weight.
    seed : int
        Seed of the drawing.
    **parameters
        Parameters of `NNXCCalculator`.
    """
    rng = np.random.default_rng(seed)
    calculator = NNXCCalculator(functional, **parameters)
    systems = []
    for name, atoms in tqdm(crystals.items(), desc="crystals", disable=None):
        systems.append(_draw(*crystal_features(calculator.ground_state(atoms)), name, count, rng))
    return join(systems)


def crystal_features(state: GroundState) -> tuple[dict[str, Tensor], Tensor]:
    """Return what functionals read of a ground state, with the core densities, on points that are not equivalent.

    Returns
    -------
    features : dict of str to Tensor
        Density (2, n), gradient (2, 3, n) and tau (2, n), one point of each orbit of equivalent grid points.
    volumes : Tensor
        (n,) volumes of the orbits, bohr^3.
    """
    crystal, basis = state.crystal, state.basis
    orbitals = state.system.kpoints, state.orbitals, state.electrons
    fields = Fields(basis.grid, crystal.nspin, fourier=fields_of_orbitals(crystal, basis, *orbitals, with_tau=True))
    values = ExchangeCorrelation(state.system).features(FEATURES, fields)
    # samples of all systems have two spin channels
    features = {name: feature.expand(2, *feature.shape[1:]) for name, feature in zip(FEATURES, values)}
    return features, basis.fine_orbits.counts * crystal.volume / basis.fine.size


def _draw(features: Mapping[str, Tensor], volumes: Tensor, name: str, count: int, rng: np.random.Generator) -> Samples:
    """Draw points in proportion to n^(4/3) times `volumes` (n,), bohr^3, in even steps along the cumulative sum."""
    energies = volumes * features["density"].sum(0).clamp(min=0) ** (4 / 3)
    marks = torch.from_numpy((np.arange(count) + rng.random(count)) / count) * energies.sum()
    index, times = torch.searchsorted(energies.cumsum(0), marks).clamp(max=len(energies) - 1).unique(return_counts=True)
    return Samples(
        **{name: feature[..., index] for name, feature in features.items()},
        weights=times.to(volumes.dtype) / count,
        system=torch.zeros_like(index),
        systems=(name,),
    )


# ---- the set of `nnxc clone` ---------------------------------------------------------------------------------------

MOLECULES = ("H2O", "CH4", "N2", "HCN", "LiF", "SiH4", "HCl", "SO2", "Na2", "O2", "NO", "H", "N", "Si", "Cl")
BASES = {"all electrons, def2-svp": ("def2-svp", None), "gth-pbe, gth-dzvp": ("gth-dzvp", "gth-pbe")}
CRYSTALS = ("C", "Ge", "Ca", "Ag", "Fe")


def sample_molecules_of_both_kinds(functional: Functional, count: int, seed: int = 0) -> Samples:
    """Return the points of `nnxc clone --from molecules`: `MOLECULES` with all and with valence electrons.

    Parameters
    ----------
    functional : Functional
        The parent, with which densities are calculated.
    count : int
        Approximate number of points.
    seed : int
        Seed of the drawing.
    """
    each = max(1, count // (len(BASES) * len(MOLECULES)))
    sets = [
        sample_molecules(MOLECULES, functional, each, basis=basis, pseudo=pseudo, seed=seed)
        for basis, pseudo in BASES.values()
    ]
    return join(sets)


def sample_defaults(functional: Functional, count: int, seed: int = 0) -> Samples:
    """Return the points of `nnxc clone`: a mesh, molecules with all and with valence electrons, and crystals.

    Parameters
    ----------
    functional : Functional
        The parent, with which densities are calculated.
    count : int
        Approximate number of points: half of them in the mesh, a quarter in molecules, a quarter in crystals.
    seed : int
        Seed of the mesh and of the drawing.
    """
    crystals = {name: bulk(name) for name in CRYSTALS}
    crystals["Fe"].set_initial_magnetic_moments([2.3])
    crystals["LiF"] = bulk("LiF", "rocksalt", a=4.06)
    sets = [
        sample_mesh(count // 2, seed),
        sample_molecules_of_both_kinds(functional, count // 4, seed),
        sample_crystals(crystals, functional, max(1, count // (4 * len(crystals))), seed=seed, kpts=(4, 4, 4)),
    ]
    return join(sets)
