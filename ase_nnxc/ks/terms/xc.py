"""Exchange and correlation of fields on the grid: E_xc = Omega/N sum_r f(n_s, grad n_s, tau_s).

Symmetry makes whole sets of grid points equal, so the functional is evaluated on one point of each and weighted with
their number. The potentials are autograd of this discretised energy, averaged over the sets.

Core correction (S. G. Louie, S. Froyen and M. L. Cohen, Phys. Rev. B 26, 1738 (1982)): the functional sees n + n_core,
and with spin half of n_core in each channel. The core density is added here and nowhere else. Its orbitals are not
known, so tau stays that of the valence alone.

Fields (nfields, ...) are the total density and, with spin, the magnetisation density, bohr^-3; for a functional of the
kinetic energy density tau, the same of tau follow, Hartree bohr^-3.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...xc.features import FFTGrid, feature, fields_needed
from ...xc.functional import Functional
from ..basis import Basis, DensityGrid
from ..crystal import Crystal
from .local import superposition

CHUNK = 2**16  # points; a network's graph takes about a kilobyte for each


def nfields(functional: Functional, nspin: int) -> int:
    """Number of fields that a functional is evaluated with."""
    return 2 * nspin if "tau" in functional.features else nspin


def spin_channels(total_and_moment: Tensor) -> Tensor:
    """Return spin channels (nspin, ...), one half of (total,) or (up, down) of (total, moment), from (nspin, ...)."""
    if len(total_and_moment) == 1:
        return 0.5 * total_and_moment
    n, m = total_and_moment
    return 0.5 * torch.stack((n + m, n - m))


def up_and_down(slopes: Tensor) -> Tensor:
    """Derivatives by the spin channels (nspin, ...) from those by total and moment."""
    return torch.stack((slopes[0] + slopes[1], slopes[0] - slopes[1])) if len(slopes) == 2 else slopes


def _features(functional: Functional, fields: Tensor, basis: Basis, reciprocal: Tensor) -> list[Tensor]:
    """Features that the functional reads, in its order, on one point of each orbit: (nspin, *components, norbits)."""
    nspin = len(fields) // nfields(functional, 1)
    channels = dict(zip(fields_needed(functional.features), map(spin_channels, fields.split(nspin))))
    grid, points = FFTGrid(basis.grid.shape, reciprocal), basis.orbits.representatives
    features = [feature(name).make(channels, grid) for name in functional.features]
    return [values.flatten(-3).index_select(-1, points) for values in features]


def _sum(functional: Functional, counts: Tensor, *features: Tensor) -> Tensor:
    """Energy per volume summed over points, each `counts` (n,) times; features as `_features` returns them."""
    energy = functional(dict(zip(functional.features, features)))
    if energy.shape != counts.shape:  # it would be broadcast
        name, shape, expected = type(functional).__name__, tuple(energy.shape), tuple(counts.shape)
        raise ValueError(f"{name} returned energies of shape {shape}, expected one for each point: {expected}")
    return energy @ counts


class _Sum(torch.autograd.Function):
    """Energy per volume summed over points, as a function of features and parameters; it has second derivatives, too.

    The graph of a functional is held for `CHUNK` points at a time, which are evaluated again for the derivatives by
    parameters and for second ones.
    """

    @staticmethod
    def forward(ctx: Any, functional: Functional, counts: Tensor, nfeatures: int, *inputs: Tensor) -> Tensor:
        total, slopes = counts.new_zeros(()), []
        wanted = any(ctx.needs_input_grad[3 : 3 + nfeatures])
        for points, *chunk in _chunks(counts, inputs[:nfeatures]):
            with torch.set_grad_enabled(wanted):
                leaves = [f.detach().requires_grad_(wanted) for f in chunk]
                energy = _sum(functional, points, *leaves)
            total += energy.detach()
            if wanted:
                slopes.append(torch.autograd.grad(energy, leaves))
        ctx.problem = functional, counts, nfeatures, len(inputs)
        ctx.save_for_backward(*inputs, *_joined(slopes))
        return total

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        slopes = _Slopes.apply(ctx.problem, *ctx.saved_tensors)
        return None, None, None, *(None if s is None else weight * s for s in slopes)


class _Slopes(torch.autograd.Function):
    """Derivatives of `_Sum` by features, known already if they are wanted, and by parameters."""

    @staticmethod
    def forward(ctx: Any, problem: tuple[Functional, Tensor, int, int], *tensors: Tensor) -> tuple[Tensor | None, ...]:
        functional, counts, nfeatures, ninputs = ctx.problem = problem
        inputs, known = tensors[:ninputs], tensors[ninputs:]
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)
        features, parameters = inputs[:nfeatures], inputs[nfeatures:]
        by_parameters = [torch.zeros_like(p) for p in parameters]
        for points, *chunk in _chunks(counts, features) if parameters else ():
            with torch.enable_grad():
                energy = _sum(functional, points, *chunk)
            by_parameters = _added(by_parameters, torch.autograd.grad(energy, parameters, **_UNUSED))
        by_features = [slope.clone() for slope in known] if known else [None] * nfeatures
        return *by_features, *by_parameters

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *weights: Tensor | None) -> tuple[Tensor | None, ...]:
        functional, counts, nfeatures, ninputs = ctx.problem
        features, parameters = ctx.saved_tensors[:nfeatures], ctx.saved_tensors[nfeatures:]
        along = [torch.zeros_like(f) if w is None else w for f, w in zip(features, weights)]
        weighted = [(p, w) for p, w in zip(parameters, weights[nfeatures:]) if w is not None]
        by_features, by_parameters = [], [torch.zeros_like(p) for p in parameters]
        for (points, *chunk), (_, *changes) in zip(_chunks(counts, features), _chunks(counts, along)):
            with torch.enable_grad():
                leaves = [f.detach().requires_grad_() for f in chunk]
                energy = _sum(functional, points, *leaves)
                inputs, changes = leaves + [p for p, _ in weighted], changes + [w for _, w in weighted]
                slopes = torch.autograd.grad(energy, inputs, create_graph=True, **_UNUSED)
                derivative = torch.stack([(s * w).sum() for s, w in zip(slopes, changes)]).sum()
            gradients = torch.autograd.grad(derivative, (*leaves, *parameters), **_UNUSED)
            by_features.append(gradients[:nfeatures])
            by_parameters = _added(by_parameters, gradients[nfeatures:])
        known = len(ctx.needs_input_grad) - 1 - ninputs
        return None, *_joined(by_features), *by_parameters, *(None,) * known


_UNUSED: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}


def _chunks(counts: Tensor, features: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Counts (n,) and features (..., n) of as many points as are evaluated at once."""
    return list(zip(*(t.split(CHUNK, dim=-1) for t in (counts, *features))))


