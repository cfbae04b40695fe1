"""Penalties: losses of the functional itself, whatever the records are.

Any callable of a functional that returns a tensor () is a penalty. If a run has a folder, it must be a function at the
top level of a module or have a `config()`, so that a resumed run can be compared with the one before. The penalties
here use points that cover density, polarisation, reduced gradient s and iso-orbital indicator alpha, and enhancement
factors F = e / (n eps_x^LDA(n)) of the energy per volume e at the total density n.
"""

import math
from typing import Any

import numpy as np
import torch
from ase.calculators.calculator import InputError
from scipy.stats import qmc
from torch import Tensor

from ..xc import Functional, UnknownArchitecture
from ..xc.constraints import LIEB_OXFORD
from ..xc.features import require_features
from .clone import CloneError, part_of, uniform_exchange
from .identity import plain, registered_name
from .samples import FEATURES, Samples, mesh_points, sample_mesh
from .schema import weight as check_weight


class ParameterAnchor:
    """Penalty on changes of the trainable parameters from their present values: weight times mean (theta - theta_0)^2.

    Parameters
    ----------
    functional : Functional
        The functional with the parameters theta_0.
    weight : float
        Factor of the penalty, finite and not negative.
    """

    def __init__(self, functional: Functional, weight: float) -> None:
        check_weight(weight, "weight")
        self.weight = weight
        self.start = {n: p.detach().clone() for n, p in functional.named_parameters() if p.requires_grad}

    def config(self) -> dict[str, Any]:
        """Return the name and all settings as plain data; a run is resumed only if these are the same."""
        return {"name": registered_name(self, PENALTIES), "weight": self.weight, "start": plain(self.start)}

    def __call__(self, functional: Functional) -> Tensor:
        """Return the penalty ()."""
        moved = [(p - self.start[n]).flatten() for n, p in functional.named_parameters() if n in self.start]
        return self.weight * torch.cat(moved).square().mean()


class FunctionalAnchor:
    """Penalty on differences from another functional, point by point: weight times the mean of (F - F_parent)^2.

    Parameters
    ----------
    parent : Functional
        Functional of the same kind, with its present parameters.
    weight : float
        Factor of the penalty, finite and not negative.
    points : int
        Number of points of `sample_mesh`.
    """

    def __init__(self, parent: Functional, weight: float, points: int = 1024) -> None:
        check_weight(weight, "weight")
        self.weight, self.samples = weight, sample_mesh(points)
        with torch.no_grad():
            self.parent = _enhancement(parent, self.samples)

    def config(self) -> dict[str, Any]:
        """Return the name and all settings as plain data; a run is resumed only if these are the same."""
        return {
            "name": registered_name(self, PENALTIES),
            "weight": self.weight,
            "points": len(self.samples),
            "parent": plain(self.parent),
        }

    def __call__(self, functional: Functional) -> Tensor:
        """Return the penalty ()."""
        factors = _enhancement(functional, self.samples)
        return self.weight * (factors - self.parent.to(factors)).square().mean()


class Bounds:
    """Penalty on enhancement factors beyond their bounds: weight times the mean square of the excess.

    Exchange: 0 <= F_x <= 1.804 for each doubled spin channel. Correlation: 0 <= F_c, as its energy is not positive (J.
    P. Perdew, K. Burke and M. Ernzerhof, Phys. Rev. Lett. 77, 3865 (1996)). If a functional cannot be split, both
    together: 0 <= F_xc <= 2.273, the bound of E. H. Lieb and S. Oxford, Int. J. Quantum Chem. 19, 427 (1981), from
    which the bound of exchange follows.

    Parameters
    ----------
    weight : float
        Factor of the penalty, finite and not negative.
    points : int
        Number of points of `sample_mesh`.
    """

    def __init__(self, weight: float, points: int = 1024) -> None:
        check_weight(weight, "weight")
        self.weight, self.samples = weight, sample_mesh(points)

    def config(self) -> dict[str, Any]:
        """Return the name and all settings as plain data; a run is resumed only if these are the same."""
        return {"name": registered_name(self, PENALTIES), "weight": self.weight, "points": len(self.samples)}

    def __call__(self, functional: Functional) -> Tensor:
        """Return the penalty ()."""
        squares = []
        for part in _split(functional):
            factors = _enhancement(part, self.samples)
            above = factors - self._upper(part.kind).to(factors)
            squares.append(above.clamp(min=0).square() + factors.clamp(max=0).square())
        return self.weight * torch.stack(squares).sum(0).mean()

    def _upper(self, kind: str) -> Tensor:
        """Return the largest allowed enhancement factors, (n,) or ()."""
        if kind == "c":
            return torch.tensor(torch.inf, device="cpu")
        if kind == "xc":
            return torch.tensor(2 ** (1 / 3) * LIEB_OXFORD, device="cpu")
        shares = self.samples.density / self.samples.density.sum(0)
        # E_x[n_up, n_dn] = (E_x[2 n_up] + E_x[2 n_dn]) / 2
        return LIEB_OXFORD * 0.5 * (2 * shares).pow(4 / 3).sum(0)


