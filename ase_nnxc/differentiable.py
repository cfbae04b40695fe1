"""A ground state in ASE's units as torch tensors, with gradients by parameters, positions and strain."""

from functools import cached_property

import torch
from torch import Tensor

from .ks import adjoint as core
from .units import BOHR, HARTREE

DEGENERATE = 1e-6  # Hartree; levels nearer than this to a band edge are it, too


class Differentiable:
    """What `NNXCCalculator.differentiable` returns: anything made of it goes through `loss.backward()`.

    Losses on `free_energy` alone are as cheap as forces. All others solve for the linear response of the ground state,
    once for each `backward`, at about the cost of an SCF; `ase_nnxc.ks.response.ResponseError` is raised by `backward`
    if that does not exist or is not found. Numbers are those of the calculator's results.

    Attributes
    ----------
    free_energy : Tensor
        () F = E - T S, eV.
    """

    def __init__(self, ground_state: core.Differentiable, volume: float | None):
        self._core, self._volume = ground_state, volume
        self.free_energy: Tensor = ground_state.free_energy * HARTREE

    @cached_property
    def energy(self) -> Tensor:
        """Free energy extrapolated to zero width of the smearing (), eV."""
        return self._core.energy * HARTREE

    @cached_property
    def forces(self) -> Tensor:
        """(natoms, 3), eV/Angstrom."""
        return self._core.forces * (HARTREE / BOHR)

    @cached_property
    def stress(self) -> Tensor:
        """(6,) in ASE's order xx, yy, zz, yz, xz, xy, eV/Angstrom^3; refused where the calculator refuses it."""
        if self._volume is None:
            raise ValueError("there is no stress without periodic directions or without a volume of the cell")
        rows, columns = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
        per_volume = self._core.state.crystal.volume * HARTREE / self._volume  # the cell of a layer is another here
        return self._core.stress[rows, columns] * per_volume

    @cached_property
    def density(self) -> Tensor:
        """(n1, n2, n3) electrons/Angstrom^3 on the FFT box; its points move with a strain."""
        return self._core.fields[0] / BOHR**3

    @cached_property
    def magnetisation(self) -> Tensor:
        """(n1, n2, n3) Bohr magnetons/Angstrom^3, zero of a spin-paired state."""
        if self._core.state.crystal.nspin == 1:
            return torch.zeros_like(self.density)
        return self._core.fields[1] / BOHR**3

    @cached_property
    def eigenvalues(self) -> Tensor:
        """(nspin, nk, nbands) at the irreducible k-points, eV.

        Those of the bands that hold electrons anywhere and of the next one are converged. Of degenerate levels only
        symmetric functions have derivatives.
        """
        return self._core.eigenvalues * HARTREE

    @cached_property
    def occupations(self) -> Tensor:
        """(nspin, nk, nbands), from 0 to 1."""
        return self._core.occupations

    @property
    def weights(self) -> Tensor:
        """(nk,) of the k-points, adding up to one."""
        return self._core.state.basis.weights

    @cached_property
    def fermi_level(self) -> Tensor:
        """(), eV; the higher one where the moment is fixed. In a gap it has no derivatives, and asking is an error."""
        return self._core.fermi_level * HARTREE

    @cached_property
    def band_gap(self) -> Tensor:
        """() eV between the highest occupied and the lowest empty level of the mesh, whatever their k-points and spins.

        Of levels that are degenerate with the edges the mean is taken, which has derivatives.
        """
        levels, filled = self._core.eigenvalues, self._core.state.occupations > 0.5
        if not bool(filled.any()) or bool(filled.all()):
            raise ValueError("a band gap needs occupied and empty bands: more bands are needed")
        top, bottom = levels[filled].detach().max(), levels[~filled].detach().min()
        highest = levels[filled & (levels > top - DEGENERATE)].mean()
        return (levels[~filled & (levels < bottom + DEGENERATE)].mean() - highest) * HARTREE
