"""Third-order Birch-Murnaghan equation of state as a differentiable linear least-squares fit.

The energy of F. Birch, Phys. Rev. 71, 809 (1947) is a cubic polynomial in ``x = V**(-2/3)`` (eq. 1 of
F. D. Murnaghan, PNAS 30, 244 (1944), taken to third order in the Eulerian strain). Its coefficients are linear in the
energies, and the minimum follows from them in closed form, so that gradients of the equilibrium volume and the bulk
modulus by the energies cost nothing.

Units must be consistent: with energies in eV and volumes in Angstrom^3 the bulk modulus is in eV/Angstrom^3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class NoMinimumError(ValueError):
    """The curve through the energies has no minimum at or near their volumes."""


@dataclass(frozen=True)
class BirchMurnaghan:
    """A fitted equation of state; every tensor is float64 and carries gradients by the energies.

    Attributes
    ----------
    volume, energy, bulk_modulus, bulk_derivative : Tensor, shape ()
        V0, E(V0), B0 = V E'' and B0' = dB/dP at zero pressure.
    errors : Tensor, shape (4,)
        One standard deviation of the four numbers above, from the scatter of the residuals (detached); NaN where
        the points leave no residual.
    residuals : Tensor, shape (n,)
        Energies minus the fit.
    coefficients : Tensor, shape (4,)
        Coefficients of the powers 0 to 3 of ``u = (x / reference - centre) / width``.
    reference, centre, width : float
        ``reference`` is a volume to the power -2/3; the other two map the fitted range of x to -1 <= u <= 1.
    """

    volume: Tensor
    energy: Tensor
    bulk_modulus: Tensor
    bulk_derivative: Tensor
    errors: Tensor
    residuals: Tensor
    coefficients: Tensor
    reference: float
    centre: float
    width: float

    def energy_at(self, volumes: Tensor) -> Tensor:
        """Return energies of the fitted curve at ``volumes``, of the same shape."""
        u = (volumes ** (-2 / 3) / self.reference - self.centre) / self.width
        a = self.coefficients
        return a[0] + u * (a[1] + u * (a[2] + u * a[3]))


def _equilibrium(a: Tensor, reference: float, centre: float, width: float) -> Tensor:
    """Return V0, E0, B0, B0' (4,) of the cubic ``a`` (4,) in u; NaN where it has no minimum."""
    # dE/du = a1 + 2 a2 u + 3 a3 u^2 = 0; at the root that is a minimum d2E/du2 = 2 sqrt(a2^2 - 3 a1 a3)
    root = torch.sqrt(a[2] ** 2 - 3 * a[1] * a[3])
    u = -a[1] / (a[2] + root)
    energy = a[0] + u * (a[1] + u * (a[2] + u * a[3]))
    x = centre + width * u
    second = 2 * root / width**2  # E_xx
    third = 6 * a[3] / width**3  # E_xxx
    volume = (x * reference) ** (-3 / 2)
    # x_V = -(2/3) x/V and E_x = 0:  B = V E_VV = (4/9) x^2 E_xx / V
    bulk_modulus = 4 / 9 * x**2 * second / volume
    # x_VV = (10/9) x/V^2:  B' = -1 - V E_VVV / E_VV = 4 + (2/3) x E_xxx / E_xx
    bulk_derivative = 4 + 2 / 3 * x * third / second
    return torch.stack((volume, energy, bulk_modulus, bulk_derivative))


def fit_birch_murnaghan(volumes: Tensor, energies: Tensor, order: int = 3) -> BirchMurnaghan:
    """Fit the Birch-Murnaghan equation of state by least squares.

    Parameters
    ----------
    volumes : Tensor, shape (n,)
        More different positive volumes than `order`.
    energies : Tensor, shape (n,)
        Energies; gradients go from the result to these, and to the volumes if they require gradients.
    order : {2, 3}
        Order in x. In the second order B0' is 4; if it is 5, volumes of V0 (1 - h), V0 and V0 (1 + h) give a lattice
        constant that is too large by h^2 / 18 of it, 0.02 % for h = 0.06.

    Returns
    -------
    BirchMurnaghan
        In the units of the input.

    Raises
    ------
    NoMinimumError
        If the curve has no minimum within the fitted range of x or one such range's width beside it.
    ValueError
        If there are not enough different volumes, or if a value is not finite.
    """
    v, e = volumes.to(torch.float64), energies.to(torch.float64)
    if v.ndim != 1 or v.shape != e.shape or len(torch.unique(v)) <= order:
        raise ValueError(f"a Birch-Murnaghan fit of order {order} needs energies at {order + 1} different volumes")
    if not (torch.isfinite(v).all() and torch.isfinite(e).all() and (v > 0).all()):
        raise ValueError("a Birch-Murnaghan fit needs positive volumes and finite energies")
    reference = v.detach().mean().item() ** (-2 / 3)
    x = v ** (-2 / 3) / reference
    low, high = x.detach().min().item(), x.detach().max().item()
    centre, width = (high + low) / 2, (high - low) / 2
    u = (x - centre) / width
    # E = sum_k a_k u^k;  A = QR, a = R^-1 Q^T E, with the large mean of the energies taken out before
    shift = e.detach().mean()
    q, r = torch.linalg.qr(torch.stack([u**k for k in range(order + 1)], dim=1))
    a = torch.linalg.solve_triangular(r, (q.T @ (e - shift))[:, None], upper=True)[:, 0]
    residuals = e - shift - (q @ (r @ a))
    a = torch.nn.functional.pad(a, (0, 3 - order))
    result = _equilibrium(a, reference, centre, width)
    # a cubic may also have a minimum far away from the points, which has nothing to do with them
    volume, reach = result[0].item(), 3 * width
    is_near = volume > 0 and abs(volume ** (-2 / 3) / reference - centre) <= reach  # 0: infinite x
    if not (torch.isfinite(result).all() and is_near):
        raise NoMinimumError("the Birch-Murnaghan curve through these energies has no minimum at or near their volumes")
    errors = _standard_errors(a.detach(), r.detach(), residuals.detach(), (reference, centre, width))
    offset = torch.zeros_like(a)
    offset[0] = shift
    return BirchMurnaghan(
        volume=result[0],
        energy=result[1] + shift,
        bulk_modulus=result[2],
        bulk_derivative=result[3],
        errors=errors,
        residuals=residuals,
        coefficients=a + offset,
        reference=reference,
        centre=centre,
        width=width,
    )


def _standard_errors(a: Tensor, r: Tensor, residuals: Tensor, scale: tuple[float, float, float]) -> Tensor:
    """Return standard deviations (4,) of V0, E0, B0, B0' by the delta method."""
    freedom = len(residuals) - len(r)
    if freedom == 0:
        return torch.full_like(a, torch.nan)
    # cov(a) = s^2 (A^T A)^-1 = s^2 R^-1 R^-T with s^2 = |residuals|^2 / (n - order - 1);  cov(y) = J cov(a) J^T
    jacobian = torch.func.jacrev(_equilibrium)(a, *scale)[:, : len(r)]
    half = torch.linalg.solve_triangular(r.T, jacobian.T, upper=False)  # R^-T J^T
    return torch.sqrt((residuals**2).sum() / freedom * (half**2).sum(dim=0))
