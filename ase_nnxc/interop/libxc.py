"""Functionals of libxc, through PySCF.

S. Lehtola, C. Steigemann, M. J. T. Oliveira and M. A. L. Marques, SoftwareX 7, 1 (2018).

The variables of libxc are the densities n_s of two spin channels, the products grad n_s . grad n_s' (up up, up down,
down down) and tau_s; for a closed shell they are n, |grad n|^2 and tau. It returns rows over the points: the energy per
electron, the derivatives of the energy per volume with respect to each variable, and those with respect to each pair.
"""

import ctypes
import difflib
import math
import re
from collections.abc import Iterable
from functools import cache
from itertools import combinations_with_replacement
from typing import Any

import torch
from pyscf import lib
from pyscf.dft import libxc
from torch import Tensor

from ..xc.architecture import register_architecture
from ..xc.functional import Functional
from ..xc.spins import DENSITY_THRESHOLD, SPIN_THRESHOLD

ALPHA_FLOOR = 1e-6
"""Smallest (tau - tau_W) / tau_unif of a channel that is passed to libxc; values from twice this on are unchanged."""

_FEATURES = {"LDA": ("density",), "GGA": ("density", "gradient"), "MGGA": ("density", "gradient", "tau")}

# xc.h: kinds in the order of their numbers, and flags
_KINDS = ("x", "c", "xc", "k")
_HAS_ENERGY, _IS_3D = 1 << 0, 1 << 7

# Properties that libxc has no flag for, by names of libxc or of users: gga_xc_b97_3c, PBE-D3(BJ), SCAN+rVV10. Exchange
# that was made for a nonlocal correlation, gga_x_optb88_vdw, is allowed.
_NAMED = {
    "has a dispersion correction": re.compile(r"(^|[_+ ])(D|D\d\w*|TS|MBD|XDM|3C)([_@(]\w+\)?)*$|(^|_)CF22D$"),
    "has nonlocal (van der Waals) correlation": re.compile(r"^(?!.*GGA_X_).*(VDW|VV10|_NL$)"),
    "is the correlation of electrons with protons": re.compile(r"(^|_)EPC\d"),
    "is range-separated": re.compile(r"_LYPR$"),
}
_WITHOUT_FAMILY = re.compile(r"^(HYB_)?(LDA|GGA|MGGA)_(XC|X|C)_")


class UnknownFunctional(LookupError):
    """Neither libxc nor PySCF has a functional of this name."""


