"""Fixtures that several files of tests use."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one process per core: set before torch is imported, and for child processes
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def generated_pseudopotentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep generated pseudopotentials in a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNXC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread of torch, as ranks do: sums in another order would change the SCF within its tolerance."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Folder of reference data that may not be kept in the repository, where a developer has it beside the clone."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip("reference data not kept here")
    return folder


@pytest.fixture(scope="session")
def shared_pseudo() -> Path:
    """Folder of PseudoDojo's files, where a developer has it beside the clone."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "pseudo"
    if not folder.is_dir():
        pytest.skip("pseudopotential files not kept here")
    return folder


@pytest.fixture(scope="session")
def qe_records() -> dict[str, dict]:
    """Records of Quantum ESPRESSO by name."""
    return json.loads((Path(__file__).parent / "data" / "qe_gth.json").read_text())["records"]


@pytest.fixture(scope="session")
def abinit_records() -> dict[str, dict]:
    """Records of ABINIT by name."""
    return json.loads((Path(__file__).parent / "data" / "abinit_gth.json").read_text())["records"]
