"""Exchange and correlation of the density on the grid: E_xc = Omega/N sum_r f(n_up, n_dn, grad n_up, grad n_dn).

Symmetry makes whole sets of grid points equal, so the functional is evaluated on one point of each and weighted with
their number. The potential is autograd of this discretised energy, averaged over the sets.
"""

import torch
from torch import Tensor

from ...xc.functional import Functional
from ..basis import Basis


def spin_channels(total_and_moment: Tensor) -> Tensor:
    """(n_up, n_dn) along the first axis of 2 from (n,) or (n, m) along the first axis."""
    if len(total_and_moment) == 1:
        return (0.5 * total_and_moment).expand(2, *total_and_moment.shape[1:])
    n, m = total_and_moment
    return 0.5 * torch.stack((n + m, n - m))


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


def xc_energy(functional: Functional, density: Tensor, basis: Basis, reciprocal: Tensor, volume: Tensor) -> Tensor:
    """Exchange-correlation energy, Hartree.

    Parameters
    ----------
    functional : Functional
        What to evaluate.
    density : Tensor
        (nspin, n1, n2, n3) total density and, with spin, magnetisation density, bohr^-3.
    basis : Basis
        Grid and symmetry.
    reciprocal, volume : Tensor
        Of the cell; the energy is differentiable in them and in the density.
    """
    orbits = basis.orbits
    features = {"density": spin_channels(density.flatten(1).index_select(1, orbits.representatives))}
    if "gradient" in functional.features:
        vectors = gradient(density, basis.grid.shape, reciprocal).flatten(2)
        features["gradient"] = spin_channels(vectors.index_select(2, orbits.representatives))
    return volume / basis.grid.size * (functional(features) * orbits.counts).sum()


def xc_potential(
    functional: Functional, density: Tensor, basis: Basis, reciprocal: Tensor, volume: Tensor
) -> tuple[Tensor, Tensor]:
    """Energy, Hartree, and potential (nspin, n1, n2, n3), Hartree, of the spin channels; arguments of `xc_energy`."""
    with torch.enable_grad():
        leaf = density.detach().requires_grad_()
        energy = xc_energy(functional, leaf, basis, reciprocal, volume)
        (slope,) = torch.autograd.grad(energy, leaf)
    potential = basis.orbits.symmetrize(slope) * (basis.grid.size / volume)
    if len(potential) == 2:  # dE/dn and dE/dm -> up and down
        potential = torch.stack((potential[0] + potential[1], potential[0] - potential[1]))
    return energy.detach(), potential
