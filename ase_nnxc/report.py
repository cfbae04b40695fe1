"""The text log of a calculation: a header, one line for each SCF step, the energy components."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .units import GPA, HARTREE

if TYPE_CHECKING:
    import numpy as np

    from .ks.convergence import Step
    from .ks.ground_state import GroundState


class Log:
    """Writes to nothing, standard output or a file.

    Parameters
    ----------
    txt : None, "-", path or open file
        Where to. A file given by its path is opened for each piece written, so that none stays open.
    """

    def __init__(self, txt: "str | os.PathLike[str] | IO[str] | None"):
        self.txt = txt

    def write(self, *lines: str) -> None:
        """Write lines at once."""
        text = "".join(f"{line}\n" for line in lines)
        if self.txt == "-":
            print(text, end="", flush=True)
        elif isinstance(self.txt, str | os.PathLike):
            with Path(self.txt).open("a", encoding="utf-8") as file:
                file.write(text)
        elif self.txt is not None:
            print(text, end="", flush=True, file=self.txt)

    def header(self, title: str, facts: Mapping[str, object], notes: Sequence[str]) -> None:
        """A title, a table of facts, and notes."""
        width = max(map(len, facts))
        self.write("", title, *(f"  {name:<{width}}  {value}" for name, value in facts.items()))
        self.write(*(f"  note: {note}" for note in notes))
        self.write("", "  step     free energy / eV   error / eV   Fermi / eV   moment    seconds")

    def step(self, step: "Step") -> None:
        """One SCF step."""
        self.write(
            f"  {step.number:4d} {step.free_energy * HARTREE:20.8f} {step.error * HARTREE:12.2e} "
            f"{step.fermi_level * HARTREE:12.5f} {step.moment:8.4f} {step.seconds:10.3f}"
        )

    def ground_state(self, state: "GroundState", seconds: float) -> None:
        """The energy components of a converged state."""
        rows = [f"  {name:<12} {value * HARTREE:18.8f}" for name, value in state.terms.items()]
        self.write(
            "",
            f"  converged in {len(state.history)} steps, {seconds:.2f} s; energy components / eV",
            *rows,
            f"  {'free energy':<12} {state.free_energy * HARTREE:18.8f}",
            f"  {'energy':<12} {state.energy * HARTREE:18.8f}  (zero width)",
            f"  {'Fermi level':<12} {state.fermi_level * HARTREE:18.8f}",
        )

    def magnetisation(self, magmom: float, magmoms: "np.ndarray") -> None:
        """Total moment and those of the atoms, Bohr magnetons."""
        self.write(f"  {'moment':<12} {magmom:18.6f}", *(f"    atom {i}: {m:10.6f}" for i, m in enumerate(magmoms)))

    def derivatives(self, forces: "np.ndarray", stress: "np.ndarray | None") -> None:
        """Forces, eV/Angstrom, and, where there is one, stress, eV/Angstrom^3 in Voigt order."""
        self.write("  forces / eV/Angstrom", *("  " + " ".join(f"{x:14.8f}" for x in f) for f in forces))
        if stress is not None:
            self.write("  stress / GPa (xx yy zz yz xz xy)", "  " + " ".join(f"{x / GPA:14.6f}" for x in stress))
