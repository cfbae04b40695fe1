"""Restart files: tensors as safetensors, and everything else as JSON in the header of the same file.

Nothing in a file is executed, and a file that is damaged, changed or of another kind is an error: the header has the
SHA-256 of every tensor, and the SHA-256 of the header stands beside it. They detect damage and editing; they are not
signatures, because whoever writes a file can write its digests.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.calculators.calculator import CalculatorError, InputError, ReadError, equal
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .. import __version__
from ..ks.ground_state import GroundState
from ..regular_files import check_regular_file, check_replaceable, complete_or_absent
from .calculation import Calculation
from .memory import physical_memory
from .mesh import make_mesh
from .parameters import LOCAL, for_files
from .plan import digests
from .solver import GroundStateSolver

FORMAT = 3
"""Number of the format that is read and written. Formats 1, without digests, and 2, without the SCF's residual, are not
read."""

_HEADER, _DIGEST = "ase_nnxc", "sha256"
LARGEST_FILE = 2**36  # bytes, where the system does not report its memory
_ORBITALS = "orbitals"


def write_restart(path: str | os.PathLike[str], state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write a file; an older one is replaced when the new one is complete.

    Parameters
    ----------
    path : str or PathLike
        Name of the file.
    state : mapping
        A ground state as `pack` returns it.
    facts : mapping
        Everything else, of types that ASE writes as JSON.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    from ase.io.jsonio import encode  # loads scipy

    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    nk = state["eigenvalues"].shape[1]
    tensors |= {f"{_ORBITALS}.{i // nk}.{i % nk}": psi for i, psi in enumerate(state[_ORBITALS])}
    is_complex = [name for name, tensor in tensors.items() if tensor.is_complex()]
    tensors = {
        name: (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t).detach().cpu().contiguous()
        for name, t in tensors.items()
    }
    header = encode(
        {
            "format": FORMAT,
            "versions": {"ase_nnxc": __version__, "torch": torch.__version__},
            "state": {name: value for name, value in state.items() if name not in {_ORBITALS, *tensors}},
            "complex": is_complex,
            "tensors": {name: tensor_digest(tensor) for name, tensor in tensors.items()},
            **facts,
        }
    )
    try:
        with complete_or_absent(Path(path)) as temporary:
            save_file(tensors, temporary, {_HEADER: header, _DIGEST: text_digest(header)})
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def check_target(path: str | os.PathLike[str]) -> None:
    """Raise InputError if a new file would replace something that is not a regular file."""
    try:
        check_replaceable(Path(path))
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", error)
        raise InputError(f"{path} cannot be written: {reason}; give the name of a new or ordinary file") from error


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """Return the SHA-256 of the type, shape and numbers of a real contiguous tensor on the CPU, hexadecimal."""
    sha256 = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    sha256.update(tensor.numpy().reshape(-1).data)
    return sha256.hexdigest()


def read_restart(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the ground state, on the CPU, and the facts that `write_restart` wrote.

    Raises
    ------
    ReadError
        If there is no such file, if it is not a restart file of this format, or if a digest does not match.
    """
    path = Path(path)
    try:
        check_regular_file(path, physical_memory() or LARGEST_FILE)
        with torch.inference_mode(False), safe_open(path, framework="pt", device="cpu") as file:
            header = _checked_header(path, file.metadata() or {}, file.keys())
            tensors = {
                name: _checked_tensor(path, file.get_tensor(name), name, digest)
                for name, digest in header.pop("tensors").items()
            }
    except OSError as error:
        raise ReadError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise ReadError(f"{path} is not a restart file, or it is damaged: {type(error).__name__}: {error}") from error
    try:
        for name in header.pop("complex"):
            tensors[name] = torch.view_as_complex(tensors[name])
        return _with_list_of_orbitals(tensors) | header.pop("state"), header
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ReadError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _checked_tensor(path: Path, tensor: Tensor, name: str, digest: str) -> Tensor:
    """Return a copy of a tensor in a file; raise ReadError unless it has its digest."""
    # a copy: in the file complex numbers may lie where torch's vector instructions cannot load them
    tensor = tensor.clone()
    if tensor_digest(tensor) != digest:
        raise ReadError(f"{path} is damaged or was changed: the tensor {name} does not have its SHA-256")
    return tensor


def _checked_header(path: Path, metadata: Mapping[str, str], tensors: Iterable[str]) -> dict[str, Any]:
    """Return the header of a file; raise ReadError unless it is of this format and unchanged."""
    text = metadata[_HEADER]
    if _DIGEST in metadata and metadata[_DIGEST] != text_digest(text):
        raise ReadError(f"{path} is damaged or was changed: its header does not have its SHA-256")
    from ase.io.jsonio import decode  # loads scipy

    header = decode(text)
    if header["format"] != FORMAT:
        raise ReadError(
            f"{path} has format {header['format']}, written by ase_nnxc {header['versions']['ase_nnxc']}; this "
            f"version, {__version__}, reads format {FORMAT}: read the file where it was written, or calculate again"
        )
    if _DIGEST not in metadata:
        raise ReadError(f"{path} is damaged or was changed: the SHA-256 of its header is missing")
    missing, unknown = header["tensors"].keys() - set(tensors), set(tensors) - header["tensors"].keys()
    if missing or unknown:
        raise ReadError(
            f"{path} is damaged or was changed: it lacks the tensors {', '.join(sorted(missing)) or 'none'}, and has "
            f"the unexpected tensors {', '.join(sorted(unknown)) or 'none'}"
        )
    return header