@register_architecture("libxc", 1)
class Libxc(Functional):
    """A semilocal functional of libxc with its analytic derivatives. It has no parameters to train.

    Parameters
    ----------
    name : str
        Name in libxc ("gga_c_lyp", or "lyp" if it is unique), or PySCF's name of a pair ("BLYP"); upper or lower case,
        with "-" or "_".

    Raises
    ------
    UnknownFunctional
        If there is no such name; the message gives the closest match.
    ValueError
        If it needs more than the density, its gradient and tau (exact exchange, nonlocal correlation, a dispersion
        correction, the Laplacian), or if it is not an exchange-correlation energy of electrons in three dimensions.
    """

    closed_shell = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = _find(name)
        functional = libxc.XCFunctionalCache(self.name, spin=1)
        infos = [_interface().xc_func_get_info(pointer) for pointer in functional.xc_objs]
        kinds = {_KINDS[_interface().xc_func_info_get_kind(info)] for info in infos}
        flags = [_interface().xc_func_info_get_flags(info) for info in infos]
        _refuse(name, functional, kinds, flags)
        self.kind = kinds.pop() if len(kinds) == 1 else "xc"
        self.features = _FEATURES[functional.xc_type]

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return the energy per volume on each point, (n,) Hartree bohr^-3; see `Functional`.

        Raises
        ------
        NotImplementedError
            When a third derivative is taken.
        """
        nspin, npoints = features["density"].shape
        # (nspin, 1, 4 or 5, n) as PySCF takes them: spin channels, or the total of a closed shell
        rho = torch.cat([features[name].reshape(nspin, -1, npoints) for name in self.features], dim=1)
        rho = _cleaned(2 * rho if nspin == 1 else rho)
        variables = [rho[:, 0]]
        if "gradient" in self.features:
            pairs = combinations_with_replacement(rho[:, 1:4], 2)
            variables.append(torch.stack([(g * h).sum(0) for g, h in pairs]))
        if "tau" in self.features:
            variables.append(rho[:, 4])
        return _Energy.apply(self.name, rho.detach(), torch.cat(variables))

    def config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {"name": self.name.lower()}

    def extra_repr(self) -> str:
        """Return the name, for `repr`."""
        return repr(self.name.lower())


def libxc_names() -> list[str]:
    """Return the names that `Libxc` knows, in lower case, including those that it refuses."""
    return sorted({name.lower() for name in (*libxc.available_libxc_functionals(), *libxc.XC_CODES, *libxc.XC_ALIAS)})


class _Energy(torch.autograd.Function):
    """Energy per volume (n,) as a function of the variables (nvariables, n), which are computed from `rho`."""

    @staticmethod
    def forward(ctx: Any, name: str, rho: Tensor, variables: Tensor) -> Tensor:
        rows = _evaluate(name, rho, order=1 if ctx.needs_input_grad[2] else 0)
        ctx.name = name
        ctx.save_for_backward(rho, variables, rows[1:])
        return rows[0] * rho[:, 0].sum(0)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[None, None, Tensor]:
        return None, None, weight * _FirstDerivatives.apply(ctx.name, *ctx.saved_tensors)


class _FirstDerivatives(torch.autograd.Function):
    """First derivatives (nvariables, n), already known, as a function of the variables."""

    @staticmethod
    def forward(ctx: Any, name: str, rho: Tensor, variables: Tensor, derivatives: Tensor) -> Tensor:
        ctx.name = name
        ctx.save_for_backward(rho, variables)
        return derivatives.clone()

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[None, None, Tensor, None]:
        return None, None, _SecondDerivatives.apply(ctx.name, *ctx.saved_tensors, weights), None


class _SecondDerivatives(torch.autograd.Function):
    """Second derivatives times `weights`: (nvariables, n), as a function of the variables and the weights."""

    @staticmethod
    def forward(ctx: Any, name: str, rho: Tensor, variables: Tensor, weights: Tensor) -> Tensor:
        rows = _evaluate(name, rho, order=2)[1 + len(variables) :]
        product = torch.zeros_like(weights)
        for (i, j), row in zip(combinations_with_replacement(range(len(variables)), 2), rows):
            product[i] += row * weights[j]
            if i != j:
                product[j] += row * weights[i]
        return product

    @staticmethod
    def backward(ctx: Any, weights: Tensor) -> tuple[None, ...]:
        raise NotImplementedError("functionals of libxc have first and second derivatives, but no third derivatives")


def _evaluate(name: str, rho: Tensor, order: int) -> Tensor:
    """Rows (nrows, n) of energy and derivatives up to an order; zero where there is no density."""
    fields = rho.to("cpu", torch.float64).numpy()
    rows = libxc.eval_xc1(name, fields, spin=len(fields) - 1, deriv=order)
    rows[:, fields[:, 0].sum(0) <= DENSITY_THRESHOLD] = 0
    return torch.from_numpy(rows).to(rho)


def _cleaned(rho: Tensor) -> Tensor:
    """Variables (nspin, 1, 4 or 5, n) that libxc can read, unchanged wherever they are those of a density.

    Noise and mixed densities are not densities. In an empty channel gradient and tau are set to zero. Where tau is
    close to its bound tau_W = |grad n_s|^2 / 8 n_s or below it, it is replaced by a smooth function of it that stays
    above: there the potentials of TPSS and M06-L jump with rounding, down to -1e4 (a correlation of tau_W / tau has no
    limit where both are zero), and below the bound libxc would reduce the gradient and differentiate with respect to
    the reduced one.
    """
    density, rest = rho[:, :1], rho[:, 1:]
    filled = density > (0.5 * SPIN_THRESHOLD * density.sum(0)).clamp(min=0.5 * DENSITY_THRESHOLD)
    rho = torch.cat((density, rest * filled), dim=1)
    if rho.shape[1] < 5:
        return rho
    n, tau = rho[:, 0].clamp(min=0.5 * DENSITY_THRESHOLD), rho[:, 4]
    one_orbital = rho[:, 1:4].square().sum(1) / (8 * n)
    uniform = 0.3 * (3 * len(rho) * math.pi**2) ** (2 / 3) * n ** (5 / 3)
    alpha = (tau - one_orbital) / uniform
    # alpha from 2 a up, a + alpha^2 / 4 a down to zero, and a below
    floor = ALPHA_FLOOR + alpha.clamp(0.0, 2 * ALPHA_FLOOR).square() / (4 * ALPHA_FLOOR)
    raised = torch.where(alpha < 2 * ALPHA_FLOOR, one_orbital + uniform * floor, tau)
    return torch.cat((rho[:, :4], raised.unsqueeze(1)), dim=1)


@cache
def _interface() -> ctypes.CDLL:
    """Functions of libxc that PySCF does not wrap."""
    interface = lib.load_library("libxc_itrf")
    for function in ("xc_func_get_info", "xc_func_info_get_kind", "xc_func_info_get_flags"):
        getattr(interface, function).argtypes = (ctypes.c_void_p,)
    interface.xc_func_get_info.restype = ctypes.c_void_p
    return interface


def _find(name: str) -> str:
    """The name as PySCF writes it."""
    key = _key(name)
    if key in libxc.XC_ALIAS or key in libxc.XC_CODES or key == "HF":
        return key
    known = [full for full in libxc.available_libxc_functionals() if _WITHOUT_FAMILY.sub("", full) == key]
    if len(known) == 1:
        return known[0]
    if reasons := _named(key):
        raise _refusal(name, reasons)
    if known:
        listed = " or ".join(full.lower() for full in known)
        raise ValueError(f"{name!r} is ambiguous: write {listed}, or both joined by '+'")
    close = difflib.get_close_matches(name.lower(), libxc_names(), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise UnknownFunctional(f"libxc has no functional {name!r}{hint}")


def _key(name: str) -> str:
    return name.upper().replace("-", "_")


def _named(*keys: str) -> list[str]:
    """Reasons to refuse a functional that follow from its names."""
    return [reason for reason, pattern in _NAMED.items() if any(map(pattern.search, keys))]


def _refusal(name: str, reasons: Iterable[str]) -> ValueError:
    return ValueError(
        f"{name!r} {', '.join(reasons)}: a functional must be exchange and correlation of the density, its gradient "
        "and the kinetic energy density"
    )


def _refuse(name: str, functional: libxc.XCFunctionalCache, kinds: set[str], flags: list[int]) -> None:
    """Raise ValueError, with the reasons, if a functional is not a semilocal exchange-correlation energy."""
    reasons = {
        "is a kinetic energy": "k" in kinds,
        "is made for fewer than three dimensions": not all(flag & _IS_3D for flag in flags),
        "has a potential but no energy": not all(flag & _HAS_ENERGY for flag in flags),
        "has exact exchange": any((functional.hybrid_coeff, *functional.rsh_coeff[1:])),
        "is range-separated": functional.rsh_coeff[0] != 0,
        "has nonlocal (van der Waals) correlation": functional.is_nlc,
        "needs the Laplacian of the density": functional.needs_laplacian,
    }
    full = {number: key for key, number in libxc.available_libxc_functionals().items()}
    applying = [reason for reason, applies in reasons.items() if applies]
    applying += _named(_key(name), *(full[number] for number in functional.fn_ids))
    if applying:
        raise _refusal(name, dict.fromkeys(applying))
