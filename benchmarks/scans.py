"""Equations of state at a constant mesh of k-points and a constant FFT box, which scripts compare with others'."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from ase.units import GPa

from ase_nnxc import NNXCCalculator
from ase_nnxc.eos import fit_birch_murnaghan

SETTINGS = {
    "smooth_cutoff": True,
    "smearing": {"name": "marzari-vanderbilt", "width": 0.1},
    "convergence": {"energy": 1e-6},
}
VOLUMES = np.linspace(0.94, 1.06, 7)


def equation_of_state(calc: NNXCCalculator, crystal: Callable[[float], Atoms], volume: float) -> list[float]:
    """Return V0, B0 (GPa) and B0' of seven volumes within 6 % of one, with the k-points that belong to this one.

    `crystal` makes the cell of a volume per atom, Angstrom^3. The FFT box is that of the largest volume.
    """
    volumes = volume * VOLUMES
    gpts = calc.resolve(crystal(volumes[-1]))["gpts"]
    calc.set(gpts=gpts, kpts=calc.resolve(crystal(volume))["kpts"])
    energies = [calc.get_potential_energy(crystal(v), force_consistent=True) / len(crystal(v)) for v in volumes]
    fit = fit_birch_murnaghan(torch.tensor(volumes), torch.tensor(energies, dtype=torch.float64))
    return [fit.volume.item(), fit.bulk_modulus.item() / GPa, fit.bulk_derivative.item()]
