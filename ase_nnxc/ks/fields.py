"""Densities on the grid: what orbitals make, what functionals read and what is mixed.

Fields (nfields, ...) are the total density and, with spin, the magnetisation, bohr^-3; if the energy depends on the
kinetic energy density tau = 1/2 sum_n f_n |grad psi_n|^2, the same of tau follow, Hartree bohr^-3.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from .basis import Basis, DensityGrid
from .crystal import Crystal
from .kpoints import Block, KPoints
from .transforms import chunk_size, to_box


class Fields:
    """Fields in real space and as Fourier coefficients, each made of the other when it is first asked for.

    Parameters
    ----------
    grid : DensityGrid
        Where they live.
    nspin : int
        1, or 2 if each field of the total is followed by that of the magnetisation.
    real : Tensor, optional
        (nfields, n1, n2, n3); it may carry gradients.
    fourier : Tensor, optional
        (nfields, ng), if there is no `real`.
    """

    def __init__(self, grid: DensityGrid, nspin: int, *, real: Tensor | None = None, fourier: Tensor | None = None):
        self.grid, self.nspin = grid, nspin
        if real is not None:
            self.__dict__["real"] = real
        elif fourier is not None:
            self.__dict__["fourier"] = fourier
        else:
            raise ValueError("fields need values in real space or Fourier coefficients")

    @cached_property
    def real(self) -> Tensor:
        """(nfields, n1, n2, n3)."""
        return self.grid.to_real(self.fourier)

    @cached_property
    def fourier(self) -> Tensor:
        """(nfields, ng)."""
        return self.grid.to_fourier(self.real)

    @cached_property
    def electrons(self) -> Tensor:
        """Fourier coefficients (ng,) of the total density."""
        return self.__dict__["fourier"][0] if "fourier" in self.__dict__ else self.grid.to_fourier(self.real[0])


def spin_channels(total_and_moment: Tensor) -> Tensor:
    """Spin channels along the first axis: (up, down) of (total, moment); half of (total,), which stands for two."""
    if len(total_and_moment) == 1:
        return 0.5 * total_and_moment
    n, m = total_and_moment
    return 0.5 * torch.stack((n + m, n - m))


def by_channels(derivatives: Tensor) -> Tensor:
    """Derivatives by the spin channels (nspin, ...), of those by total and moment."""
    if len(derivatives) == 1:
        return derivatives
    by_total, by_moment = derivatives
    return torch.stack((by_total + by_moment, by_total - by_moment))


def _total_and_moment(up_and_down: Tensor) -> Tensor:
    """The total, and with spin the moment (nspin, ...), of spin channels that hold all electrons."""
    if len(up_and_down) == 1:
        return up_and_down
    up, down = up_and_down
    return torch.stack((up + down, up - down))


def fields_of_orbitals(
    crystal: Crystal, basis: Basis, kpoints: KPoints, orbitals: Sequence[Tensor], electrons: Tensor, with_tau: bool
) -> Tensor:
    """Symmetrised fields (nfields, ng) of orbitals.

    tau = 1/2 sum_n f_n |grad psi_n|^2 = sum_n f_n Re(psi_n* T psi_n) + 1/4 lap n, T = |k+G|^2 / 2.

    Parameters
    ----------
    crystal, basis, kpoints
        Where.
    orbitals : sequence of Tensor
        (nbands, npw) of each block.
    electrons : Tensor
        (nspin, nk, nbands) occupations including spin degeneracy and the weight of the k-point.
    with_tau : bool
        Whether the kinetic energy density is wanted.
    """
    shape, count = basis.grid.shape, 2 if with_tau else 1

    def of_block(block: Block, psi: Tensor) -> Tensor:
        occupations = electrons[block.spin, block.k]
        filled = occupations.abs() > 1e-14
        psi, occupations = psi[filled], occupations[filled]
        half_squares = block.sphere.half_squares(crystal.reciprocal).to(psi.dtype)
        sums = torch.zeros(count, 2 * basis.grid.size, dtype=torch.float64, device=psi.device)  # real, imaginary parts
        step = chunk_size(basis.grid.size, psi.device)
        for start in range(0, len(psi), step):
            some, factors = psi[start : start + step], occupations[start : start + step].to(psi.dtype.to_real())
            waves = torch.cat((some, half_squares * some)) if with_tau else some
            parts = torch.view_as_real(to_box(waves, block.sphere, shape)).flatten(1)
            if with_tau:
                sums[1] += factors @ parts[len(some) :].mul_(parts[: len(some)])
            sums[0] += factors @ parts[: len(some)].square_()
        return sums

    sums = kpoints.sum_of_spins(of_block, orbitals)
    fields = _total_and_moment(sums.view(crystal.nspin, count, *shape, 2).sum(-1) / crystal.volume)
    waves = basis.grid.to_fourier(basis.orbits.symmetrize(fields))
    if with_tau:
        waves[:, 1] -= 0.25 * basis.grid.wavevectors(crystal.reciprocal).square().sum(-1) * waves[:, 0]
    return waves.transpose(0, 1).flatten(0, 1)


def kinetic_tensors(
    crystal: Crystal, basis: Basis, kpoints: KPoints, orbitals: Sequence[Tensor], electrons: Tensor
) -> Tensor:
    """t_ij = sum_n f_n Re(D_i psi_n* D_j psi_n) Omega, total and of the magnetisation: (nspin, 3, 3, n1, n2, n3).

    D_i psi = sum_G (k+G)_i c_G exp(i (k+G) r) Omega^(-1/2) with the components of k+G along the reciprocal vectors, so
    that strain leaves t as it is. tau Omega = 1/2 sum_ij t_ij b_i b_j.

    Parameters are those of `fields_of_orbitals`.
    """

    def of_block(block: Block, psi: Tensor) -> Tensor:
        sphere = block.sphere
        components = (sphere.miller + sphere.kpoint).mT
        total = torch.zeros(3, 3, basis.grid.size, dtype=torch.float64, device=crystal.device)
        for orbital, number in zip(psi, electrons[block.spin, block.k].tolist()):
            if number != 0:
                waves = to_box(orbital * components, sphere, basis.grid.shape)
                parts = torch.view_as_real(waves).view(3, -1, 2)
                for i in range(3):
                    total[i, i:] += number * (parts[i] * parts[i:]).sum(-1)
        return total

    tensors = kpoints.sum_of_spins(of_block, orbitals)
    for i, j in ((1, 0), (2, 0), (2, 1)):
        tensors[:, i, j] = tensors[:, j, i]
    return _total_and_moment(tensors).view(crystal.nspin, 3, 3, *basis.grid.shape)


def strained_fields(
    basis: Basis, crystal: Crystal, strained: Crystal, fields: Tensor, kinetic: Tensor | None
) -> Tensor:
    """Fields (nfields, n1, n2, n3) that orbitals of the same coefficients make in a strained crystal.

    n Omega stays as it is, and tau Omega = 1/2 sum_ij t_ij b_i b_j changes with the reciprocal vectors b.

    Parameters
    ----------
    basis : Basis
        Of the crystal.
    crystal, strained : Crystal
        Before and after.
    fields : Tensor
        (nfields, n1, n2, n3) before.
    kinetic : Tensor or None
        `kinetic_tensors` (nspin, 3, 3, n1, n2, n3), if there are fields of tau.
    """
    fields = fields * (crystal.volume / strained.volume)
    if kinetic is None:
        return fields
    change = strained.reciprocal @ strained.reciprocal.mT - crystal.reciprocal @ crystal.reciprocal.mT
    tau = 0.5 * torch.einsum("sijxyz,ij->sxyz", kinetic, change) / strained.volume
    return torch.cat((fields[: len(tau)], fields[len(tau) :] + basis.orbits.symmetrize(tau)))