def _joined(chunks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.cat(parts, dim=-1) for parts in zip(*chunks)]


def _added(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    return [x + y for x, y in zip(a, b)]


def core_density(crystal: Crystal, grid: DensityGrid) -> Tensor | None:
    """Superposed core densities (n1, n2, n3), bohr^-3, differentiable in cell and positions; None if there are none."""
    if all(table.core is None for table in crystal.species):
        return None
    return grid.to_real(
        superposition(crystal, grid, lambda table, q2: torch.zeros_like(q2) if table.core is None else table.core(q2))
    )


def with_core(fields: Tensor, crystal: Crystal, grid: DensityGrid) -> Tensor:
    """Fields (nfields, n1, n2, n3) with the core density added to the density: what a functional sees."""
    core = core_density(crystal, grid)
    return fields if core is None else torch.cat((fields[:1] + core, fields[1:]))


def xc_energy(
    functional: Functional, fields: Tensor, crystal: Crystal, basis: Basis, parameters: Sequence[Tensor] = ()
) -> Tensor:
    """Exchange-correlation energy, Hartree.

    Parameters
    ----------
    functional : Functional
        What to evaluate.
    fields : Tensor
        (nfields, n1, n2, n3) of the valence.
    crystal : Crystal
        Cell and core densities; the energy is twice differentiable in cell and positions, as in the fields.
    basis : Basis
        Grid and symmetry.
    parameters : sequence of Tensor, optional
        Those of the functional that it is differentiable in, too.
    """
    features = _features(functional, with_core(fields, crystal, basis.grid), basis, crystal.reciprocal)
    total = _Sum.apply(functional, basis.orbits.counts, len(features), *features, *parameters)
    return crystal.volume / basis.grid.size * total


def xc_potential(functional: Functional, fields: Tensor, crystal: Crystal, basis: Basis) -> tuple[float, Tensor]:
    """Energy, Hartree, and its derivatives (nfields, n1, n2, n3) by the fields, per volume; arguments of `xc_energy`.

    The derivative by a density is a potential in Hartree; that by tau has no unit.
    """
    with torch.enable_grad():
        leaf = fields.detach().requires_grad_()
        energy = xc_energy(functional, leaf, crystal, basis)
        (slope,) = torch.autograd.grad(energy, leaf)
    return float(energy.detach()), basis.orbits.symmetrize(slope * (basis.grid.size / crystal.volume))
