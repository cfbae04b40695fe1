"""The reader of functionals that DeepChem has trained: the state dict of its HybridXC of an LDA.

Such a functional is aweight * n N(n, zeta) + bweight * e_LDA. A file contains the two weights and the network N. It
contains neither the name of the LDA nor the activations, which the user states.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..xc import LDA, DeepChemLDA, Functional, HybridXC
from ..xc.composition import Sum
from ..xc.names import check_names
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

ACTIVATIONS = ("softplus", "expm1")
"""Activations of the last hidden layer, DeepChem's types 1 and 2 of networks."""

# Functionals of this package with the numbers of libxc: arguments of LDA by name. lda_c_pw has other digits than ours.
_OURS: dict[str, dict[str, Any]] = {
    "lda_x": {"part": "x"},
    "lda_c_pw_mod": {"correlation": "pw92", "part": "c"},
    "lda_c_pz": {"correlation": "pz81", "part": "c"},
    "lda_c_vwn": {"correlation": "vwn", "part": "c"},
}
_WEIGHTS = ("aweight", "bweight")
_LAYER = re.compile(r"nnxc\.nnmodel\.(0|[1-9][0-9]{0,3})\.(weight|bias)")
_TYPES = (torch.float32, torch.float64)


def read_hybridxc(paths: Sequence[Path], xc: str | None, activation: str | None) -> tuple[Functional, dict[str, Any]]:
    """Return the functional of a HybridXC of DeepChem, and the fields of its card; see `import_weights`.

    Raises
    ------
    ValueError
        If xc or activation is missing or wrong, or if the file is not the state dict of a HybridXC of an LDA whose
        network acts.
    """
    conventional = _conventional(xc)
    if activation is None:
        raise ValueError(
            "hybridxc: the file does not contain the activation of the last hidden layer: state activation as "
            "'softplus' (DeepChem's type 1 of networks) or 'expm1' (type 2)"
        )
    check_names("activation", [activation], ACTIVATIONS)
    if len(paths) != 1:
        raise ValueError(f"hybridxc: expected one file, the state dict of a HybridXC, got {listed(paths)}")
    file, a, b = _read(paths[0])
    network = DeepChemLDA(file.layers[1:-1], "expm1" if activation == "expm1" else "softplus")
    network.load_state_dict(file.tensors)
    functional = HybridXC(network, conventional, a, b)
    name = "+".join(_names(xc))
    card = {
        "description": f"{a:.6g} times a network that DeepChem has trained, plus {b:.6g} times {name}.",
        "text": f"The conventional functional ({name}) and the activation of the last hidden layer ({activation}) are "
        "not in the file: they were stated at the import. DeepChem's network reads the polarisation with its sign; "
        "here it treats the majority at each point as up. It has no constraints: use it for systems like those of its "
        "training.",
        "parent": name if conventional.kind == "xc" else None,
        "training": {"program": "DeepChem, HybridXC", "xc": name, "activation": activation, "sha256": digests([file])},
        "metrics": {
            "eps_xc_uniform_gas_rs_2_hartree": uniform_gas_energy(functional),
            "eps_xc_pw92_rs_2_hartree": uniform_gas_energy(LDA()),
        },
        "pseudos": "gth-pade",
    }
    return functional, card


def _conventional(xc: str | None) -> Functional:
    """The sum of LDAs by their names in libxc, which are joined by "," or "+"."""
    if xc is None:
        raise ValueError(
            "hybridxc: the file does not contain the conventional functional: state xc, its name in libxc, such as "
            "'lda_x' or 'lda_x,lda_c_pw'"
        )
    names = _names(xc)
    if not all(name.startswith("lda_") for name in names):
        raise ValueError(
            f"xc={xc!r}: expected names of LDAs in libxc, such as 'lda_x' or 'lda_x,lda_c_pw'; the networks that "
            "DeepChem adds to GGAs and meta-GGAs have other inputs, and are not read"
        )
    try:
        parts = [_lda(name) for name in names]
        return parts[0] if len(parts) == 1 else Sum([(1.0, part) for part in parts])
    except (LookupError, ValueError) as error:
        raise ValueError(f"xc={xc!r}: {error}") from error


