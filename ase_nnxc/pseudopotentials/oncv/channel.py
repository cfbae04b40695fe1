"""Pseudo functions and projectors of one angular momentum.

D. R. Hamann, Phys. Rev. B 88, 085117 (2013), and its erratum, Phys. Rev. B 95, 239906 (2017).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...atoms.elements import Array
from .bessel import BesselBasis, wave_numbers
from .errors import GenerationError
from .inputs import ChannelInputs
from .reference import Reference
from .residual import ResidualEnergy, minima_on_sphere
from .smooth import SmoothElements


@dataclass(frozen=True, eq=False)
class Channel:
    """Pseudo functions and projectors of one angular momentum.

    Attributes
    ----------
    l : int
        Angular momentum.
    radius : float
        Radius r_c, bohr.
    functions : Array
        (n, N) pseudo functions phi_i on the smooth elements, bohr^(-3/2).
    projectors : Array
        (n, N) orthonormal projectors p_i, zero beyond r_c, bohr^(-3/2).
    coefficients : Array
        (n,) D_i, Hartree: the separable part is sum |p_i> D_i <p_i|.
    overlaps : Array
        (n, n) integrals of products of the functions up to r_c.
    derivatives : Array
        (n, ncon) value and derivatives of the functions at r_c, from inside.
    asymmetry : float
        Largest difference of <phi_i|chi_j> and <phi_j|chi_i>, Hartree.
    residual : float
        Sum of the residual energies of the functions, Hartree.
    cutoff : float
        Plane-wave cutoff at which the residual energy of the first function is 1e-4 Ha, Hartree.
    """

    l: int  # noqa: E741
    radius: float
    functions: Array
    projectors: Array
    coefficients: Array
    overlaps: Array
    derivatives: Array
    asymmetry: float
    residual: float
    cutoff: float


def make_channels(smooth: SmoothElements, local: Array, inputs: ChannelInputs, reference: Reference) -> list[Channel]:
    """Return the possible channels, one for each choice of the branches of minima, by rising residual energy.

    Parameters
    ----------
    smooth : SmoothElements
        Elements of the pseudo functions.
    local : Array
        (N,) screened local potential, Hartree.
    inputs : ChannelInputs
        Radius, basis and cutoff.
    reference : Reference
        The all-electron functions.

    Raises
    ------
    GenerationError
        If no function fulfils the constraints.
    """
    maker = _Maker(smooth, local, inputs, reference)
    channels = [maker.channel(np.array(choice)) for choice in maker.choices()]
    if not channels:
        raise GenerationError(
            f"l = {inputs.l}: the norm inside r_c = {inputs.radius} bohr is less than what the continuity of the "
            f"function and its derivatives takes: r_c is too small or the basis of {inputs.waves} waves too poor"
        )
    return sorted(channels, key=lambda channel: channel.residual)


class _Maker:
    """What all choices have in common: the basis, the tails of the functions, and the residual energy."""

    def __init__(self, smooth: SmoothElements, local: Array, inputs: ChannelInputs, reference: Reference) -> None:
        self._smooth, self._local, self._reference = smooth, local, reference
        slope = reference.derivatives[0, 1] / reference.derivatives[0, 0]
        q = wave_numbers(inputs.l, inputs.radius, slope, inputs.waves)
        radii, weights = (x[: smooth.edge(inputs.radius)].ravel() for x in smooth.gauss_points())
        self._basis = BesselBasis(inputs.l, inputs.radius, q, radii, weights)
        self._derivatives = self._basis.derivatives(inputs.constraints)
        self._tails = np.array([smooth.outside(function) for function in reference.functions])
        self._energy = ResidualEnergy(self._basis, smooth, self._tails, inputs.cutoff)

    def choices(self, lower: tuple[Array, ...] = ()) -> Iterator[tuple[Array, ...]]:
        """The coefficients of all functions in the basis, for each choice of branches.

        Function i fulfils C z = d: its derivatives at r_c are those of psi_i, and its overlaps with the functions
        before it are <psi_j|psi_i>, which with |z|^2 = <psi_i|psi_i> is the generalised conservation of norms. By the
        singular values of C, z = z0 + N x, where the columns of N are orthonormal and orthogonal to z0.
        """
        reference, matrix, i = self._reference, self._energy.matrix, len(lower)
        if i == len(reference.energies):
            yield lower
            return
        constraints = np.vstack([self._derivatives.T, *lower])
        targets = np.concatenate((reference.derivatives[i], reference.overlaps[:i, i]))
        u, singular, vt = np.linalg.svd(constraints)
        rank = len(singular)
        z0, free = vt[:rank].T @ ((u.T @ targets) / singular), vt[rank:].T
        norm2 = reference.overlaps[i, i] - z0 @ z0
        if norm2 <= 0:
            return
        vector = free.T @ (matrix @ z0 - self._energy.vectors[i])
        for x in minima_on_sphere(free.T @ matrix @ free, vector, norm2):
            yield from self.choices((*lower, z0 + free @ x))

    def channel(self, z: Array) -> Channel:
        """The channel of functions with coefficients z (n, nb)."""
        smooth, basis, energy, reference = self._smooth, self._basis, self._energy, self._reference
        inside = smooth.radii <= basis.radius + 1e-9
        functions, kinetic = self._tails.copy(), np.zeros_like(self._tails)
        functions[:, inside] = z @ basis.values(smooth.radii[inside])
        kinetic[:, inside] = z @ basis.kinetic(smooth.radii[inside])
        # chi_i = (e_i - T - V_loc) phi_i, zero beyond r_c
        chi = ((reference.energies[:, None] - self._local) * functions - kinetic) * inside
        overlap = smooth.weights_up_to(basis.radius) * smooth.radii**2
        b = (functions * overlap) @ chi.T
        couplings = np.linalg.inv(0.5 * (b + b.T)).astype(float)
        projectors, coefficients = _orthonormal(chi, (chi * overlap) @ chi.T, couplings)
        return Channel(
            l=basis.l,
            radius=basis.radius,
            functions=functions,
            projectors=projectors,
            coefficients=coefficients,
            overlaps=(functions * overlap) @ functions.T,
            derivatives=z @ self._derivatives,
            asymmetry=float(np.abs(b - b.T).max()),
            residual=sum(energy.of(i, one) for i, one in enumerate(z)),
            cutoff=energy.plane_wave_cutoff(0, z[0]),
        )


def _orthonormal(chi: Array, overlaps: Array, couplings: Array) -> tuple[Array, Array]:
    """Orthonormal projectors (n, N) and coefficients (n,), the largest first, of sum |chi_i> D_ij <chi_j|.

    With S = <chi|chi>, the coefficients are the eigenvalues of S^1/2 D S^1/2 = W d W^T, the projectors W^T S^-1/2 chi.
    """
    values, vectors = np.linalg.eigh(overlaps)
    root, inverse = (vectors * values**0.5) @ vectors.T, (vectors * values**-0.5) @ vectors.T
    coefficients, rotation = np.linalg.eigh(root @ couplings @ root)
    order = np.argsort(-np.abs(coefficients))
    return rotation[:, order].T @ inverse @ chi, coefficients[order]
