"""Time and memory of training epochs, and time of gradients: writes benchmarks/training.json.

    python benchmarks/training.py [--epochs 3] [--crystals Al Cu ...]
    python benchmarks/training.py --check [--crystals Al Cu ...]

The benchmark uses the nine crystals of arXiv:2602.15923, A.6, with five volumes each, and the functional of that paper,
a HybridXC of PBE and a network, which is fitted to the lattice constants of that table, with pseudopotentials generated
for PBE and their recommended cutoffs. "MgO 2.661" is the polymorph of the CsCl type; "CaF2 3.900" is the length of the
primitive vector. Then, for one structure of each crystal, it measures an SCF from the beginning, an SCF after a step of
the optimizer, and the gradient of a free energy. Times are processor times with one thread, which do not depend on
other processes; for epochs wall times are given, too. --check gives the lattice constants of PBE with these settings,
and their changes with a higher cutoff and with more k-points.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.build import bulk
from ase.units import Hartree

from ase_nnxc import NNXCCalculator, __version__
from ase_nnxc.eos.birch_murnaghan import fit_birch_murnaghan
from ase_nnxc.train.objectives import LatticeConstant
from ase_nnxc.train.records import calculators_for, experimental_solid, scaled_structures
from ase_nnxc.train.trainer import Trainer, TrainerSettings
from ase_nnxc.xc import NNGGA, PBE, HybridXC

OUTPUT = Path(__file__).with_suffix(".json")
FCC = {"Al": 4.05, "Ag": 4.09, "Pd": 3.89, "Rh": 3.80, "Cu": 3.615, "Ca": 5.58, "Ni": 3.52}
SETTINGS: dict[str, Any] = {
    "kpts": (4, 4, 4),
    "pseudos": "oncv-PBE",
    "smooth_cutoff": True,
    "smearing": {"name": "marzari-vanderbilt", "width": 0.3},
    "convergence": {"energy": 1e-5},
}
FINER = {"ecut": {"ecut": 90 * Hartree}, "kpts": {"kpts": (6, 6, 6)}}
LEARNING_RATE = 1e-3
POINTS, SPAN = 5, 0.08


def crystals() -> dict[str, tuple[Atoms, float]]:
    """Return cells by name, with the lattice constant of the conventional cell in Angstrom; the cheapest first."""
    cells = {name: (bulk(name, "fcc", a=a), a) for name, a in FCC.items()}
    cells["MgO"] = (bulk("MgO", "cesiumchloride", a=2.661), 2.661)
    a = 3.900 * 2**0.5
    cells["CaF2"] = (bulk("CaF2", "fluorite", a=a), a)
    return cells


def calculator(xc: Any, **changes: Any) -> NNXCCalculator:
    """Return the calculator of a functional."""
    return NNXCCalculator(xc, **SETTINGS | changes)


class EpochClock:
    """A constant learning rate, and the processor time at each call."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, _: int) -> float:
        """Return the factor of the learning rate."""
        self.times.append(time.process_time())
        return 1.0

    def config(self) -> dict[str, str]:
        """Return what identifies the function when the trainer compares runs."""
        return {"name": "constant"}


def train(chosen: dict[str, tuple[Atoms, float]], epochs: int) -> dict[str, Any]:
    """Return the time of each epoch, s, and the peak memory of the process."""
    functional = HybridXC(NNGGA(), PBE())
    records = [experimental_solid(n, atoms, a, a, points=POINTS, span=SPAN) for n, (atoms, a) in chosen.items()]
    optimizer = torch.optim.Adam(functional.parameters(), lr=LEARNING_RATE)
    clock = EpochClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            calculator(functional),
            records,
            [LatticeConstant(100.0)],
            optimizer=optimizer,
            scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, clock),  # is called at the end of each epoch
            settings=TrainerSettings(epochs=epochs, memory=16.0),
            folder=folder,
        )
        history = trainer.run()
    seconds = [round(after - before, 2) for before, after in pairwise(clock.times)]
    return {
        "seconds_of_epochs": seconds,
        "wall_seconds_of_epochs": [epoch["seconds"] for epoch in history],
        "later_over_first": [round(s / seconds[0], 3) for s in seconds[1:]],
        "losses": [epoch["loss"] for epoch in history],
        "failed": trainer.failures,
        "peak_memory_GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "parameters": sum(p.numel() for p in functional.parameters()),
    }


def measure(atoms: Atoms) -> dict[str, float]:
    """Return times of an SCF from the beginning, of the SCF after a step, and of a gradient, s; steps of the SCFs."""
    functional = HybridXC(NNGGA(), PBE())
    optimizer = torch.optim.Adam(functional.parameters(), lr=LEARNING_RATE)
    calc = calculator(functional)
    times = {}
    for name in ("cold", "warm"):
        clock = time.process_time()
        calc.calculate(atoms, ["free_energy"])
        times |= {f"{name}_s": time.process_time() - clock, f"{name}_steps": len(calc.history)}
        clock = time.process_time()
        optimizer.zero_grad()
        calc.energy_tensor(atoms).backward()
        times["gradient_s"] = time.process_time() - clock
        optimizer.step()
    times["gradient_over_warm"] = times["gradient_s"] / times["warm_s"]
    times["gradient_over_cold"] = times["gradient_s"] / times["cold_s"]
    return {name: round(value, 4) for name, value in times.items()}


def lattice_constant(atoms: Atoms, a: float, **changes: Any) -> float:
    """Return the lattice constant of PBE, Angstrom."""
    structures = scaled_structures(atoms, POINTS, SPAN)
    calculators = calculators_for(structures, calculator("PBE", **changes))
    energies = []
    for one, calc in zip(structures, calculators):
        calc.calculate(one, ["free_energy"])
        energies.append(calc.results["free_energy"])
    volumes = [one.get_volume() for one in structures]
    fit = fit_birch_murnaghan(*(torch.tensor(x, dtype=torch.float64, device="cpu") for x in (volumes, energies)))
    return a * (float(fit.volume) / atoms.get_volume()) ** (1 / 3)


def check(atoms: Atoms, a: float) -> dict[str, float]:
    """Return the lattice constant, and its changes with finer settings, per cent."""
    a0 = lattice_constant(atoms, a)
    changes = {f"finer_{n}_percent": 100 * (lattice_constant(atoms, a, **c) / a0 - 1) for n, c in FINER.items()}
    return {"a0_A": round(float(a0), 4), **{name: round(float(value), 3) for name, value in changes.items()}}


def main() -> None:
    """Measure, and add the results to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--crystals", nargs="+", default=list(crystals()), metavar="NAME")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {name: crystals()[name] for name in arguments.crystals}
    data = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    data |= {
        "settings": SETTINGS | {"points": POINTS, "span": SPAN, "learning_rate": LEARNING_RATE},
        "machine": {"version": __version__, "torch": torch.__version__, "cpu": platform.machine(), "threads": 1},
    }
    if arguments.check:
        for name, (atoms, a) in chosen.items():
            data.setdefault("check", {})[name] = check(atoms, a)
            print(name, data["check"][name], flush=True)
            OUTPUT.write_text(json.dumps(data, indent=1) + "\n")
        return
    data["training"] = {"crystals": list(chosen), "load": os.getloadavg()[0], **train(chosen, arguments.epochs)}
    print(data["training"], flush=True)
    data["structures"] = {}
    for name, (atoms, _) in chosen.items():
        data["structures"][name] = measure(atoms)
        print(name, data["structures"][name], flush=True)
    OUTPUT.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
