"""Readers of published networks: downloaded files become functionals, with the fields of their cards.

Files are opened without running code from them. A file of tensors does not state the form in which its network was
fitted. For clones of conventional functionals it is determined by comparison: the right form reproduces the functional.
"""

import hashlib
import io
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..regular_files import read_regular_file
from ..xc import LDA, PBE, R2SCAN, SCAN, Functional, pbesol
from ..xc.composition import Sum
from ..xc.lda import Semilocal, slater
from ..xc.names import check_names
from ..xc.published_networks import Dpyscf, Nagai
from ..xc.reduced import features_at
from ..xc.spins import Spins, spin_sum

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
_LARGEST = 2**24  # bytes of a file, also unpacked; the published ones have less than 2**18
_DOUBLE: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}


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


@dataclass(frozen=True)
class _File:
    """A network that was read: its tensors, named as in `published_networks`, and the widths of its layers."""

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    layers: tuple[int, ...]


def import_weights(kind: str, paths: Sequence[Path]) -> tuple[Functional, dict[str, Any]]:
    """Return the functional of downloaded weights, and the fields of its card.

    Parameters
    ----------
    kind : {"dpyscf", "nagai"}
        "dpyscf": a folder of `models/pretrained` in https://github.com/semodi/dpyscf (pbe, pbe_free, pbesol, scan,
        r2scan), or its files x and c. "nagai": one of the files NNLSDA, NNGGA, NNmGGA of
        https://github.com/ml-electron-project/NNfunctional.
    paths : sequence of Path
        The files, or the folder.

    Returns
    -------
    Functional
        In double precision.
    dict
        description, text, parent, training (with repository and files), metrics, pseudos, licence, citation; see
        `ase_nnxc.checkpoints.save_functional`.

    Raises
    ------
    ValueError
        If a file is missing, cannot be opened without running code, does not have the layout of this kind, or does not
        reproduce one of the functionals that dpyscf was fitted to.
    """
    readers = {"dpyscf": _dpyscf, "nagai": _nagai}
    (kind,) = check_names("kind of published weights", [kind], readers)
    functional, card = readers[kind]([Path(path) for path in paths])
    return functional, {**card, "pseudos": "gth-pbe"}


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
    }
    return Sum([(1.0, exchange), (1.0, correlation)]), card


def _exchange_and_correlation(paths: list[Path]) -> list[_File]:
    """The networks of exchange and correlation in a folder of dpyscf, or in its two files in any order."""
    if len(paths) == 1 and not paths[0].is_file():
        paths = [paths[0] / "x", paths[0] / "c"]
    if len(paths) != 2:
        raise ValueError(f"dpyscf: expected a folder with the files x and c, or these two files, got {_list(paths)}")
    files = sorted((_read(path, "dpyscf") for path in paths), key=lambda file: file.layers[0])
    inputs = [file.layers[0] for file in files]
    if inputs not in ([1, 3], [2, 4]):
        raise ValueError(
            f"{_list(paths)}: networks with {inputs[0]} and {inputs[1]} inputs; "
            "exchange and correlation must have 1 and 3 (GGA) or 2 and 4 (meta-GGA)"
        )
    return files


def _nagai(paths: list[Path]) -> tuple[Functional, dict[str, Any]]:
    """One network of exchange and correlation, and the fields of its card."""
    if len(paths) != 1:
        raise ValueError(f"nagai: expected one file (NNLSDA, NNGGA or NNmGGA), got {_list(paths)}")
    file = _read(paths[0], "nagai")
    functional = Nagai(file.layers)
    functional.load_state_dict(file.tensors)
    gas, true_gas = _uniform_gas(functional), _uniform_gas(LDA())
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
    }
    return functional, card


def _read(path: Path, kind: str) -> _File:
    """The network in a file in double precision; raise ValueError unless it has the layout of this kind."""
    try:
        data = read_regular_file(path, _LARGEST)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    tensors = _load(path, data)
    layout = _LAYOUTS[kind]
    if set(tensors) != set(layout.names):
        others = [other for other in _LAYOUTS if set(tensors) == set(_LAYOUTS[other].names)]
        hint = f"; they are those of kind {others[0]!r}" if others else f" ({', '.join(map(str, tensors)) or 'none'})"
        raise ValueError(f"{path}: its tensors are not those of kind {kind!r} ({', '.join(layout.names)}){hint}")
    wrong = [f"{name} {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype != layout.dtype]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)}; the published tensors are {layout.dtype}")
    _check_storage(path, tensors)
    layers = _widths(path, [tensors[name] for name in layout.names])
    if layers[0] not in layout.inputs:
        allowed = ", ".join(map(str, layout.inputs))
        raise ValueError(f"{path}: the network has {layers[0]} inputs; those of kind {kind!r} have {allowed}")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError(f"{path}: some weights are not finite numbers")
    # in a torch.nn.Sequential every second module is an activation
    names = [f"net.{2 * i}.{kind}" for i in range(len(layout.layers)) for kind in ("weight", "bias")]
    renamed = {new: tensors[old].to(torch.float64) for new, old in zip(names, layout.names)}
    return _File(path, hashlib.sha256(data).hexdigest(), renamed, layers)


