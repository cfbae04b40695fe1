"""Total energies, forces, stress, moments and Fermi levels against Quantum ESPRESSO on the same tables and boxes."""

import numpy as np
import pytest
from ase import Atoms
from ase.units import Bohr, Hartree

from ase_nnxc import NNXCCalculator

SMEARING = {"cold": "marzari-vanderbilt"}
FAST = ["al-eos-0.94", "al-eos-1.00", "al-eos-1.06", "al-cold", "al-fermi-dirac", "al-methfessel-paxton"]
FAST += ["si-rattled", "si-lda", "mg-hcp", "graphene-periodic"]
SLOW = ["al-eos-0.96", "al-eos-0.98", "al-eos-1.02", "al-eos-1.04", "cu", "ni-ferro", "mgo-rocksalt-rattled"]
SLOW += ["caf2-pbesol", "fe-bcc", "cr-antiferro", "aln-wurtzite", "o2-box", "lan-rattled"]
GAPPED = {"si-rattled", "si-lda", "mgo-rocksalt-rattled", "caf2-pbesol", "aln-wurtzite", "o2-box", "lan-rattled"}
SEMICORE_OR_SPIN = {
    "ni-ferro",
    "mgo-rocksalt-rattled",
    "caf2-pbesol",
    "fe-bcc",
    "cr-antiferro",
    "o2-box",
    "lan-rattled",
}


def atoms_of(record: dict) -> Atoms:
    """The structure of a record with a calculator of its settings attached."""
    settings, qe = record["settings"], record["qe"]
    atoms = Atoms(record["symbols"], cell=record["cell_A"], positions=record["positions_A"], pbc=True)
    if settings["magmoms"] is not None:
        atoms.set_initial_magnetic_moments(settings["magmoms"])
    atoms.calc = NNXCCalculator(
        settings["xc"],
        ecut=settings["ecut"] * Hartree,
        kpts={"size": settings["kpts"], "gamma": True},
        smearing={
            "name": SMEARING.get(settings["smearing"], settings["smearing"]),
            "width": settings["width"] * Hartree,
        },
        pseudos={symbol: f"{settings['pseudo']}-q{q}" for symbol, q in qe["valence"].items()},
        gpts=tuple(int(n) for n in qe["fft"].split(",")),
    )
    return atoms


@pytest.mark.parametrize("name", FAST + [pytest.param(name, marks=pytest.mark.slow) for name in SLOW])
def test_same_numbers_as_quantum_espresso(qe_records: dict[str, dict], name: str) -> None:
    record = qe_records[name]
    atoms, qe = atoms_of(record), record["qe"]
    free_energy = atoms.get_potential_energy(force_consistent=True) / Hartree
    assert abs(free_energy - qe["energy"]) < (1e-5 if name in SEMICORE_OR_SPIN else 5e-6)
    assert np.abs(atoms.get_forces() * Bohr / Hartree - qe["forces"]).max() < 2e-5
    stress = atoms.get_stress(voigt=False) * Bohr**3 / Hartree
    # pw.x 6.7's own stress is wrong for GTH projectors of low symmetry: there the record holds differences of energies
    assert np.abs(stress - qe.get("stress_from_energies", qe["stress"])).max() < 2e-6
    assert abs(atoms.get_magnetic_moment() - qe["magmom"]) < 0.015
    if name not in GAPPED or name.startswith("si-"):
        assert abs(atoms.calc.results["fermi_level"] - qe["fermi_eV"]) < 1e-3
