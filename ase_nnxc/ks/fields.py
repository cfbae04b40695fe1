"""Density fields on the grid. Orbitals produce them, functionals read them, and the SCF mixes them.

The fields (nfields, ...) are the total density and, with spin, the magnetisation, bohr^-3. If the energy depends on the
kinetic energy density tau = 1/2 sum_n f_n |grad psi_n|^2, the total tau and, with spin, its magnetisation follow,
Hartree bohr^-3.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from .basis import Basis, DensityGrid, Sphere, padded
from .crystal import Crystal
from .kpoints import Block, KPoints
from .real_orbitals import pack
from .transforms import chunk_size, to_box

NO_ELECTRON = 1e-14  # orbitals with fewer electrons are left out of the sums


class Fields:
    """Fields in real space and as Fourier coefficients; each is computed from the other at first access.

    Parameters
    ----------
    grid : DensityGrid
        Grid of the density.
    nspin : int
        Number of spin channels. With 2 the field of each total is followed by the field of its magnetisation.
    real : Tensor, optional
        (nfields, n1, n2, n3); may carry gradients.
    fourier : Tensor, optional
        (nfields, ng); used if `real` is not given.

    Raises
    ------
    ValueError
        If neither is given.
    """

    def __init__(self, grid: DensityGrid, nspin: int, *, real: Tensor | None = None, fourier: Tensor | None = None):
        self.grid, self.nspin = grid, nspin
        if real is not None:
            self.__dict__["real"] = real
        elif fourier is not None:
            self.__dict__["fourier"] = fourier
        else:
            raise ValueError("expected `real` or `fourier`, got neither")

    @cached_property
    def real(self) -> Tensor:
        """(nfields, n1, n2, n3) values on the grid."""
        return self.grid.to_real(self.fourier)

    @cached_property
    def fourier(self) -> Tensor:
        """(nfields, ng) Fourier coefficients."""
        return self.grid.to_fourier(self.real)

    @cached_property
    def density_fourier(self) -> Tensor:
        """(ng,) Fourier coefficients of the total density."""
        return self.__dict__["fourier"][0] if "fourier" in self.__dict__ else self.grid.to_fourier(self.real[0])


def spin_channels(total_and_moment: Tensor) -> Tensor:
    """Return the spin channels (nspin, ...) of totals and moments (nspin, ...).

    (total, moment) becomes (up, down). (total,) becomes half of it, one channel that represents two equal ones.
    """
    if len(total_and_moment) == 1:
        return 0.5 * total_and_moment
    n, m = total_and_moment
    return 0.5 * torch.stack((n + m, n - m))


def by_channels(derivatives: Tensor) -> Tensor:
    """Return derivatives with respect to spin channels from those with respect to total and moment, (nspin, ...)."""
    if len(derivatives) == 1:
        return derivatives
    by_total, by_moment = derivatives
    return torch.stack((by_total + by_moment, by_total - by_moment))


def _total_and_moment(up_and_down: Tensor) -> Tensor:
    """Return (total, moment) of the spin channels (up, down), and (total,) unchanged."""
    if len(up_and_down) == 1:
        return up_and_down
    up, down = up_and_down
    return torch.stack((up + down, up - down))


def fields_of_orbitals(
    crystal: Crystal, basis: Basis, kpoints: KPoints, orbitals: Sequence[Tensor], electrons: Tensor, with_tau: bool
) -> Tensor:
    """Return the symmetrised fields of orbitals.

    tau = 1/2 sum_n f_n |grad psi_n|^2 = sum_n f_n Re(psi_n* T psi_n) + 1/4 lap n, T = |k+G|^2 / 2.

    Parameters
    ----------
    crystal, basis, kpoints
        Cell, plane waves, and blocks of the orbitals.
    orbitals : sequence of Tensor
        (nbands, npw) of each block; real or complex, see `real_orbitals`.
    electrons : Tensor
        (nspin, nk, nbands) occupations including spin degeneracy and the weight of the k-point.
    with_tau : bool
        Whether to compute the kinetic energy density.

    Returns
    -------
    Tensor
        (nfields, ng) Fourier coefficients.
    """
    shape, count, npoints = basis.grid.shape, 2 if with_tau else 1, basis.grid.size
    real, is_complex = orbitals[0].dtype.to_real(), orbitals[0].is_complex()
    filled = electrons.abs() > NO_ELECTRON

    def of_batch(blocks: Sequence[Block], entries: Sequence[Tensor]) -> Tensor:
        spin, ks = blocks[0].spin, slice(blocks[0].k, blocks[-1].k + 1)
        bands = filled[spin, ks].any(0).nonzero().squeeze(-1)
        sphere = kpoints.stacked_sphere(blocks)
        psi, occupations = padded(entries, sphere.npw)[:, bands], electrons[spin, ks][:, bands].to(real)
        half_squares = sphere.half_squares(crystal.reciprocal)[:, None].to(real)
        phase = None if is_complex or sphere.is_gamma else _bloch_phase(sphere, shape)
        sums = torch.zeros(count, npoints, 2, dtype=torch.float64, device=psi.device)  # of real and imaginary parts
        step = chunk_size(npoints, psi.device) * (1 if is_complex else 2)
        for start in range(0, len(bands), step):
            waves, weights = psi[:, start : start + step], occupations[:, None, start : start + step]
            if not is_complex:  # psi_1 + i psi_2
                weights = torch.nn.functional.pad(weights, (0, waves.shape[1] % 2)).unflatten(-1, (2, -1)).squeeze(1)
                waves = pack(waves, sphere)
            if with_tau:
                waves = torch.cat((waves, half_squares * waves), dim=1)
            boxes = to_box(waves, sphere, shape)
            if phase is not None:
                boxes *= phase
            of_psi, *of_t = torch.view_as_real(boxes).flatten(2).chunk(count, dim=1)
            if with_tau:
                sums[1] += _sum_of_parts(weights, of_t[0].mul_(of_psi))
            sums[0] += _sum_of_parts(weights, of_psi.square_())
        return sums

    memory = 4 * len(orbitals[0]) * npoints * torch.complex128.itemsize  # boxes of the transform and copies
    sums = kpoints.sum_batches_of_spins(of_batch, memory, orbitals)
    fields = _total_and_moment(sums.sum(-1).view(crystal.nspin, count, *shape) / crystal.volume)
    waves = basis.grid.to_fourier(basis.orbits.symmetrize(fields))
    if with_tau:
        waves[:, 1] -= 0.25 * basis.grid.wavevectors(crystal.reciprocal).square().sum(-1) * waves[:, 0]
    return kpoints.same(waves.transpose(0, 1).flatten(0, 1))


def _sum_of_parts(weights: Tensor, parts: Tensor) -> Tensor:
    """Return sums (npoints, 2), in float64 over k, of real and imaginary parts (nk, n, 2 npoints).

    The weights are (nk, 1, n), or (nk, 2, n) for real and imaginary parts.
    """
    sums = (weights @ parts).to(torch.float64).sum(0).unflatten(1, (-1, 2))
    return sums[0] if len(sums) == 1 else sums.diagonal(dim1=0, dim2=2)


def _bloch_phase(sphere: Sphere, shape: tuple[int, int, int]) -> Tensor:
    """Return exp(i k r) (nk, 1, n1, n2, n3) on the FFT box."""
    along = []
    for k, n in zip(sphere.kpoint.unbind(-1), shape):
        angles = 2 * math.pi * k[:, None] * torch.arange(n, device=k.device) / n
        along.append(torch.polar(torch.ones_like(angles), angles))
    return torch.einsum("kx,ky,kz->kxyz", *along)[:, None]


def kinetic_tensors(
    crystal: Crystal, basis: Basis, kpoints: KPoints, orbitals: Sequence[Tensor], electrons: Tensor
) -> Tensor:
    """Return t_ij = sum_n f_n Re(D_i psi_n* D_j psi_n) Omega, total and, with spin, of the magnetisation.

    D_i psi = sum_G (k+G)_i c_G exp(i (k+G) r) Omega^(-1/2) with the components of k+G along the reciprocal vectors. A
    strain therefore does not change t, and tau Omega = 1/2 sum_ij t_ij b_i b_j.

    The parameters are those of `fields_of_orbitals`.

    Returns
    -------
    Tensor
        (nspin, 3, 3, n1, n2, n3), dimensionless, not symmetrised.
    """
    npoints = basis.grid.size

    def of_batch(blocks: Sequence[Block], entries: Sequence[Tensor]) -> Tensor:
        sphere = kpoints.stacked_sphere(blocks)
        numbers = electrons[blocks[0].spin, blocks[0].k : blocks[-1].k + 1]
        bands = (numbers != 0).any(0).nonzero().squeeze(-1)
        psi, numbers = padded(entries, sphere.npw)[:, bands], numbers[:, bands]
        components = (sphere.miller + sphere.kpoint[:, None]).mT[:, None]  # (nk, 1, 3, npw)
        total = torch.zeros(3, 3, npoints, dtype=torch.float64, device=psi.device)
        step = chunk_size(3 * npoints, psi.device)
        for start in range(0, len(bands), step):
            slopes = (psi[:, start : start + step, None] * components).flatten(1, 2)
            parts = torch.view_as_real(to_box(slopes, sphere, basis.grid.shape)).view(len(psi), -1, 3, npoints, 2)
            for i in range(3):
                products = (parts[:, :, i, None] * parts[:, :, i:]).sum(-1)
                total[i, i:] += torch.einsum("kb,kbjr->jr", numbers[:, start : start + step], products)
        return total

    memory = 12 * len(orbitals[0]) * npoints * torch.complex128.itemsize  # boxes of the transform and products
    tensors = kpoints.sum_batches_of_spins(of_batch, memory, orbitals)
    for i, j in ((1, 0), (2, 0), (2, 1)):
        tensors[:, i, j] = tensors[:, j, i]
    return _total_and_moment(tensors).view(crystal.nspin, 3, 3, *basis.grid.shape)


def strained_fields(
    basis: Basis, crystal: Crystal, strained: Crystal, fields: Tensor, kinetic: Tensor | None
) -> Tensor:
    """Return the fields of orbitals with the same coefficients in a strained crystal.

    n Omega does not change, and tau Omega = 1/2 sum_ij t_ij b_i b_j changes with the reciprocal vectors b.

    Parameters
    ----------
    basis : Basis
        Basis of the crystal.
    crystal, strained : Crystal
        The crystal before and after the strain.
    fields : Tensor
        (nfields, n1, n2, n3) before the strain.
    kinetic : Tensor or None
        (nspin, 3, 3, n1, n2, n3) from `kinetic_tensors`; required if the fields include tau.

    Returns
    -------
    Tensor
        (nfields, n1, n2, n3).
    """
    fields = fields * (crystal.volume / strained.volume)
    if kinetic is None:
        return fields
    change = strained.reciprocal @ strained.reciprocal.mT - crystal.reciprocal @ crystal.reciprocal.mT
    tau = 0.5 * torch.einsum("sijxyz,ij->sxyz", kinetic, change) / strained.volume
    return torch.cat((fields[: len(tau)], fields[len(tau) :] + basis.orbits.symmetrize(tau)))
