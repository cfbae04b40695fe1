"""The text log of a calculation: a header, one line for each SCF step, the energy components."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from ase import Atoms

from .. import __version__
from ..ks.convergence import Step
from ..ks.ground_state import GroundState
from ..ks.system import System
from ..units import BOHR, GPA, HARTREE
from .mesh import Mesh
from .plan import Plan, digests

MAGNETIC = frozenset({"Cr", "Mn", "Fe", "Co", "Ni"})
"""Elements whose crystals are usually magnetic."""


class Log:
    """A text log to nowhere, to standard output or to a file.

    Parameters
    ----------
    txt : None, "-", path or open file
        Destination. A file that is given by its path is opened for each piece written, and closed again.
    directory : str or PathLike
        Folder that a relative path is in.
    """

    def __init__(self, txt: str | os.PathLike[str] | IO[str] | None, directory: str | os.PathLike[str] = "."):
        self.txt = Path(directory) / txt if isinstance(txt, str | os.PathLike) and txt != "-" else txt

    def write(self, *lines: str) -> None:
        """Write lines and flush."""
        text = "".join(f"{line}\n" for line in lines)
        if self.txt == "-":
            print(text, end="", flush=True)
        elif isinstance(self.txt, str | os.PathLike):
            with Path(self.txt).open("a", encoding="utf-8") as file:
                file.write(text)
        elif self.txt is not None:
            print(text, end="", flush=True, file=self.txt)

    def header(self, facts: Mapping[str, object], notes: Sequence[str]) -> None:
        """Write a title, a table of facts, notes, and the heading of the table of SCF steps."""
        width = max(map(len, facts))
        title = f"ase_nnxc {__version__}, torch {torch.__version__}"
        self.write("", title, *(f"  {name:<{width}}  {value}" for name, value in facts.items()))
        self.write(*(f"  note: {note}" for note in notes))
        self.write("", "  step     free energy / eV   error / eV   Fermi / eV   moment    seconds")

    def step(self, step: Step, last: Step | None) -> None:
        """Write one SCF step, after a note if it is made in another way than the `last` one."""
        if last is not None and (step.method, step.width) != (last.method, last.width):
            self.write(f"  note: {_way_of(step)}")
        self.write(
            f"  {step.number:4d} {step.free_energy * HARTREE:20.8f} {step.error * HARTREE:12.2e} "
            f"{step.fermi_level * HARTREE:12.5f} {step.moment:8.4f} {step.seconds:10.3f}"
        )

    def ground_state(self, state: GroundState, seconds: float) -> None:
        """Write the energy components of a converged state."""
        rows = [f"  {name:<12} {value * HARTREE:18.8f}" for name, value in state.terms.items()]
        self.write(
            "",
            f"  converged in {len(state.history)} steps, {seconds:.2f} s; energy components / eV",
            *rows,
            f"  {'free energy':<12} {state.free_energy * HARTREE:18.8f}",
            f"  {'energy':<12} {state.energy * HARTREE:18.8f}  (zero width)",
            f"  {'Fermi level':<12} {state.fermi_level * HARTREE:18.8f}",
        )

    def magnetisation(self, magmom: float, magmoms: np.ndarray) -> None:
        """Write the total moment and those of the atoms, Bohr magnetons."""
        self.write(f"  {'moment':<12} {magmom:18.6f}", *(f"    atom {i}: {m:10.6f}" for i, m in enumerate(magmoms)))

    def derivatives(self, forces: np.ndarray, stress: np.ndarray | None) -> None:
        """Write the forces, eV/Angstrom, and the stress, eV/Angstrom^3 in Voigt order, if it is defined."""
        self.write("  forces / eV/Angstrom", *("  " + " ".join(f"{x:14.8f}" for x in f) for f in forces))
        if stress is not None:
            self.write("  stress / GPa (xx yy zz yz xz xy)", "  " + " ".join(f"{x / GPA:14.6f}" for x in stress))


def _way_of(step: Step) -> str:
    """Return how a step is made."""
    if step.method == "minimisation":
        return "direct minimisation of the energy of whole electrons; the error is the last decrease"
    return f"mixing of densities with a width of {step.width * HARTREE:g} eV"


def facts_of(
    plan: Plan, system: System, atoms: Atoms, functional: str, smearing: Mapping[str, object]
) -> dict[str, str]:
    """Return what the header of the log states of a calculation: name -> value.

    Parameters
    ----------
    plan, system, atoms
        What is calculated.
    functional : str
        Name, version and hash of the functional.
    smearing : mapping
        `name` and `width` (eV).
    """
    basis = system.basis
    ranks = f", {system.ranks.count} ranks" if system.ranks.count > 1 else ""
    tables = (f"{s} {plan.tables[s].name} (sha256 {digest[:12]})" for s, digest in digests(plan.tables).items())
    kpts = plan.mesh.kpts if isinstance(plan.mesh.kpts, dict) else "as given"
    operations = len(basis.symmetry)
    dropped = len(plan.symmetry) - operations
    waves = [sphere.npw for sphere in basis.spheres]
    facts = {
        "atoms": atoms.get_chemical_formula(),
        "functional": functional,
        "tables": ", ".join(tables),
        "cutoff": f"{plan.ecut * HARTREE:.2f} eV ({plan.ecut_source}){', smooth' if basis.smooth_cutoff else ''}",
        "k-points": f"{kpts}, {len(basis.spheres)} of {len(plan.mesh.points)} irreducible",
        "FFT box": " x ".join(map(str, basis.fine.shape)),
        "symmetry": f"{operations} operations{f' ({dropped} dropped: they do not map mesh or box)' if dropped else ''}",
        "plane waves": f"{min(waves)} to {max(waves)}",
        "smearing": "{name}, {width} eV".format(**smearing),
        "spin": "paired" if plan.crystal.magmoms is None else "polarised",
        "device": f"{system.crystal.device}, {torch.get_num_threads()} threads{ranks}",
    }
    if not atoms.pbc.all():
        lengths = np.linalg.norm(plan.crystal.lattice.numpy() * BOHR, axis=1)
        facts["not periodic"] = ", ".join(
            f"{name} = {length:.3f} Angstrom"
            for name, length, periodic in zip("abc", lengths, atoms.pbc)
            if not periodic
        )
    return facts


def notes_of(plan: Plan, atoms: Atoms, earlier: Mesh | None, gpu_fault: str | None) -> list[str]:
    """Return what a reader of the log should not miss.

    Parameters
    ----------
    plan, atoms
        What is calculated.
    earlier : Mesh or None
        The k-points that were kept from an earlier geometry.
    gpu_fault : str or None
        Why a GPU is not used.
    """
    notes = []
    if gpu_fault is not None:
        notes.append(gpu_fault)
    if not atoms.get_initial_magnetic_moments().any() and MAGNETIC & set(atoms.get_chemical_symbols()):
        notes.append("Cr, Mn, Fe, Co or Ni without initial magnetic moments: the SCF starts without magnetism")
    if earlier is not None and earlier.kpts != plan.mesh.kpts and earlier.has_elements_of(atoms):
        notes.append("the k-points are chosen anew, because this is not a small strain of their structure")
    return notes
