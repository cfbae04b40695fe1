"""The device that a keyword means: a GPU is taken by itself only if it computes correctly."""

import io
import re

import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import InputError

from ase_nnxc import NNXCCalculator
from ase_nnxc.calculator import device as module
from ase_nnxc.calculator import torch_device
from ase_nnxc.calculator.device import choose_device, gpu_fault

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def unchecked():
    """Forget what was found out about devices, before and after a test."""
    gpu_fault.cache_clear()
    yield
    gpu_fault.cache_clear()


@pytest.fixture
def two_gpus(monkeypatch):
    """Torch believes that there are two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for name in module.LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def faulty(two_gpus, monkeypatch):
    monkeypatch.setattr(module, "gpu_fault", lambda device: "its FFT is wrong")


def test_auto_is_the_cpu_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == (CPU, None)


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize(("variable", "index"), [(None, 0), ("LOCAL_RANK", 1), ("OMPI_COMM_WORLD_LOCAL_RANK", 1)])
def test_each_process_has_the_gpu_of_its_number(two_gpus, monkeypatch, name, variable, index):
    monkeypatch.setattr(module, "gpu_fault", lambda device: None)
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    assert choose_device(name) == (torch.device("cuda", index), None)


def test_process_with_one_visible_gpu_has_this_one(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("SLURM_LOCALID", "3")
    assert choose_device("cuda") == (torch.device("cuda", 0), None)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_processes_do_not_share_a_gpu(two_gpus, monkeypatch, name):
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match=r"no GPU is left for process 2 .*start one process for each GPU"):
        choose_device(name)


def test_auto_is_the_cpu_if_the_gpu_fails_its_check(faulty):
    with pytest.warns(UserWarning, match="cuda:0 is not used: its FFT is wrong; the calculation runs on the CPU"):
        assert choose_device("auto") == (CPU, "cuda:0 is not used: its FFT is wrong")


def test_log_states_why_a_gpu_is_not_used(faulty):
    log = io.StringIO()
    atoms = bulk("Al")
    atoms.calc = NNXCCalculator(ecut=140, kpts=(1, 1, 1), txt=log)
    with pytest.warns(UserWarning, match="is not used"):
        atoms.get_potential_energy()
    assert "note: cuda:0 is not used: its FFT is wrong" in log.getvalue()
    assert "device       cpu, " in log.getvalue()


def test_gpu_that_is_asked_for_is_not_checked(faulty):
    assert torch_device("cuda:1") == torch.device("cuda", 1)


def test_sound_device_passes_the_check():
    assert gpu_fault(CPU) is None


def rounded(function):
    """Results of a function in single precision."""

    def call(*args, **keywords):
        values = function(*args, **keywords)
        if isinstance(values, torch.Tensor):
            return values.to(torch.complex64).to(torch.complex128)
        return values[0].to(torch.float32).double(), values[1]

    return call


@pytest.mark.parametrize(
    ("library", "function", "message"),
    [
        (torch.fft, "ifftn", r"the FFT in complex128 \(relative error \d\.\de-0[78]\)"),
        (torch.linalg, "eigh", r"the eigenvalues of a Hermitian matrix \(relative error \d\.\de-0[78]\)"),
    ],
)
def test_single_precision_fails_the_check(monkeypatch, library, function, message):
    monkeypatch.setattr(library, function, rounded(getattr(library, function)))
    assert re.fullmatch(f"it computes wrongly: {message}", gpu_fault(CPU))


@pytest.mark.parametrize("error", [1e-7, float("nan")])
def test_wrong_product_fails_the_check(monkeypatch, error):
    monkeypatch.setattr(module, "_product_error", lambda device, generator: error)
    assert gpu_fault(CPU) == f"it computes wrongly: a product of float64 matrices (relative error {error:.1e})"


def test_exception_of_a_library_fails_the_check(monkeypatch):
    def missing(*args, **keywords):
        raise RuntimeError("cusolver error:\n not initialised")

    monkeypatch.setattr(torch.linalg, "eigh", missing)
    assert gpu_fault(CPU) == "its check fails with RuntimeError: cusolver error: not initialised"


def test_device_is_checked_once(monkeypatch):
    checks = []
    monkeypatch.setattr(module, "_fft_error", lambda device, generator: checks.append(device) or 0.0)
    assert [gpu_fault(CPU), gpu_fault(CPU)] == [None, None]
    assert checks == [CPU]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_passes_the_check():
    assert gpu_fault(torch.device("cuda", 0)) is None
