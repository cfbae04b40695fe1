"""Exchange-correlation energy of fields on the fine grid: E_xc = Omega/N sum_r f(features at r).

The fields have no Fourier coefficients outside the sphere of the density, so their values on the fine grid are exact,
and so are the potentials on the smaller grid of the orbitals: only their coefficients in the sphere act on orbitals.

Grid points that are equivalent by symmetry form sets. The functional is evaluated on one point of each set and weighted
with the number of its points. The potentials are derivatives of this discretised energy by autograd, averaged over the
sets.

Core correction (S. G. Louie, S. Froyen and M. L. Cohen, Phys. Rev. B 26, 1738 (1982)): the functional is evaluated
with n + n_core and, if the pseudopotential has it, tau + tau_core; with spin, each channel includes half of the core's.
The fields of the core are added only in this module. Their Fourier coefficients reach as far as the fine grid does.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...pseudopotentials.protocol import Pseudopotential
from ...xc.features import FIELDS, FFTGrid, feature, fields_needed
from ...xc.functional import Functional
from ..basis import DensityGrid, finer_grid, finest_grid
from ..crystal import Crystal
from ..fields import Fields, spin_channels
from ..superposition import superposition
from .term import DensityTerm

if TYPE_CHECKING:
    from ..system import System

# Fineness of the grid of coarse potentials (see `Functional.grid_fineness`). With 1, which truncates the steep cores of
# Zn and MgO, the density came no nearer than 1e-4 Ha, and SCFs took up to twice as many steps.
COARSE_FINENESS = 1.5
CHUNK = 2**16  # points evaluated at once; the graph of a network needs about a kilobyte for each


class ExchangeCorrelation(DensityTerm):
    """Exchange-correlation energy of the system's functional."""

    name = "xc"

    def __init__(self, system: "System"):
        super().__init__(system)
        self.functional = system.functional
        self.fields = fields_needed(self.functional.features)
        self.parameters = [p for p in self.functional.parameters() if p.requires_grad]

        self._cores: dict[str, Tensor | None] = {}  # fields of the cores, when they are needed

    @cached_property
    def _core_grid(self) -> DensityGrid:
        """Where the fields of cores are computed, which may be steeper than those of the valence electrons."""
        return finest_grid(self.system.crystal, self.system.basis)

    def energy(self, fields: Fields) -> Tensor:
        """Return the energy, Hartree, twice differentiable in fields, cell and positions."""
        return self._energy(fields, ())

    def trainable_energy(self, fields: Fields) -> Tensor:
        """Return the same energy, differentiable in the parameters of the functional, too."""
        return self._energy(fields, self.parameters)

    def coarse(self) -> "ExchangeCorrelation":
        """Return the term on fewer points, if those of `basis.fine` are many more than the density needs."""
        system, basis = self.system, self.system.basis
        coarse = None if basis.fine is basis.grid else finer_grid(system.crystal, basis, COARSE_FINENESS)
        if coarse is None or coarse.size >= basis.fine.size:
            return self
        return ExchangeCorrelation(replace(system, basis=replace(basis, fine=coarse)))

    def _energy(self, fields: Fields, parameters: Sequence[Tensor]) -> Tensor:
        basis, features = self.system.basis, self.features(self.functional.features, fields)
        total = _Sum.apply(self.functional, basis.fine_orbits.counts, len(features), *features, *parameters)
        return self.system.crystal.volume / basis.fine.size * total

    def features(self, names: Sequence[str], fields: Fields) -> list[Tensor]:
        """Return features of fields and core on one point of each orbit: (nspin, *components, norbits).

        The orbits are those of the fine grid, `basis.fine_orbits`.

        Parameters
        ----------
        names : sequence of str
            Names of the features.
        fields : Fields
            Fields of the valence electrons.
        """
        basis = self.system.basis
        values = zip(FIELDS, basis.to_fine(fields.real).split(fields.nspin))
        channels = {name: spin_channels(self._with_core(name, valence)) for name, valence in values}
        grid, points = FFTGrid(basis.fine.shape, self.system.crystal.reciprocal), basis.fine_orbits.representatives
        return [feature(name).values(channels, grid).flatten(-3).index_select(-1, points) for name in names]

    def _with_core(self, name: str, valence: Tensor) -> Tensor:
        """Return a field (nspin, n1, n2, n3) of valence and core."""
        if name not in self._cores:
            self._cores[name] = core_field(name, self.system.crystal, self._core_grid)
        core = self._cores[name]
        return valence if core is None else torch.cat((valence[:1] + core, valence[1:]))


def _sum(functional: Functional, counts: Tensor, *features: Tensor) -> Tensor:
    """Return the energy per volume summed over points with weights `counts` (n,)."""
    energy = functional(dict(zip(functional.features, features)))
    if energy.shape != counts.shape:  # the product would broadcast it
        name, shape, expected = type(functional).__name__, tuple(energy.shape), tuple(counts.shape)
        raise ValueError(f"{name} returned energies of shape {shape}, expected one for each point: {expected}")
    return energy @ counts


class _Sum(torch.autograd.Function):
    """Energy per volume summed over points, as a twice differentiable function of features and parameters.

    The graph of the functional is kept for only `CHUNK` points at a time. The functional is evaluated again for
    derivatives with respect to parameters and for second derivatives.
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
    """Derivatives of `_Sum` with respect to features, which `_Sum.forward` has computed, and to parameters."""

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
    """Split counts (n,) and features (..., n) into chunks of at most `CHUNK` points."""
    return list(zip(*(t.split(CHUNK, dim=-1) for t in (counts, *features))))


def _joined(chunks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.cat(parts, dim=-1) for parts in zip(*chunks)]


def _added(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    return [x + y for x, y in zip(a, b)]


def core_field(name: str, crystal: Crystal, grid: DensityGrid) -> Tensor | None:
    """Return a field of the cores (n1, n2, n3), differentiable in cell and positions, or None if no atom has it.

    Parameters
    ----------
    name : str
        "density" (bohr^-3) or "tau" (Hartree bohr^-3).
    crystal, grid
        The atoms, and where the field is computed.
    """
    functions = {table: {"density": table.core, "tau": table.core_tau}[name] for table in crystal.species}
    if all(function is None for function in functions.values()):
        return None

    def form_factor(table: Pseudopotential, q2: Tensor) -> Tensor:
        function = functions[table]
        return torch.zeros_like(q2) if function is None else function(q2)

    return grid.to_real(superposition(crystal, grid, form_factor))
