"""ASE's own tests of calculators, run against "nnxc" with warnings as errors: ``python tests/ase_suite.py``.

Further arguments are options of pytest, for example ``-k ch4``. A test of ASE that accepts a calculator has a fixture,
`factory`, and a marker that names calculators, `calculator`; this file puts "nnxc" in their place. State with ASE 3.29:

========================================== ============================================================================
Test of ``ase/test``                       Result
========================================== ============================================================================
calculator/test_ch4_energy.py              passes
calculator/test_h2_bond_force.py           passes
calculator/test_si_stress.py               passes
calculator/test_traj.py                    passes
calculator/siesta/test_dos.py              passes; it is in Siesta's folder, but nothing in it is of Siesta
calculator/siesta/test_bandstructure.py    passes; likewise
calculator/socketio/test_h2_stiffness.py   passes
calculator/socketio/test_integration.py    fails at its end: the test requires a warning that the process of the
                                           calculator failed, and ours exits cleanly; its relaxation works
calculator/test_al.py                      passes
calculator/test_h2.py                      passes
calculator/test_dftd3.py                   does not apply: keywords and numbers of DFT-D3
calculator/test_eam_run.py                 does not apply: files of EAM potentials
calculator/test_orca.py, test_orca_qmmm.py do not apply: keywords and numbers of ORCA
calculator/test_subprocess_calculator.py   does not apply: the one test that takes a calculator runs GPAW
calculator/*/                              do not apply: tests in the folder of another calculator use its keywords,
                                           files or total energies; nwchem/test_nwchem_bands.py repeats Siesta's
dft/                                       do not apply: these tests define their own calculators
========================================== ============================================================================
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ase.test
import pytest
from ase.atoms import Atoms
from ase.calculators.calculator import Calculator, get_calculator_class
from ase.calculators.socketio import SocketIOCalculator
from ase.test.factories import Factories, factory_classes

import ase_nnxc

SUITE = Path(ase.test.__file__).parent
# Tests for every calculator are in these folders, and in files elsewhere that are so in all but their place.
GENERAL_FOLDERS = ("calculator", "calculator/socketio", "dft")
ALSO_GENERAL = ("calculator/siesta/test_dos.py", "calculator/siesta/test_bandstructure.py")
# Files in GENERAL_FOLDERS whose tests are for one calculator alone.
OF_OTHERS = tuple(
    f"calculator/test_{name}.py" for name in ("dftd3", "eam_run", "orca", "orca_qmmm", "subprocess_calculator")
)

FAILURES = {
    "calculator/socketio/test_integration.py": pytest.mark.xfail(
        strict=True, raises=pytest.fail.Exception, reason="the test requires that the process of the calculator fails"
    ),
}

CLIENT = """
import pickle, sys
from ase.calculators.socketio import SocketClient
from ase_nnxc import NNXCCalculator

atoms, parameters, unixsocket = pickle.load(sys.stdin.buffer)
atoms.calc = NNXCCalculator(**parameters)
SocketClient(unixsocket=unixsocket).run(atoms, use_stress=bool(atoms.pbc.any()))
"""


def rough(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return settings of seconds for these parameters: generated pseudopotentials of carbon would need 1190 eV."""
    return {"ecut": 400} | ({} if "xc" in parameters else {"pseudos": "gth-pbe"})


class Factory:
    """What ASE's tests get a calculator from; the cutoff makes them fast."""

    name = "nnxc"

    def __init__(self, config: Any) -> None:
        """`config` is ASE's configuration file, which has no entry for this calculator."""

    @staticmethod
    def version() -> str:
        return ase_nnxc.__version__

    @staticmethod
    def calc(**parameters: Any) -> Calculator:
        settings = {} if "restart" in parameters else rough(parameters)
        return get_calculator_class("nnxc")(**{**settings, **parameters})

    @staticmethod
    def socketio(unixsocket: str, **parameters: Any) -> SocketIOCalculator:
        """Calculator whose work is done by another process, at the end of a socket."""

        def launch(atoms: Atoms, properties: Any = None, port: Any = None, unixsocket: Any = None) -> subprocess.Popen:
            process = subprocess.Popen([sys.executable, "-W", "error", "-c", CLIENT], stdin=subprocess.PIPE)
            pickle.dump((atoms.copy(), {**rough(parameters), **parameters}, unixsocket), process.stdin)
            process.stdin.close()
            return process

        return SocketIOCalculator(launch_client=launch, unixsocket=unixsocket)


def _file(node: pytest.Item) -> str:
    """The test's file, relative to ASE's folder of tests."""
    return node.path.relative_to(SUITE).as_posix()


def _is_run(item: pytest.Item) -> bool:
    """Whether a test accepts a calculator and is not for one of the others alone."""
    file = _file(item)
    general = file.rpartition("/")[0] in GENERAL_FOLDERS and file not in OF_OTHERS
    return "factory" in item.fixturenames and (general or file in ALSO_GENERAL)


def pytest_configure() -> None:
    """Tell ASE's tests of the calculator."""
    Factories.all_calculators.add("nnxc")
    factory_classes["nnxc"] = Factory


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Put "nnxc" in the place of the calculators that a test names."""
    test = metafunc.definition
    if _is_run(test):
        test.own_markers[:] = [marker for marker in test.own_markers if marker.name != "calculator"]
        marks = [FAILURES[_file(test)]] if _file(test) in FAILURES else []
        test.add_marker(pytest.mark.calculator("nnxc", marks=marks))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not run; a test of the table that is missing is an error."""
    run = [item for item in items if _is_run(item)]
    config.hook.pytest_deselected(items=[item for item in items if not _is_run(item)])
    missing = {*ALSO_GENERAL, *FAILURES} - {_file(item) for item in run}
    if missing:
        raise pytest.UsageError(f"ASE {ase.__version__} does not have {', '.join(sorted(missing))}: update {__file__}")
    items[:] = run


def main(options: Iterable[str]) -> int:
    """Run the tests; return pytest's exit status."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # small systems: on a busy machine, more threads wait for each other
    folders = [str(SUITE / name) for name in ("calculator", "dft")]
    settings = ["-c", os.devnull, "--rootdir", str(SUITE), "-p", "no:cacheprovider", "-ra"]
    strict = ["-W", "error", "--strict-markers"]
    arguments = [*folders, *settings, *strict, "--calculators=nnxc", *options]
    return pytest.main(arguments, plugins=[sys.modules[__name__]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