class KernelSize:
    """Penalty on a large exchange-correlation kernel, which slows down the SCF: weight times the mean of r^2.

    r is the ratio of the kernel to that of Coulomb for a wave of the density in a gas where density n, gradient g and
    kinetic energy density are everywhere those of the point, averaged over the directions of the wave:

        r = K(q) / v_c(q),  K(q) = d^2e/dn^2 + q^2/3 sum_i d^2e/dg_i^2,  v_c(q) = 4 pi / q^2,  q = 2 k_F(n)

    r is -1 for the exchange of the LDA at any density. Its root mean square is about 1.1 for the LDA, 1.3 for PBE, 8
    for r2SCAN and 30 for SCAN. The number of SCF steps itself has no derivative. It depends on the eigenvalues of
    1 - chi0 (v_c + K), whose spread limits the mixing (M. F. Herbst and A. Levitt, J. Phys.: Condens. Matter 33, 085503
    (2021)); the functional enters through K. The penalty acts on average, not for each crystal.

    Parameters
    ----------
    weight : float
        Factor of the penalty, finite and not negative.
    points : int
        Number of points, in the range of valence electrons: r_s from 0.5 to 6 bohr, s up to 3, alpha up to 5.
    """

    def __init__(self, weight: float, points: int = 1024) -> None:
        check_weight(weight, "weight")
        self.weight, self.samples = weight, mesh_points(*_valence_variables(points))

    def config(self) -> dict[str, Any]:
        """Return the name and all settings as plain data; a run is resumed only if these are the same."""
        return {"name": registered_name(self, PENALTIES), "weight": self.weight, "points": len(self.samples)}

    def __call__(self, functional: Functional) -> Tensor:
        """Return the penalty ()."""
        return self.weight * self.ratios(functional).square().mean()

    def ratios(self, functional: Functional) -> Tensor:
        """Return r (n,), with a graph for the gradient by the parameters of the functional."""
        features = _features(functional, self.samples)
        density, slope = features["density"].sum(0), features["gradient"].sum(0)[2]  # the gradient is along z
        share = features["density"] / density
        waves = torch.zeros(2, len(density), dtype=density.dtype, device=density.device, requires_grad=True)
        change, steeper = waves.unbind()
        gradient = torch.nn.functional.pad((share * (slope + steeper))[:, None], (0, 0, 2, 0))
        energy = functional({"density": share * (density + change), "gradient": gradient, "tau": features["tau"]})
        (first,) = torch.autograd.grad(energy.sum(), waves, create_graph=True)
        by_density, along = (torch.autograd.grad(d.sum(), waves, create_graph=True)[0][i] for i, d in enumerate(first))
        q2 = 4 * (3 * math.pi**2 * density) ** (2 / 3)
        # e depends on |g| only: across g its second derivative is (de/dg) / g
        return (by_density + q2 / 3 * (along + 2 * first[1] / slope)) * q2 / (4 * math.pi)


class _OnValencePoints:
    """A penalty on variables of the enhancement factor in the range of valence electrons."""

    def __init__(self, weight: float, points: int = 1024) -> None:
        check_weight(weight, "weight")
        self.weight, self.variables = weight, _valence_variables(points)

    def config(self) -> dict[str, Any]:
        """Return the name and all settings as plain data; a run is resumed only if these are the same."""
        return {"name": registered_name(self, PENALTIES), "weight": self.weight, "points": self.variables.shape[1]}


