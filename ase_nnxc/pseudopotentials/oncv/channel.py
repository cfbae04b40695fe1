"""Pseudo functions and projectors of one angular momentum.

First come the functions, whose densities give v_tau of a functional of the kinetic energy density, then the projectors.
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
class PseudoFunctions:
    """Pseudo functions of one angular momentum.

    Attributes
    ----------
    l : int
        Angular momentum.
    energies : Array
        (n,) of the all-electron functions, Hartree.
    values, slopes, kinetic : Array
        (n, N) functions phi_i on the smooth elements, bohr^(-3/2), phi_i', and -1/2 the Laplacian of phi_i.
    overlaps : Array
        (n, n) integrals of products of the functions up to r_c.
    derivatives : Array
        (n, ncon) value and derivatives of the functions at r_c, from inside.
    residual : float
        Sum of the residual energies of the functions, Hartree.
    cutoff : float
        Plane-wave cutoff at which the residual energy of the first function is 1e-4 Ha, Hartree.
    """

    l: int  # noqa: E741
    energies: Array
    values: Array
    slopes: Array
    kinetic: Array
    overlaps: Array
    derivatives: Array
    residual: float
    cutoff: float


@dataclass(frozen=True, eq=False)
class Channel:
    """Pseudo functions and projectors of one angular momentum.

    Attributes
    ----------
    functions : PseudoFunctions
        The functions.
    radius : float
        Radius beyond which the projectors are zero, bohr.
    projectors : Array
        (n, N) orthonormal projectors p_i, bohr^(-3/2).
    coefficients : Array
        (n,) D_i, Hartree: the separable part is sum |p_i> D_i <p_i|.
    asymmetry : float
        Largest difference of <phi_i|chi_j> and <phi_j|chi_i>, Hartree.
    """

    functions: PseudoFunctions
    radius: float
    projectors: Array
    coefficients: Array
    asymmetry: float

    @property
    def l(self) -> int:  # noqa: E743
        """Angular momentum."""
        return self.functions.l


def make_functions(smooth: SmoothElements, inputs: ChannelInputs, reference: Reference) -> list[PseudoFunctions]:
    """Return the possible functions, one set for each choice of the branches of minima, by rising residual energy.

    Parameters
    ----------
    smooth : SmoothElements
        Elements of the pseudo functions.
    inputs : ChannelInputs
        Radius, basis and cutoff.
    reference : Reference
        The all-electron functions.

    Raises
    ------
    GenerationError
        If no function fulfils the constraints.
    """
    maker = _Maker(smooth, inputs, reference)
    candidates = [maker.functions(np.array(choice)) for choice in maker.choices()]
    if not candidates:
        raise GenerationError(
            f"l = {inputs.l}: the norm inside r_c = {inputs.radius} bohr is less than what the continuity of the "
            f"function and its derivatives takes: r_c is too small or the basis of {inputs.waves} waves too poor"
        )
    return sorted(candidates, key=lambda functions: functions.residual)


class _Maker:
    """What all choices have in common: the basis, the tails of the functions, and the residual energy."""

    def __init__(self, smooth: SmoothElements, inputs: ChannelInputs, reference: Reference) -> None:
        self._smooth, self._reference = smooth, reference
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

    def functions(self, z: Array) -> PseudoFunctions:
        """The functions with coefficients z (n, nb)."""
        smooth, basis, energy, reference = self._smooth, self._basis, self._energy, self._reference
        inside = smooth.radii <= basis.radius + 1e-9
        radii = smooth.radii[inside]
        values, slopes = self._tails.copy(), np.array([smooth.derivative(tail) for tail in self._tails])
        kinetic = -0.5 * np.array([_laplacian(smooth, basis.l, *x) for x in zip(values, slopes)])
        values[:, inside], slopes[:, inside] = z @ basis.values(radii), z @ basis.slopes(radii)
        kinetic[:, inside] = z @ basis.kinetic(radii)
        overlap = smooth.weights_up_to(basis.radius) * smooth.radii**2
        return PseudoFunctions(
            l=basis.l,
            energies=reference.energies,
            values=values,
            slopes=slopes,
            kinetic=kinetic,
            overlaps=(values * overlap) @ values.T,
            derivatives=z @ self._derivatives,
            residual=sum(energy.of(i, one) for i, one in enumerate(z)),
            cutoff=energy.plane_wave_cutoff(0, z[0]),
        )


def _laplacian(smooth: SmoothElements, l: int, values: Array, slopes: Array) -> Array:  # noqa: E741
    """R'' + 2 R'/r - L R / r^2 (N,), beyond r = 0."""
    r = np.maximum(smooth.radii, 1e-12)
    return smooth.derivative(slopes) + 2 * slopes / r - l * (l + 1) * values / r**2


def make_channel(
    smooth: SmoothElements, local: Array, v_tau: Array, functions: PseudoFunctions, radius: float
) -> Channel:
    """Return the projectors for pseudo functions.

    Parameters
    ----------
    smooth : SmoothElements
        Elements of the functions.
    local, v_tau : Array
        (N,) screened local potential, Hartree, and screened v_tau.
    functions : PseudoFunctions
        The functions.
    radius : float
        Radius beyond which the functions are solutions of the local Hamiltonian, bohr.
    """
    inside = smooth.radii <= radius + 1e-9
    phi, energies = functions.values, functions.energies[:, None]
    # chi_i = (e_i + 1/2 div (1 + v_tau) grad - V_loc) phi_i, zero beyond the radius
    kinetic = (1 + v_tau) * functions.kinetic - 0.5 * smooth.derivative(v_tau) * functions.slopes
    chi = ((energies - local) * phi - kinetic) * inside
    overlap = smooth.weights_up_to(radius) * smooth.radii**2
    b = (phi * overlap) @ chi.T
    couplings = np.linalg.inv(0.5 * (b + b.T)).astype(float)
    projectors, coefficients = _orthonormal(chi, (chi * overlap) @ chi.T, couplings)
    return Channel(functions, radius, projectors, coefficients, float(np.abs(b - b.T).max()))


def _orthonormal(chi: Array, overlaps: Array, couplings: Array) -> tuple[Array, Array]:
    """Orthonormal projectors (n, N) and coefficients (n,), the largest first, of sum |chi_i> D_ij <chi_j|.

    With S = <chi|chi>, the coefficients are the eigenvalues of S^1/2 D S^1/2 = W d W^T, the projectors W^T S^-1/2 chi.
    """
    values, vectors = np.linalg.eigh(overlaps)
    root, inverse = (vectors * values**0.5) @ vectors.T, (vectors * values**-0.5) @ vectors.T
    coefficients, rotation = np.linalg.eigh(root @ couplings @ root)
    order = np.argsort(-np.abs(coefficients))
    return rotation[:, order].T @ inverse @ chi, coefficients[order]