def _load(path: Path, data: bytes) -> dict[str, Tensor]:
    """The tensors in a file of torch.save, opened without running code."""
    _check_archive(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for bytes of another format
        raise ValueError(f"{path} is damaged, is not a file of tensors, or runs code when it is opened") from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{path} does not hold a dict of tensors by name (state dict)")
    return content


def _check_archive(path: Path, data: bytes) -> None:
    """Raise ValueError if a zip archive, the format of torch.save, is damaged, or larger when it is unpacked."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return  # the older format of torch.save, or damaged: torch.load finds out
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > _LARGEST:
                raise ValueError(f"it has {size} bytes when it is unpacked, more than the limit {_LARGEST}")
            damaged = archive.testzip()  # torch.load does not compare the checksums
    except (zipfile.BadZipFile, zlib.error, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is damaged, or not a file of tensors: {error}") from error
    if damaged:
        raise ValueError(f"{path} is damaged: {damaged} in it does not have its checksum")


def _check_storage(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless each tensor is dense, in memory, and has no more elements than its storage."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else f"{tensor.layout} on the device {tensor.device}"
            raise ValueError(f"{path}: the tensor {name} is {kind}, expected a dense tensor with its numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"{path}: the tensor {name} has {tensor.numel()} elements, more than its storage of "
                f"{tensor.untyped_storage().nbytes()} bytes holds"
            )


def _widths(path: Path, tensors: list[Tensor]) -> tuple[int, ...]:
    """Numbers of inputs, hidden units and outputs of layers given as weight, bias, weight, bias ..."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    widths = [math.prod(shapes[0][1:]), *(math.prod(shape) for shape in shapes[1::2])]
    expected = [shape for a, b in pairwise(widths) for shape in ((b, a), (b,))]
    if shapes != expected or widths[-1] != 1:
        raise ValueError(f"{path}: tensors of shapes {', '.join(map(str, shapes))} are not a network with one output")
    return tuple(widths)


def _clone(file: _File, part: Literal["x", "c"], parents: Mapping[str, Semilocal]) -> tuple[Dpyscf, str]:
    """The network in the form that reproduces one of the parents best, and the name of that parent."""
    deviation, network, name = min(_candidates(file, part, parents), key=lambda candidate: candidate[0])
    if not deviation <= _LIMITS[part]:
        error = {"x": "F_x differs by up to", "c": "eps_c differs by a mean of"}[part]
        known = " or ".join(parents)
        raise ValueError(f"{file.path} is not a clone of {known}: {error} {deviation:.1g} from that of {name}")
    return network, name


def _candidates(
    file: _File, part: Literal["x", "c"], parents: Mapping[str, Semilocal]
) -> Iterator[tuple[float, Dpyscf, str]]:
    """Compare every form with every parent: deviation, network, name of the parent."""
    for form in _FORMS[part]:
        network = Dpyscf(part, file.layers, **{"bound": _BOUNDS[file.layers[0]], **form})
        network.load_state_dict(file.tensors)
        for name, parent in parents.items():
            yield _deviation(network, parent), network, name


def _deviation(network: Dpyscf, parent: Semilocal, zeta: float = 0.0) -> float:
    """Largest |dF_x|, or mean |d eps_c| in Hartree, on a mesh of rs, s and alpha at one polarisation."""
    u = torch.linspace(0, 1, 81, **_DOUBLE)
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


def _uniform_gas(functional: Functional) -> float:
    """eps_xc of the unpolarised uniform gas at rs = 2, Hartree."""
    zero, one = torch.tensor([[0.0], [1.0]], **_DOUBLE)
    features = features_at(3 / (4 * math.pi * 2**3) * one, zero, zero, one)
    with torch.no_grad():
        return (functional(features) / spin_sum(features["density"])).item()


def _provenance(repository: str, files: Sequence[_File]) -> dict[str, Any]:
    """The repository of files, with folder, name and SHA-256 of each."""
    names = ["/".join(file.path.absolute().parts[-2:]) for file in files]
    return {"repository": repository, "sha256": {name: file.sha256 for name, file in zip(names, files)}}


def _list(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths)) or "nothing"