class Roughness(_OnValencePoints):
    """Penalty on curvature of the enhancement factor: weight times the mean of (d^2F/ds^2)^2 + (d^2F/dalpha^2)^2.

    F has the total density, reduced gradient s and iso-orbital indicator alpha as variables. Functionals that change
    quickly with these need fine grids and many SCF steps.

    Parameters
    ----------
    weight : float
        Factor of the penalty, finite and not negative.
    points : int
        Number of points, in the range of valence electrons as for `KernelSize`.
    """

    def __call__(self, functional: Functional) -> Tensor:
        """Return the penalty ()."""
        rs, zeta, s, alpha = self.variables.to(_device(functional)).clone()
        variables = {"gradient": s.requires_grad_(), "tau": alpha.requires_grad_()}
        factors = _enhancement(functional, mesh_points(rs, zeta, s, alpha))
        read = [variables[feature] for feature in functional.features if feature in variables]
        curvatures = [_derivative(_derivative(factors, variable), variable).square().mean() for variable in read]
        return self.weight * sum(curvatures, torch.zeros_like(rs[0]))


class LocalConditions(_OnValencePoints):
    """Penalty on violations of exact conditions on each point: weight times the sum of their mean squares.

    The conditions on F_c(rs) at fixed zeta, s and alpha are those of R. Pederson and K. Burke, J. Chem. Phys. 159,
    214113 (2023), which hold for the energies of all densities if they hold on each point:

        F_c >= 0,  dF_c/drs >= 0,  d(rs^2 dF_c/drs)/drs >= 0,  rs dF_c/drs <= F_c,  F_xc + rs dF_c/drs <= 2.273

    Parameters
    ----------
    weight : float
        Factor of the penalty, finite and not negative.
    points : int
        Number of points, in the range of valence electrons as for `KernelSize`.
    """

    def __call__(self, functional: Functional) -> Tensor:
        """Return the penalty ()."""
        return self.weight * self.excess(functional).square().mean(1).sum()

    def excess(self, functional: Functional) -> Tensor:
        """Return by how much each condition is violated on each point, (5, n), zero where it holds.

        Raises
        ------
        InputError
            If the functional cannot be split into exchange and correlation.
        """
        if functional.kind != "xc" or len(parts := _split(functional)) != 2:
            raise InputError(f"{type(functional).__name__} has no separate correlation, which local conditions need")
        rs, *others = self.variables.to(_device(functional)).clone()
        points = mesh_points(rs.requires_grad_(), *others)
        exchange, correlation = (_enhancement(part, points) for part in parts)
        slope = _derivative(correlation, rs)
        concavity = _derivative(rs.square() * slope, rs)
        bound = 2 ** (1 / 3) * LIEB_OXFORD
        held = (correlation, slope, concavity, correlation - rs * slope, bound - exchange - correlation - rs * slope)
        return (-torch.stack(held)).clamp(min=0)


PENALTIES: dict[str, type] = {
    "parameter_anchor": ParameterAnchor,
    "functional_anchor": FunctionalAnchor,
    "bounds": Bounds,
    "kernel_size": KernelSize,
    "roughness": Roughness,
    "local_conditions": LocalConditions,
}
"""Penalties by their names in configurations."""


def _valence_variables(count: int) -> Tensor:
    """Return rs, zeta, s and alpha (4, count) in the range of valence electrons."""
    sequence = qmc.Sobol(4, rng=np.random.default_rng(0)).random_base2(math.ceil(math.log2(count)))
    u = torch.from_numpy(sequence[:count].T.copy())
    return torch.stack((0.5 * 12 ** u[0], torch.where(u[1] < 0.5, 0.0, 4 * u[1] - 3), 3 * u[2], 5 * u[3]))


def _features(functional: Functional, samples: Samples) -> dict[str, Tensor]:
    """Return the features of the points, on the device of the functional."""
    require_features(functional.features, FEATURES, type(functional).__name__, "a set of samples")
    return {name: feature.to(_device(functional)) for name, feature in samples.features.items()}


def _device(functional: Functional) -> torch.device:
    return next((tensor.device for tensor in functional.state_dict().values()), torch.device("cpu"))


def _derivative(values: Tensor, leaf: Tensor) -> Tensor:
    """Return the derivative (n,) of the value on each point by a variable (n,) of that point, with a graph."""
    return torch.autograd.grad(values.sum(), leaf, create_graph=True)[0]


def _enhancement(functional: Functional, samples: Samples) -> Tensor:
    """Return F (n,) on the points."""
    features = _features(functional, samples)
    return functional(features) / uniform_exchange(features["density"])


def _split(functional: Functional) -> list[Functional]:
    """Return exchange and correlation if a functional of both can be split, else the whole functional."""
    if functional.kind == "correction":
        raise InputError(f"{type(functional).__name__} is a correction, for which no bounds are known")
    if functional.kind != "xc":
        return [functional]
    try:
        return [part_of(functional, "x"), part_of(functional, "c")]
    except (CloneError, UnknownArchitecture):
        return [functional]
