"""Train the clone of PBE on the PBEsol equation of state of one solid, and test it on lattice constants of others.

The fit uses only differences of five free energies of LiF. The trained parameters are the output layers of the two
networks and the mu of exchange, 35 of 707: first with the orbitals of the clone, which takes very little time, then
self-consistently. Targets and tests are PBEsol calculations of this program with the same pseudopotentials and
settings.

    python examples/finetune_clone.py [SOLID ...]

trains (ten minutes on one core), saves the model in finetune-clone/models, and tests it on the named solids (default:
all).
"""

import sys
from typing import Any

import torch
from ase.build import bulk
from ase.units import Hartree

from ase_nnxc import NNXCCalculator, get_functional
from ase_nnxc.train.objectives import EnergyDifferences
from ase_nnxc.train.records import Record, label, scaled_structures
from ase_nnxc.train.trainer import Trainer, TrainerSettings, evaluate

SOLIDS = {  # structure, lattice constant near PBEsol's, Angstrom; cutoff, Hartree; mesh of k-points
    "LiF": ("rocksalt", 4.00, 80, 4),
    "C": ("diamond", 3.56, 45, 4),
    "Ge": ("diamond", 5.68, 25, 6),
    "NaCl": ("rocksalt", 5.63, 80, 3),
    "Ca": ("fcc", 5.46, 45, 7),
    "Ag": ("fcc", 4.07, 45, 8),
    "Pd": ("fcc", 3.88, 45, 8),
    "CaO": ("rocksalt", 4.77, 75, 4),
}
TRAINING = ("LiF",)


def settings(name: str) -> dict[str, Any]:
    """Return the settings of the calculators for a solid."""
    _, _, ecut, mesh = SOLIDS[name]
    kpts = {"size": (mesh,) * 3, "gamma": True}
    return {"ecut": ecut * Hartree, "kpts": kpts, "pseudos": "gth-pbe", "smooth_cutoff": True}


def record(name: str) -> Record:
    """Return the record of PBEsol free energies at five volumes."""
    structure, a, _, _ = SOLIDS[name]
    structures = scaled_structures(bulk(name, structure, a=a))
    return label(name, structures, NNXCCalculator("PBEsol", **settings(name)))


if __name__ == "__main__":
    functional = get_functional("pbe-clone")
    for name, parameter in functional.named_parameters():
        parameter.requires_grad_(name.endswith(("mu", "weights.2", "biases.2")))
    trained = [p for p in functional.parameters() if p.requires_grad]
    trainer = Trainer(
        NNXCCalculator(functional, **settings(TRAINING[0])),
        [record(name) for name in TRAINING],
        [EnergyDifferences(weight=1e6)],
        optimizer=torch.optim.LBFGS(trained, max_iter=20, line_search_fn="strong_wolfe"),
        settings=TrainerSettings(epochs=5, fixed_density_epochs=3),
        folder="finetune-clone",
    )
    trainer.run()
    print(trainer.history[-1]["errors"])
    trainer.save(
        "finetune-clone/models", name="pbesol-of-lif", description="PBE's clone fitted to PBEsol energies of LiF."
    )
    for name in sys.argv[1:] or SOLIDS:
        pbesol = record(name)
        for xc in ("PBE", functional):
            [row] = evaluate(NNXCCalculator(xc, **settings(name)), [pbesol])
            error = 100 * row["errors"]["lattice_constant"]["rms"]
            print(f"{name}: {xc if isinstance(xc, str) else 'trained'} {error:.3f} % from PBEsol's a0", flush=True)
