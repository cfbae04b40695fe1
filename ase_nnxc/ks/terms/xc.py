"""Exchange and correlation of fields on the grid: E_xc = Omega/N sum_r f(n_s, grad n_s, tau_s).

Symmetry makes whole sets of grid points equal, so the functional is evaluated on one point of each and weighted with
their number. The potentials are autograd of this discretised energy, averaged over the sets.

Fields (nfields, ...) are the total density and, with spin, the magnetisation density, bohr^-3; for a functional of the
kinetic energy density tau, the same of tau follow, Hartree bohr^-3.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...xc.functional import Functional
from ..basis import Basis

CHUNK = 2**16  # points; a network's graph takes about a kilobyte for each


def nfields(functional: Functional, nspin: int) -> int:
    """Number of fields that a functional is evaluated with."""
    return 2 * nspin if "tau" in functional.features else nspin


def spin_channels(total_and_moment: Tensor) -> Tensor:
    """(up, down) along the first axis of 2 from (total,) or (total, moment) along the first axis."""
    if len(total_and_moment) == 1:
        return (0.5 * total_and_moment).expand(2, *total_and_moment.shape[1:])
    n, m = total_and_moment
    return 0.5 * torch.stack((n + m, n - m))


def up_and_down(slopes: Tensor) -> Tensor:
    """Derivatives by the spin channels (nspin, ...) from those by total and moment."""
    return torch.stack((slopes[0] + slopes[1], slopes[0] - slopes[1])) if len(slopes) == 2 else slopes


def gradient(field: Tensor, shape: tuple[int, int, int], reciprocal: Tensor) -> Tensor:
    """Gradient (nspin, 3, n1, n2, n3) of a real field (nspin, n1, n2, n3) by FFT: i G f_G."""
    half = torch.fft.rfftn(field, dim=(-3, -2, -1))
    kwargs = {"dtype": reciprocal.dtype, "device": reciprocal.device}
    frequencies = [torch.fft.fftfreq(n, 1 / n, **kwargs) for n in shape[:2]] + [
        torch.fft.rfftfreq(shape[2], 1 / shape[2], **kwargs)
    ]
    for n, f in zip(shape, frequencies):
        if n % 2 == 0:
            f[n // 2] = 0.0  # the highest wave of an even box has no partner: its derivative is not real
    n1, n2, n3 = frequencies
    components = []
    for b in reciprocal.unbind(-1):  # the Cartesian component of the three reciprocal vectors
        g = n1[:, None, None] * b[0] + n2[:, None] * b[1] + n3 * b[2]
        components.append(torch.fft.irfftn(1j * g * half, s=shape, dim=(-3, -2, -1)))
    return torch.stack(components, dim=1)


def _features(functional: Functional, fields: Tensor, basis: Basis, reciprocal: Tensor) -> list[Tensor]:
    """What the functional reads, in its order, of total and moment: (nspin, norbits) or (nspin, 3, norbits)."""
    points = basis.orbits.representatives
    nspin = len(fields) // nfields(functional, 1)
    density, tau = fields[:nspin], fields[nspin:]
    make = {
        "density": lambda: density.flatten(1).index_select(1, points),
        "gradient": lambda: gradient(density, basis.grid.shape, reciprocal).flatten(2).index_select(2, points),
        "tau": lambda: tau.flatten(1).index_select(1, points),
    }
    return [make[name]() for name in functional.features]


def _sum(functional: Functional, counts: Tensor, *features: Tensor) -> Tensor:
    """Energy per volume summed over points, each `counts` (n,) times; features as `_features` makes them."""
    channels = {name: spin_channels(f) for name, f in zip(functional.features, features)}
    energy = functional(channels)
    if energy.shape != counts.shape:  # it would be broadcast
        name, wrong, right = type(functional).__name__, tuple(energy.shape), tuple(counts.shape)
        raise ValueError(f"{name} gave energies of shape {wrong}, one for each point, {right}, is expected")
    return energy @ counts


def _chunks(basis: Basis, features: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """Counts (n,) and features (..., n) of as many points as are evaluated at once."""
    return list(zip(*(t.split(CHUNK, dim=-1) for t in (basis.orbits.counts, *features))))


def xc_energy(functional: Functional, fields: Tensor, basis: Basis, reciprocal: Tensor, volume: Tensor) -> Tensor:
    """Exchange-correlation energy, Hartree.

    Parameters
    ----------
    functional : Functional
        What to evaluate.
    fields : Tensor
        (nfields, n1, n2, n3).
    basis : Basis
        Grid and symmetry.
    reciprocal, volume : Tensor
        Of the cell; the energy is differentiable in them, in the fields and in the functional's parameters.
    """
    features = _features(functional, fields, basis, reciprocal)
    sums = [  # backward evaluates each chunk again and holds the graph of one at a time
        checkpoint(_sum, functional, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in _chunks(basis, features)
    ]
    return volume / basis.grid.size * torch.stack(sums).sum()


def xc_potential(
    functional: Functional, fields: Tensor, basis: Basis, reciprocal: Tensor, volume: Tensor
) -> tuple[float, Tensor]:
    """Energy, Hartree, and its derivatives (nfields, n1, n2, n3) by the fields, per volume; arguments of `xc_energy`.

    The derivative by a density is a potential in Hartree; that by tau has no unit.
    """
    with torch.enable_grad():
        leaf = fields.detach().requires_grad_()
        features = _features(functional, leaf, basis, reciprocal)
        total, slopes = 0.0, []
        for counts, *chunk in _chunks(basis, features):
            leaves = [f.detach().requires_grad_() for f in chunk]
            energy = _sum(functional, counts, *leaves)
            slopes.append(torch.autograd.grad(energy, leaves))
            total += float(energy.detach())
        (slope,) = torch.autograd.grad(features, leaf, [torch.cat(parts, dim=-1) for parts in zip(*slopes)])
    return float(volume) / basis.grid.size * total, basis.orbits.symmetrize(slope)