def _with_list_of_orbitals(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the tensors as `pack` has them."""
    nspin, nk = tensors["eigenvalues"].shape[:2]
    orbitals = [tensors.pop(f"{_ORBITALS}.{spin}.{k}") for spin in range(nspin) for k in range(nk)]
    return {**tensors, _ORBITALS: orbitals}


class RestartFiles(GroundStateSolver, ABC):
    """The part of NNXCCalculator that writes restart files and reads them."""

    @abstractmethod
    def ground_state(self, atoms: Atoms | None = None) -> GroundState:
        """Return the ground state, which is solved for unless it is held."""

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a restart file: atoms, results, parameters, density and orbitals of the last calculation.

        `NNXCCalculator(restart=path)` is then the same calculator, and its `get_atoms` returns the atoms. Of a
        functional object only the fingerprint is written: such a file is read with
        `NNXCCalculator(functional, restart=path)`.

        Parameters
        ----------
        path : str or PathLike
            Name of the file, safetensors with JSON in its header; an old file is replaced.

        Raises
        ------
        InputError
            If nothing has been calculated, or if the path is a symbolic link, a device or anything else that is not a
            regular file.
        OSError
            If the file cannot be written.
        """
        if self.atoms is None:
            raise InputError("there is nothing to write: calculate something first")
        check_target(path)  # before a calculation that the file needs
        self.ground_state()  # a copy of a calculator holds none
        mesh = self._calculation.mesh
        assert mesh is not None
        atoms = self.atoms.copy()
        atoms.info = {}  # may hold anything
        facts = {
            "parameters": for_files(self.parameters) | {"xc": self._xc.xc if isinstance(self._xc.xc, str) else None},
            "functional": self._xc.describe(),
            "choices": self._choices(),
            "mesh": {
                "kpts": mesh.kpts,
                "cell": mesh.atoms.cell.array,
                "scaled_positions": mesh.atoms.get_scaled_positions(wrap=False),
            },
            "atoms": atoms,
            "results": self.results,
        }
        packed = self.pack_state()  # by all ranks
        self.ranks.first(lambda: write_restart(path, packed, facts))

    def read(self, label: str | os.PathLike[str]) -> None:
        """Take atoms, results, parameters and ground state from a restart file.

        `txt`, `device` and `share_kpoints` stay as they are.

        Parameters
        ----------
        label : str or PathLike
            Name of the file that `write` wrote.

        Raises
        ------
        ReadError
            If there is no such file, if it is damaged, or if the functional, the pseudopotentials or anything that this
            version chooses for the atoms differ from those when it was written.
        """
        packed, facts = read_restart(label)
        before = dict(self.parameters)
        try:
            self._restore(packed, facts)
        except Exception as error:  # a damaged file may cause any exception
            self.set(**before)
            self.reset()
            kind = "" if isinstance(error, CalculatorError) else f"{type(error).__name__}: "
            raise ReadError(f"{label} cannot be used for a restart: {kind}{error}") from error

    def _restore(self, packed: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Become the calculator that wrote this."""
        parameters, atoms = dict(facts["parameters"]), facts["atoms"]
        if LOCAL & parameters.keys():
            raise ReadError(f"it sets {', '.join(sorted(LOCAL & parameters.keys()))}, which a file must not set")
        if parameters["xc"] is None:
            del parameters["xc"]
        self.set(**parameters)
        if self._xc.describe() != facts["functional"]:
            raise ReadError(f"its functional is {facts['functional']}, but this one is {self._xc.describe()}")
        mesh_atoms = atoms.copy()
        mesh_atoms.set_cell(facts["mesh"]["cell"])
        mesh_atoms.set_scaled_positions(facts["mesh"]["scaled_positions"])
        self._calculation = Calculation(mesh=make_mesh(facts["mesh"]["kpts"], mesh_atoms))
        self.unpack_state(atoms, packed)
        if self._calculation.fingerprint != self._fingerprint(atoms):
            raise ReadError("its ground state is not that of its atoms and its functional")
        self.atoms, self.results = atoms, facts["results"]
        for name, now in self._choices().items():
            if not equal(now, facts["choices"].get(name)):
                raise ReadError(f"the file has {name}={facts['choices'].get(name)}; this version chooses {now}")

    def _choices(self) -> dict[str, Any]:
        """Return what this version chooses for the atoms from its parameters and data."""
        explicit, atoms = self._calculation.parameters, self.atoms
        assert explicit is not None
        assert atoms is not None
        chosen = {name: explicit[name] for name in ("ecut", "kpts", "gpts", "pseudos")}
        return chosen | {"tables": digests(self._tables_of(atoms))}

    @classmethod
    def read_atoms(cls, restart: str | os.PathLike[str], **kwargs: Any) -> Atoms:
        """Return the atoms of a restart file, with the calculator attached."""
        return cls(restart=restart, **kwargs).get_atoms()
