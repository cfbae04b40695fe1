"""The device of a calculation: which one a keyword means, and whether a GPU computes correctly."""

import copy
import os
import warnings
from functools import cache
from typing import TypeVar

import torch
from ase.calculators.calculator import InputError
from torch import Tensor

Module = TypeVar("Module", bound=torch.nn.Module)

LOCAL_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
"""Environment variables with the number of this process on its machine, of torchrun, Open MPI, MPICH and Slurm."""

TOLERANCE = 1e-10
"""Largest relative error in the check of a GPU: far above the rounding of float64, far below that of float32."""


def torch_device(name: object) -> torch.device:
    """Return the device, with its index, that the keyword `device` means; see `choose_device`."""
    return choose_device(name)[0]


def choose_device(name: object) -> tuple[torch.device, str | None]:
    """Return the device that the keyword `device` means, and for "auto" the reason why a GPU was not taken.

    Where several processes run on a machine, each has a GPU of its own: that with its number, see `LOCAL_RANKS`.

    Parameters
    ----------
    name : str or torch.device
        "cpu", "cuda" or "cuda:1", which are taken as given, or "auto". The latter means "cuda" if there is a GPU and
        `gpu_fault` finds nothing wrong with it, else the CPU.

    Returns
    -------
    device : torch.device
    reason : str or None
        What is wrong with the GPU that "auto" did not take; None otherwise.

    Raises
    ------
    InputError
        If the name is unknown, if there is no such device, or if there are more processes than GPUs.

    Warns
    -----
    UserWarning
        If "auto" does not take a GPU because of a fault.
    """
    if name == "auto":
        return _choose_automatically()
    try:
        device = torch.device(name)  # type: ignore[call-overload]  # anything else is a TypeError
    except (RuntimeError, TypeError) as error:
        raise InputError(f"unknown device {name!r}: expected auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device={name!r}: expected auto, cpu or cuda")
    if device.type == "cpu":
        return device, None
    if (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device={name!r} is not available: torch finds {torch.cuda.device_count()} CUDA devices")
    return device if device.index is not None else _own_gpu(), None


def _choose_automatically() -> tuple[torch.device, str | None]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return torch.device("cpu"), None
    gpu = _own_gpu()
    fault = gpu_fault(gpu)
    if fault is None:
        return gpu, None
    reason = f"{gpu} is not used: {fault}"
    warnings.warn(f"{reason}; the calculation runs on the CPU", stacklevel=2)
    return torch.device("cpu"), reason


def _own_gpu() -> torch.device:
    """Return the GPU of this process: that of its number on the machine, or the current one of torch.

    Ranks of torchrun work together and must not share a GPU. Processes of other launchers may; with one visible GPU for
    each, as Slurm can arrange, that is the one.
    """
    numbers = [int(os.environ[name]) for name in LOCAL_RANKS if os.environ.get(name, "").isdigit()]
    count = torch.cuda.device_count()
    if not numbers or (count == 1 and "CUDA_VISIBLE_DEVICES" in os.environ):
        return torch.device("cuda", torch.cuda.current_device())
    if "LOCAL_RANK" in os.environ and numbers[0] >= count:
        raise InputError(
            f"no GPU is left for process {numbers[0]} (counted from 0) of this machine, on which torch finds {count}: "
            "start one process for each GPU, or use device='cpu'"
        )
    return torch.device("cuda", numbers[0] % count)


@cache
def gpu_fault(device: torch.device) -> str | None:
    """Return what a device computes wrongly, or None if it passes; each device is checked once in a process.

    The check takes an FFT forth and back in complex128, a Hermitian eigenproblem, and a product of matrices in float64,
    and compares them with the CPU.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    try:
        with torch.inference_mode(False), torch.no_grad():
            errors = {
                "the FFT in complex128": _fft_error(device, generator),
                "the eigenvalues of a Hermitian matrix": _eigenvalue_error(device, generator),
                "a product of float64 matrices": _product_error(device, generator),
            }
    except (RuntimeError, TypeError, AssertionError) as error:  # AssertionError: torch without CUDA
        return f"its check fails with {type(error).__name__}: {' '.join(str(error).split())}"
    wrong = [f"{name} (relative error {error:.1e})" for name, error in errors.items() if not error < TOLERANCE]
    return f"it computes wrongly: {', '.join(wrong)}" if wrong else None


def _fft_error(device: torch.device, generator: torch.Generator) -> float:
    """Largest error of a Fourier transform and of its inverse."""
    values = torch.randn((2, 12, 15, 16), dtype=torch.complex128, device="cpu", generator=generator)
    spectrum = torch.fft.fftn(values.to(device), dim=(-3, -2, -1))
    back = torch.fft.ifftn(spectrum, dim=(-3, -2, -1))
    return max(_error(back, values), _error(spectrum, torch.fft.fftn(values, dim=(-3, -2, -1))))


def _eigenvalue_error(device: torch.device, generator: torch.Generator) -> float:
    """Largest error of the eigenvalues of a Hermitian matrix, and of H V = V diag(e)."""
    matrix = torch.randn((48, 48), dtype=torch.complex128, device="cpu", generator=generator)
    matrix = matrix + matrix.mH
    values, vectors = torch.linalg.eigh(matrix.to(device))
    values, vectors = values.cpu(), vectors.cpu()
    return max(_error(values, torch.linalg.eigvalsh(matrix)), _error(matrix @ vectors, vectors * values))


def _product_error(device: torch.device, generator: torch.Generator) -> float:
    """Largest error of a product of matrices."""
    left, right = torch.randn((2, 96, 96), dtype=torch.float64, device="cpu", generator=generator)
    return _error(left.to(device) @ right.to(device), left @ right)


def _error(values: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest expected value; NaN if a value is NaN."""
    return float((values.cpu() - expected).abs().max() / expected.abs().max())


def on_device(module: Module, device: torch.device) -> Module:
    """Return the module, or a copy of it if it lies on another device: an object of the user is not moved."""
    if all(t.device == device for t in (*module.parameters(), *module.buffers())):
        return module
    return copy.deepcopy(module).to(device)
