"""Readers of published networks: downloaded files become functionals, with the fields of their cards.

Files are opened without running code from them. A file of tensors does not state the form in which its network was
fitted. For clones of conventional functionals it is determined by comparison: the right form reproduces the functional.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..xc import LDA, PBE, R2SCAN, SCAN, Functional, pbesol
from ..xc.composition import Sum
from ..xc.lda import Semilocal, slater
from ..xc.names import check_names
from ..xc.published_networks import Dpyscf, Nagai
from ..xc.reduced import features_at
from ..xc.spins import Spins
from .hybridxc_weights import read_hybridxc
from .weight_files import (
    DOUBLE,
    WeightFile,
    check_finite,
    check_tensors,
    digests,
    layer_widths,
    listed,
    read_content,
    sequential,
    uniform_gas_energy,
)

# Functionals that the networks of dpyscf were fitted to, by the number of inputs of exchange
_PARENTS: dict[int, dict[str, Semilocal]] = {
    1: {"PBE": PBE(), "PBEsol": pbesol()},
    2: {"SCAN": SCAN(), "r2SCAN": R2SCAN()},
}
# Forms of the networks, as its code was when they were fitted: pbe, pbesol and scan; r2scan; pbe_free
_FORMS: dict[str, tuple[dict[str, Any], ...]] = {
    "x": (
        {"gate": "linear"},
        {"gate": "linear", "eta": R2SCAN.eta},
        {"gate": None, "bound": None},
    ),
    "c": (
        {"gate": "tanh", "softplus": True},
        {"gate": "linear", "eta": R2SCAN.eta},
        {"gate": None, "softplus": True},
    ),
}
_BOUNDS = {1: 1.804, 2: 1.174, 3: 2.0, 4: 2.0}  # by the number of inputs
# Largest deviations of a clone: maximum of |dF_x|, mean of |d eps_c| in Hartree; and the ranges of the comparison
_LIMITS = {"x": 5e-3, "c": 2e-3}
_RS, _S, _ALPHA = (1.5, 4.0), (0.0, 2.0), (0.05, 5.0)
_PSEUDOS = "gth-pbe"


@dataclass(frozen=True)
class _Layout:
    """Names of the four layers in a file, possible numbers of inputs, and data type."""

    layers: tuple[str, ...]
    inputs: tuple[int, ...]
    dtype: torch.dtype

    @property
    def names(self) -> list[str]:
        """Names of the tensors: weight and bias of each layer."""
        return [f"{layer}.{kind}" for layer in self.layers for kind in ("weight", "bias")]


_LAYOUTS = {
    "dpyscf": _Layout(("net.0", "net.2", "net.4", "net.6"), (1, 2, 3, 4), torch.float64),
    "nagai": _Layout(("fc1", "fc2", "fc3", "fc4"), (2, 3, 4), torch.float32),
}


def import_weights(
    kind: str, paths: Sequence[Path], *, xc: str | None = None, activation: str | None = None
) -> tuple[Functional, dict[str, Any]]:
    """Return the functional of downloaded weights, and the fields of its card.

    Parameters
    ----------
    kind : {"dpyscf", "nagai", "hybridxc"}
        "dpyscf": a folder of `models/pretrained` in https://github.com/semodi/dpyscf (pbe, pbe_free, pbesol, scan,
        r2scan), or its files x and c. "nagai": one of the files NNLSDA, NNGGA, NNmGGA of
        https://github.com/ml-electron-project/NNfunctional. "hybridxc": the state dict of a `HybridXC` of an LDA that
        DeepChem has trained, in a file of torch.save or safetensors.
    paths : sequence of Path
        The files, or the folder.
    xc : str, optional
        For "hybridxc" only, and required there: names in libxc of the conventional functional, an LDA such as "lda_x"
        or "lda_x,lda_c_pw".
    activation : {"softplus", "expm1"}, optional
        For "hybridxc" only, and required there: activation of the last hidden layer.

    Returns
    -------
    Functional
        In double precision.
    dict
        description, text, parent, training (with the origin and the files), metrics, pseudos, licence, citation; see
        `ase_nnxc.checkpoints.save_functional`.

    Raises
    ------
    ValueError
        If a file is missing, cannot be opened without running code, does not have the layout of this kind, or does not
        reproduce one of the functionals that dpyscf was fitted to; or if xc or activation is wrong or missing.
    """
    readers = {"dpyscf": _dpyscf, "nagai": _nagai}
    (kind,) = check_names("kind of published weights", [kind], (*readers, "hybridxc"))
    paths = [Path(path) for path in paths]
    if kind == "hybridxc":
        return read_hybridxc(paths, xc, activation)
    if xc is not None or activation is not None:
        raise ValueError(f"xc and activation belong to the kind 'hybridxc'; files of kind {kind!r} do not need them")
    return readers[kind](paths)


def _dpyscf(paths: list[Path]) -> tuple[Functional, dict[str, Any]]:
    """The clone of a conventional functional, exchange plus correlation, and the fields of its card."""
    files = _exchange_and_correlation(paths)
    parents = _PARENTS[files[0].layers[0]]
    exchange, name = _clone(files[0], "x", parents)
    parent = parents[name]
    correlation, _ = _clone(files[1], "c", {name: parent})
    sizes = [sum(tensor.numel() for tensor in file.tensors.values()) for file in files]
    free = "" if exchange.gate else ", without the constraints of the uniform gas and of Lieb and Oxford"
    card = {
        "description": f"Clone of {name}: networks of {sizes[0]} (exchange) and {sizes[1]} (correlation) parameters"
        f"{free}.",
        "text": "The enhancement factors have no term s^2 at small gradients. In the published correlation up and down "
        "are not equivalent; here the majority is treated as up, as in its fit.",
        "parent": name,
        "licence": "BSD-3-Clause (according to setup.py; the repository has no licence file)",
        "citation": "S. Dick and M. Fernandez-Serra, Phys. Rev. B 104, L161109 (2021), https://doi.org/"
        "10.1103/PhysRevB.104.L161109",
        "training": {
            "data": f"enhancement factors of {name} on densities of atoms and molecules of G2/97 (PBE/6-311++G**)",
            **_provenance("https://github.com/semodi/dpyscf", files),
        },
        "metrics": _fidelity(exchange, correlation, parent),
        "pseudos": _PSEUDOS,
    }
    return Sum([(1.0, exchange), (1.0, correlation)]), card


def _exchange_and_correlation(paths: list[Path]) -> list[WeightFile]:
    """The networks of exchange and correlation in a folder of dpyscf, or in its two files in any order."""
    if len(paths) == 1 and not paths[0].is_file():
        paths = [paths[0] / "x", paths[0] / "c"]
    if len(paths) != 2:
        raise ValueError(f"dpyscf: expected a folder with the files x and c, or these two files, got {listed(paths)}")
    files = sorted((_read(path, "dpyscf") for path in paths), key=lambda file: file.layers[0])
    inputs = [file.layers[0] for file in files]
    if inputs not in ([1, 3], [2, 4]):
        raise ValueError(
            f"{listed(paths)}: networks with {inputs[0]} and {inputs[1]} inputs; "
            "exchange and correlation must have 1 and 3 (GGA) or 2 and 4 (meta-GGA)"
        )
    return files


def _nagai(paths: list[Path]) -> tuple[Functional, dict[str, Any]]:
    """One network of exchange and correlation, and the fields of its card."""
    if len(paths) != 1:
        raise ValueError(f"nagai: expected one file (NNLSDA, NNGGA or NNmGGA), got {listed(paths)}")
    file = _read(paths[0], "nagai")
    functional = Nagai(file.layers)
    functional.load_state_dict(file.tensors)
    gas, true_gas = uniform_gas_energy(functional), uniform_gas_energy(LDA())
    name = {2: "NN-LSDA", 3: "NN-GGA", 4: "NN-meta-GGA"}[file.layers[0]]
    card = {
        "description": f"{name}, an unconstrained network fitted to molecules; not for metals: no uniform-gas limit.",
        "text": f"For the uniform gas at rs = 2, eps_xc is {gas:.4f} Hartree instead of {true_gas:.4f}. The inputs are "
        "logarithms: the potential is steep where the gradient is small.",
        "parent": None,
        "licence": "MIT",
        "citation": "R. Nagai, R. Akashi and O. Sugino, npj Comput. Mater. 6, 43 (2020), https://doi.org/"
        "10.1038/s41524-020-0310-0",
        "training": {
            "data": "accurate all-electron densities and energies of a few molecules; see the citation",
            **_provenance("https://github.com/ml-electron-project/NNfunctional", [file]),
        },
        "metrics": {"eps_xc_uniform_gas_rs_2_hartree": gas, "eps_xc_pw92_rs_2_hartree": true_gas},
        "pseudos": _PSEUDOS,
    }
    return functional, card


def _read(path: Path, kind: str) -> WeightFile:
    """The network in a file in double precision; raise ValueError unless it has the layout of this kind."""
    content, sha256 = read_content(path)
    tensors = check_tensors(path, content)
    layout = _LAYOUTS[kind]
    if set(tensors) != set(layout.names):
        others = [other for other in _LAYOUTS if set(tensors) == set(_LAYOUTS[other].names)]
        hint = f"; they are those of kind {others[0]!r}" if others else f" ({', '.join(map(str, tensors)) or 'none'})"
        raise ValueError(f"{path}: its tensors are not those of kind {kind!r} ({', '.join(layout.names)}){hint}")
    wrong = [f"{name} {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype != layout.dtype]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)}; the published tensors are {layout.dtype}")
    in_order = [tensors[name] for name in layout.names]
    layers = layer_widths(path, in_order)
    if layers[0] not in layout.inputs:
        allowed = ", ".join(map(str, layout.inputs))
        raise ValueError(f"{path}: the network has {layers[0]} inputs; those of kind {kind!r} have {allowed}")
    check_finite(path, tensors)
    return WeightFile(path, sha256, sequential(in_order), layers)


def _clone(file: WeightFile, part: Literal["x", "c"], parents: Mapping[str, Semilocal]) -> tuple[Dpyscf, str]:
    """The network in the form that reproduces one of the parents best, and the name of that parent."""
    deviation, network, name = min(_candidates(file, part, parents), key=lambda candidate: candidate[0])
    if not deviation <= _LIMITS[part]:
        error = {"x": "F_x differs by up to", "c": "eps_c differs by a mean of"}[part]
        known = " or ".join(parents)
        raise ValueError(f"{file.path} is not a clone of {known}: {error} {deviation:.1g} from that of {name}")
    return network, name


def _candidates(
    file: WeightFile, part: Literal["x", "c"], parents: Mapping[str, Semilocal]
) -> Iterator[tuple[float, Dpyscf, str]]:
    """Compare every form with every parent: deviation, network, name of the parent."""
    for form in _FORMS[part]:
        network = Dpyscf(part, file.layers, **{"bound": _BOUNDS[file.layers[0]], **form})
        network.load_state_dict(file.tensors)
        for name, parent in parents.items():
            yield _deviation(network, parent), network, name


def _deviation(network: Dpyscf, parent: Semilocal, zeta: float = 0.0) -> float:
    """Largest |dF_x|, or mean |d eps_c| in Hartree, on a mesh of rs, s and alpha at one polarisation."""
    u = torch.linspace(0, 1, 81, **DOUBLE)
    axes = _RS[0] + (_RS[1] - _RS[0]) * u[::16], _S[1] * u, _ALPHA[0] * (_ALPHA[1] / _ALPHA[0]) ** u[::10]
    rs, s, alpha = (axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij"))
    features = features_at(3 / (4 * math.pi * rs**3), torch.full_like(rs, zeta), s, alpha)
    spins = Spins.of(features["density"])
    with torch.no_grad():
        if network.kind == "x":
            difference = network.exchange(spins, features) - parent.exchange(spins, features)
            return (difference / slater(spins)).abs().max().item()
        return (network.correlation(spins, features) - parent.correlation(spins, features)).abs().mean().item()


def _fidelity(exchange: Dpyscf, correlation: Dpyscf, parent: Semilocal) -> dict[str, Any]:
    """Deviations from the parent, for a card."""
    return {
        "rs": list(_RS),
        "s": list(_S),
        **({"alpha": list(_ALPHA)} if "tau" in exchange.features else {}),
        "F_x_max_error": _deviation(exchange, parent),
        "eps_c_mean_error_hartree": _deviation(correlation, parent),
        "eps_c_mean_error_zeta_0.5_hartree": _deviation(correlation, parent, 0.5),
    }


def _provenance(repository: str, files: Sequence[WeightFile]) -> dict[str, Any]:
    """The repository of files, with folder, name and SHA-256 of each."""
    return {"repository": repository, "sha256": digests(files)}