def _names(xc: str | None) -> list[str]:
    return [name.strip().lower().replace("-", "_") for name in re.split("[,+]", xc or "")]


def _lda(name: str) -> Functional:
    if name in _OURS:
        return LDA(**_OURS[name])
    from .libxc import Libxc  # loads PySCF

    return Libxc(name)


def _read(path: Path) -> tuple[WeightFile, float, float]:
    """The network in a file in double precision, aweight and bweight."""
    content, sha256 = read_content(path)
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if isinstance(state, dict) and "aweight" in state:  # a checkpoint of a HybridXC that was trained itself
        content = state
    if _is_xcmodel(content):
        raise ValueError(
            f"{path} holds the network of an XCModel only: XCModel makes a new HybridXC with aweight = 0 at each call, "
            "so that the network does not act in its energies. Train a HybridXC itself and save its state_dict()"
        )
    tensors = check_tensors(path, content)
    layers = _layers(path, tensors)
    wrong = [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in _TYPES]
    if wrong:
        raise ValueError(f"{path}: {', '.join(wrong)}; expected torch.float32 or torch.float64")
    check_finite(path, tensors)
    widths = layer_widths(path, layers)
    if widths[0] != 2:
        raise ValueError(f"{path}: the network has {widths[0]} inputs; that of an LDA has 2, density and polarisation")
    a, b = (_scalar(path, name, tensors[name]) for name in _WEIGHTS)
    if a == 0:
        raise ValueError(
            f"{path}: aweight is zero, so that the network does not act: the functional would be bweight times the "
            "conventional one. DeepChem begins with aweight = 0; save the HybridXC after its training"
        )
    return WeightFile(path, sha256, sequential(layers), widths), a, b


def _is_xcmodel(content: Any) -> bool:
    """Whether a file is a checkpoint of XCModel, or the state dict in it."""
    if not isinstance(content, dict) or not content:
        return False
    state = content.get("model_state_dict")
    if isinstance(state, dict):
        return "aweight" not in state
    return all(str(name).startswith("nnmodel.") for name in content)


def _layers(path: Path, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Weight, bias, weight, bias ... of the layers; the last bias is zero if the file has none."""
    found = {name: _LAYER.fullmatch(str(name)) for name in tensors}
    unknown = [str(name) for name, match in found.items() if match is None and name not in _WEIGHTS]
    missing = [name for name in _WEIGHTS if name not in tensors]
    indices = sorted({int(match[1]) for match in found.values() if match is not None})
    names = [f"nnxc.nnmodel.{index}.{kind}" for index in indices for kind in ("weight", "bias")]
    missing += [name for name in names[:-1] if name not in tensors]
    if unknown or missing or not indices:
        problems = [
            f"{what} {', '.join(some[:8])}{', ...' if len(some) > 8 else ''}"
            for what, some in (("unknown tensors", unknown), ("missing tensors", missing))
            if some
        ]
        raise ValueError(
            f"{path} is not the state dict of a HybridXC of an LDA (aweight, bweight, nnxc.nnmodel.0.weight ...): "
            f"{'; '.join(problems) or 'no layers'}"
        )
    if indices != list(range(0, 2 * len(indices), 2)) or len(indices) < 2:
        raise ValueError(
            f"{path}: the layers of nnxc.nnmodel are {', '.join(map(str, indices))}; expected 0, 2, 4 ...: two linear "
            "layers or more, with one activation between them, as DeepChem makes its networks"
        )
    layers = [tensors[name] for name in names[:-1]]
    return [*layers, tensors.get(names[-1], torch.zeros(1, **DOUBLE))]


def _scalar(path: Path, name: str, tensor: Tensor) -> float:
    if tensor.numel() != 1:
        raise ValueError(f"{path}: {name} is of shape {tuple(tensor.shape)}, expected one number")
    return tensor.item()
