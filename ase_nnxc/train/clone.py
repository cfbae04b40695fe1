"""Cloning: a network is fitted, point by point, to a known functional.

The loss is a weighted mean over points of space of the dimensionless errors of the energy density e and of its
derivatives. With e_0 = n eps_x^LDA(n), the exchange energy density of the unpolarised uniform gas, and weights w
proportional to |e_0| times volume (see `samples`),

    L = sum_i w_i {(de_i / e_0)^2 + p (D_i de / e_0)^2} + q mean_S (sum_{i in S} w_i de_i / e_0 / sum_{i in S} w_i)^2

where de is network minus parent and D_i is the derivative along one random direction in the space of ln n, s and alpha
of both spins: the random projection of W. M. Czarnecki et al., Sobolev training for neural networks, NeurIPS (2017),
which fits the potential at little cost. The last term is the relative error of the energy of each system S, which the
errors of the points alone do not bound.

Networks of some hundred parameters are fitted by the method of Levenberg and Marquardt.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, vmap

from .._moved import renamed
from ..xc import NNGGA, NNLDA, NNMGGA, Functional, NeuralCorrelation, NeuralExchange, Sum, build, describe
from ..xc.features import require_features
from .levenberg_marquardt import levenberg_marquardt
from .samples import FEATURES, Samples

UNIFORM_EXCHANGE = -0.75 * (3 / math.pi) ** (1 / 3)
CHUNK = 1024  # points whose derivatives by all parameters are in memory at the same time


class CloneError(ValueError):
    """A functional does not have the parts or the variables that a clone needs, or there are too few points."""


@dataclass(frozen=True)
class CloneSettings:
    """Settings of a fit.

    Attributes
    ----------
    steps : int
        Largest number of Levenberg-Marquardt steps for each network.
    potential, systems : float
        Weights p and q of the loss.
    validation : float
        Share of the points that are not fitted; the parameters with the lowest loss on these are kept.
    seed : int
        Seed of the random directions and of the choice of validation points.
    """

    steps: int = 300
    potential: float = 0.1
    systems: float = 1.0
    validation: float = 0.1
    seed: int = 0


def clone(
    functional: Functional, parent: Functional, samples: Samples, settings: CloneSettings | None = None
) -> dict[str, Any]:
    """Fit the trainable parameters of a functional, in place, to a parent.

    The parts of a `Sum` are fitted one by one: exchange to the parent's exchange, correlation to its correlation.

    Parameters
    ----------
    functional : Functional
        The network to fit, on the CPU.
    parent : Functional
        A functional of the same kind.
    samples : Samples
        The points.
    settings : CloneSettings, optional
        Settings of the fit.

    Returns
    -------
    dict
        Plain data for a card: settings, digest of the samples, and for each part the losses and seconds.

    Raises
    ------
    CloneError
        If a part of the functional has no counterpart in the parent, or the points do not determine the parameters.
    ValueError
        If one of the two functionals reads a feature that samples do not have.
    """
    for one in (functional, parent):
        require_features(one.features, FEATURES, type(one).__name__, "a set of samples")
    settings = settings or CloneSettings()
    pairs = counterparts(functional, parent)
    fits = {part.kind: _fit(part, parent_part, samples, settings) for part, parent_part in pairs}
    return {"settings": asdict(settings), "points": len(samples), "samples_sha256": samples.digest, "fits": fits}


def counterparts(functional: Functional, parent: Functional) -> list[tuple[Functional, Functional]]:
    """Return the parts of a functional, each with the part of the parent of the same kind."""
    parts = list(functional.parts) if isinstance(functional, Sum) else [functional]
    return [(part, part_of(parent, part.kind)) for part in parts]


def part_of(parent: Functional, kind: str) -> Functional:
    """Return exchange ("x"), correlation ("c") or all ("xc") of a functional, with the same parameters.

    Raises
    ------
    CloneError
        If the functional has no such part.
    """
    if parent.kind == kind:
        return parent
    if isinstance(parent, Sum):
        terms = [term for term in zip(parent.coefficients, parent.parts) if term[1].kind in (kind, "xc", "correction")]
        return Sum([(coefficient, part_of(part, kind)) for coefficient, part in terms])
    description = describe(parent)
    if parent.kind != "xc" or "part" not in description["config"]:
        raise CloneError(f"{type(parent).__name__} of kind {parent.kind!r} has no part of kind {kind!r}")
    part = build(description | {"config": description["config"] | {"part": kind}})
    for name, parameter in parent.named_parameters():
        module, _, attribute = name.rpartition(".")
        part.get_submodule(module).register_parameter(attribute, parameter)
    return part


def new_network(
    parent: Functional, network: Literal["constrained", "mlp"], seed: int, anchored: bool = False
) -> Functional:
    """Return an untrained network with the features of a parent and, unless it is anchored, no other property of it.

    Parameters
    ----------
    parent : Functional
        LDA, GGA or meta-GGA.
    network : {"constrained", "mlp"}
        `NeuralExchange` and `NeuralCorrelation` with their default constraints and a trainable mu, or one unconstrained
        network of bounded inputs.
    seed : int
        Seed of the random weights.
    anchored : bool
        Whether a constrained network begins as the parent, of the PBE or SCAN form: its enhancement factors are those
        of the parent plus those of the network, whose last layer begins with zeros. mu is then that of the parent.

    Raises
    ------
    CloneError
        If `network` is "constrained" and the parent has no gradient, which the constraints need.
    ValueError
        If the network cannot be anchored to the parent.
    """
    rung = len(parent.features)
    if network == "mlp":
        return (NNLDA, NNGGA, NNMGGA)[rung - 1](widths=(24, 24), activation="tanh", seed=seed)
    if rung == 1:
        raise CloneError("the constraints need the gradient, which this parent does not use: clone it with an mlp")
    alpha = ("alpha/(1+alpha)", "log(1+alpha)") if "tau" in parent.features else ()
    hidden: dict[str, Any] = {"widths": (20, 20) if alpha else (16, 16), "activation": "tanh", "seed": seed}
    if anchored:
        hidden["parent"] = describe(parent)
    exchange = NeuralExchange(("s2/(1+s2)", "log(1+s2)", *alpha), trainable_mu=not anchored, **hidden)
    correlation = NeuralCorrelation(("rs/(1+rs)", "log(1+rs)", "zeta2", "t2/(1+t2)", *alpha), **hidden)
    return Sum([(1.0, exchange), (1.0, correlation)])


def uniform_exchange(density: Tensor) -> Tensor:
    """Return n eps_x^LDA(n) (n,), Hartree bohr^-3, at the total density of spin densities (2, n), bohr^-3."""
    return UNIFORM_EXCHANGE * density.sum(0) ** (4 / 3)


# ---- the fit -------------------------------------------------------------------------------------------------------


def _fit(functional: Functional, parent: Functional, samples: Samples, settings: CloneSettings) -> dict[str, Any]:
    """Fit a functional to a parent of the same kind; return sizes, losses and time."""
    clock = time.perf_counter()
    generator = torch.Generator(device="cpu").manual_seed(settings.seed)
    order = torch.randperm(len(samples), generator=generator, device="cpu")
    count = max(1, round(settings.validation * len(samples)))
    validation, training = (
        _Residuals(functional, parent, samples.select(index), settings, generator)
        for index in (order[:count], order[count:])
    )
    try:
        theta, steps = levenberg_marquardt(
            training, training.start(), settings.steps, f"fit of {functional.kind}", validation.loss
        )
    except torch.linalg.LinAlgError as error:
        raise CloneError(f"{len(samples)} points do not determine the parameters: use more") from error
    training.set(theta)
    return {
        "parameters": len(theta),
        "steps": steps,
        "training_loss": training.loss(theta),
        "validation_loss": validation.loss(theta),
        "seconds": round(time.perf_counter() - clock, 1),
    }


class _Residuals:
    """Residuals, whose squares add up to the loss, as functions of the trainable parameters theta (p,).

    For each point w^(1/2) de / e_0 and (w p)^(1/2) D de / e_0; for each system (q / systems)^(1/2) dE / E.
    """

    def __init__(
        self,
        functional: Functional,
        parent: Functional,
        samples: Samples,
        settings: CloneSettings,
        generator: torch.Generator,
    ) -> None:
        self.functional = functional
        self.parameters = {name: p for name, p in functional.named_parameters() if p.requires_grad}
        directions = random_directions(samples, generator)
        uniform = uniform_exchange(samples.density)
        target = energy_along(parent, samples.features, directions)
        # arguments of `errors`, with the points as the last axis of each
        self.points = (*samples.features.values(), *directions.values(), target, uniform)
        self.scale = torch.stack((samples.weights, settings.potential * samples.weights)).sqrt()
        self.systems = _system_averages(samples) * math.sqrt(settings.systems)

    def start(self) -> Tensor:
        """Return the present parameters (p,)."""
        return torch.cat([p.detach().flatten() for p in self.parameters.values()])

    def set(self, theta: Tensor) -> None:
        """Set the parameters of the functional."""
        with torch.no_grad():
            for name, value in self.named(theta).items():
                self.parameters[name].copy_(value)

    def named(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the parameters by their names."""
        parts = theta.split([p.numel() for p in self.parameters.values()])
        return {name: part.view(p.shape) for part, (name, p) in zip(parts, self.parameters.items())}

    def errors(self, theta: Tensor, points: tuple[Tensor, ...]) -> Tensor:
        """Return de / e_0 and D de / e_0 (2, n) of some of the points."""
        *arguments, target, uniform = points
        features, directions = arguments[:3], arguments[3:]

        def total(*features: Tensor) -> tuple[Tensor, Tensor]:
            energy = functional_call(self.functional, self.named(theta), (dict(zip(FEATURES, features)),))
            return energy.sum(), energy

        slopes, energy = grad(total, (0, 1, 2), has_aux=True)(*features)
        return (torch.stack((energy, _along(slopes, directions))) - target) / uniform

    def jacobian(self, theta: Tensor, points: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return `errors` (2, n) of some of the points and their derivatives (2, n, p)."""

        def of_point(theta: Tensor, point: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            errors = self.errors(theta, tuple(x.unsqueeze(-1) for x in point)).squeeze(-1)
            return errors, errors

        slopes, errors = vmap(jacrev(of_point, has_aux=True), (None, -1), 1)(theta, points)
        return errors, slopes

    def loss(self, theta: Tensor) -> float:
        """Return the sum of the squared residuals."""
        with torch.no_grad():
            errors = self.errors(theta, self.points)
        return float((self.scale * errors).square().sum() + (self.systems @ errors[0]).square().sum())

    def normal_equations(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return J^T r (p,) and J^T J (p, p) of all residuals r and their derivatives J."""
        gradient, hessian = torch.zeros_like(theta), theta.new_zeros(len(theta), len(theta))
        system_errors = theta.new_zeros(len(self.systems))
        system_slopes = theta.new_zeros(len(self.systems), len(theta))
        for start in range(0, self.scale.shape[1], CHUNK):
            part = slice(start, start + CHUNK)
            errors, slopes = self.jacobian(theta, tuple(x[..., part] for x in self.points))
            scale, averages = self.scale[:, part], self.systems[:, part]
            system_errors += averages @ errors[0]
            system_slopes += averages @ slopes[0]
            rows = (scale[..., None] * slopes).flatten(0, 1)
            gradient += (scale * errors).flatten() @ rows
            hessian += rows.mT @ rows
        return gradient + system_errors @ system_slopes, hessian + system_slopes.mT @ system_slopes


def energy_along(functional: Functional, features: dict[str, Tensor], directions: dict[str, Tensor]) -> Tensor:
    """Return the energy per volume, Hartree bohr^-3, and its derivative along directions like the features, (2, n)."""
    leaves = {name: feature.detach().requires_grad_() for name, feature in features.items()}
    with torch.enable_grad():
        energy = functional(leaves)
        slopes = torch.autograd.grad(energy.sum(), [leaves[name] for name in functional.features])
    return torch.stack((energy.detach(), _along(slopes, [directions[name] for name in functional.features])))


def _along(slopes: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    """Return the sum of the scalar products (n,) of derivatives (..., n) with directions of the same shapes."""
    return torch.stack([(s * d).flatten(0, -2).sum(0) for s, d in zip(slopes, directions)]).sum(0)


def random_directions(samples: Samples, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a random direction for each point, like its features: random changes of ln n, s and alpha of both spins.

    With q = grad n / (2 k_F n), k_F = (6 pi^2 n)^(1/3), and changes dq and dalpha, all for one spin:

        dn = n dln(n),  dgrad = 4/3 grad n dln(n) + 2 k_F n dq,
        dtau = dtau_W + 5/3 (tau - tau_W) dln(n) + 3/10 k_F^2 n dalpha,  tau_W = grad^2 / (8 n)
    """

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)

    n, gradient, tau = samples.density.clamp(min=0), samples.gradient, samples.tau
    fermi = (6 * math.pi**2 * n) ** (1 / 3)
    ln_n = normal(n)
    d_gradient = 4 / 3 * gradient * ln_n[:, None] + (2 * fermi * n)[:, None] * normal(gradient)
    eighth = 1 / (8 * n.clamp(min=torch.finfo(n.dtype).tiny))
    tau_w = gradient.square().sum(1) * eighth
    d_tau_w = 2 * (gradient * d_gradient).sum(1) * eighth - tau_w * ln_n
    d_tau = d_tau_w + 5 / 3 * (tau - tau_w) * ln_n + 0.3 * fermi**2 * n * normal(tau)
    return {"density": n * ln_n, "gradient": d_gradient, "tau": d_tau}


def _system_averages(samples: Samples) -> Tensor:
    """Return the matrix A (systems, n): |A errors|^2 is the mean over systems of the square of their mean error."""
    index = torch.arange(len(samples.systems), device=samples.system.device)
    weights = torch.where(samples.system == index[:, None], samples.weights, 0.0)
    total = weights.sum(1, keepdim=True)
    present = total[:, 0] > 0
    return weights[present] / total[present] / math.sqrt(max(1, int(present.sum())))


__getattr__ = renamed(__name__, {"Settings": "ase_nnxc.train.clone:CloneSettings"})
