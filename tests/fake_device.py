"""A fake accelerator in the memory of the CPU, for tests of what a GPU does not allow and what its host waits for."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import ase_nnxc

# PyTorch knows this type of device, but has no kernels for it: an operation that `FakeDevice` does not see is an error.
DEVICE = torch.device("lazy", 0)
CPU = torch.device("cpu")
MEMORY = 2**37  # bytes, all of them free

PACKAGE = str(Path(ase_nnxc.__file__).parent) + os.sep
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Operations after which CUDA's host waits: for a number, for the size of the result, or whether linear algebra failed.
READS = {"_local_scalar_dense", "allclose", "equal", "nonzero", "masked_select", "repeat_interleave", "_unique2"}
READS |= {"_linalg_check_errors", "_linalg_eigh", "_linalg_svd"}


class DeviceTensor(Tensor):
    """A tensor of the fake device.

    Parameters
    ----------
    numbers : Tensor
        The same tensor on the CPU.
    """

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "DeviceTensor":
        numbers = numbers.resolve_conj().resolve_neg()
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset(), "dtype": numbers.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, device=DEVICE, **layout)
        tensor.numbers = numbers
        return tensor

    def __repr__(self, **keywords: Any) -> str:
        return f"DeviceTensor({self.numbers})"

    def tolist(self) -> Any:
        """Return the numbers as lists; PyTorch does not do so for subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        raise RuntimeError(f"{function} outside of the context of the fake device")


class DeviceGenerator(torch.Generator):
    """A generator of random numbers that knows whether it belongs to the fake device.

    Operations are called with other Python objects of the same generator, which its address tells.
    """

    ours: ClassVar[list[torch.Generator]] = []

    def __new__(cls, device: torch.device | str = CPU) -> "DeviceGenerator":
        generator = super().__new__(cls, device=CPU)
        if torch.device(device).type == DEVICE.type:
            cls.ours.append(generator)
        return generator

    @classmethod
    def is_ours(cls, generator: torch.Generator) -> bool:
        """Whether a generator belongs to the fake device."""
        return any(generator._cdata == other._cdata for other in cls.ours)


class FakeDevice(TorchDispatchMode):
    """Does operations of the fake device on the CPU, with the errors of a GPU, and notes what the host waits for.

    Attributes
    ----------
    waits : list of str
        Operation, and file and line of the package, of each wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        tensors: list[Tensor] = []

        def on_cpu(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return tensor.numbers if isinstance(tensor, DeviceTensor) else tensor

        keywords = keywords or {}
        arguments_on_cpu = _of_tensors(on_cpu, arguments)
        keywords_on_cpu = {key: _of_tensors(on_cpu, value) for key, value in keywords.items()}
        ours = [isinstance(tensor, DeviceTensor) for tensor in tensors]
        name, device = function.overloadpacket.__name__, keywords.get("device")
        written = keywords.get("out", arguments[0]) if function._schema.is_mutable else None
        is_ours = any(ours) if device is None else device.type == DEVICE.type  # the result
        if name == "_to_copy":  # also of `cpu`, `tolist`, `tensor`, `new_tensor`, and of a list as index
            waits = ours != [is_ours]
        elif name == "copy_":
            waits = ours[0] != ours[1]
        else:
            if any(ours):
                _check_tensors(function, tensors, written)
            _check_generator(function, keywords.get("generator"), is_ours)
            with_mask = name in INDEXING and any(i is not None and i.dtype == torch.bool for i in arguments[1])
            waits = any(ours) and (with_mask or name in READS)
        if waits:
            self.waits.append(f"{name} at {_place()}")
        if device is not None:
            keywords_on_cpu["device"] = CPU
        result = function(*arguments_on_cpu, **keywords_on_cpu)
        if written is not None:
            return written
        return _of_tensors(DeviceTensor, result) if is_ours else result


@contextmanager
def fake_device() -> Iterator[FakeDevice]:
    """Yield a fake device that exists in this context, with its own memory and generators of random numbers."""
    lifts = torch._C._only_lift_cpu_tensors()
    with pytest.MonkeyPatch.context() as patch, FakeDevice() as device:
        patch.setattr(torch, "Generator", DeviceGenerator)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (MEMORY, MEMORY))
        for name in ("memory_reserved", "memory_allocated"):
            patch.setattr(torch.cuda, name, lambda device: 0)
        torch._C._set_only_lift_cpu_tensors(True)  # `tensor`, `new_tensor` and lists as indices copy tensors of the CPU
        try:
            yield device
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)


def fault() -> str | None:
    """Return why this build of PyTorch cannot have a fake device, or None if it can."""
    try:
        with fake_device():
            x = torch.ones(2, device=DEVICE, requires_grad=True)
            torch.autograd.grad((x * torch.tensor([1.0, 2.0], device=DEVICE)).sum(), x)
    except (AttributeError, RuntimeError, TypeError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return None


def _check_tensors(function: Any, tensors: list[Tensor], written: Tensor | None) -> None:
    """Raise RuntimeError where a GPU does: of the CPU's tensors only scalars may be read, in pointwise operations.

    As indices of its tensors a GPU takes tensors of the CPU, too, for which the host waits; here they are errors.
    """
    pointwise = torch.Tag.pointwise in function.tags
    others = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    if not all(pointwise and tensor.ndim == 0 and tensor is not written for tensor in others):
        raise RuntimeError(f"{function} of tensors of the device and of the CPU at {_place()}")


def _check_generator(function: Any, generator: torch.Generator | None, is_ours: bool) -> None:
    """Raise RuntimeError if the generator belongs to another device than the result."""
    if generator is not None and DeviceGenerator.is_ours(generator) != is_ours:
        raise RuntimeError(f"{function} with the generator of another device at {_place()}")


def _of_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a value with the results of a function in place of its tensors, also of those in lists and tuples."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(_of_tensors(function, x) for x in value) if isinstance(value, list | tuple) else value


def _place() -> str:
    """Return file and line of the innermost function of the package that runs."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return "the test" if frame is None else f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"
