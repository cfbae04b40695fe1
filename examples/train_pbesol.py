"""Recover a functional: kappa and mu of PBEsol's exchange from PBEsol energies of three crystals.

The targets are relative energies of equations of state, so that a constant shift of the energies has no effect. kappa
starts at 1.0 or at the given value, and mu at PBE's 0.2195. PBEsol has 0.804 and 10/81 = 0.1235. The targets use the
same cutoff and mesh, so that both parameters can be recovered at any cutoff and mesh. With these settings a run takes a
few minutes.

    python examples/train_pbesol.py [KAPPA]
"""

import sys

import torch
from ase.build import bulk

from ase_nnxc import NNXCCalculator
from ase_nnxc.train.objectives import EnergyDifferences
from ase_nnxc.train.records import label, scaled_structures
from ase_nnxc.train.trainer import Trainer, TrainerSettings
from ase_nnxc.xc import PBE

start = float(sys.argv[1]) if sys.argv[1:] else 1.0
settings = {"ecut": 550, "kpts": {"size": (4, 4, 4), "gamma": True}, "smooth_cutoff": True}
crystals = {"Al": bulk("Al", a=4.02), "Si": bulk("Si", a=5.43), "MgO": bulk("MgO", "rocksalt", a=4.22)}
teacher = NNXCCalculator("PBEsol", **settings)
records = [label(name, scaled_structures(atoms, points=5), teacher) for name, atoms in crystals.items()]

functional = PBE(kappa=start, mu=0.2195, beta=0.046, trainable=("kappa", "mu"))
trainer = Trainer(
    NNXCCalculator(functional, **settings),
    records,
    [EnergyDifferences(weight=1e6)],
    optimizer=torch.optim.LBFGS(functional.parameters(), lr=0.1, max_iter=20, line_search_fn="strong_wolfe"),
    settings=TrainerSettings(epochs=2),
    folder=f"train-pbesol-{start}",
)
history = trainer.run()
print(f"kappa = {functional.kappa.item():.4f}, mu = {functional.mu.item():.4f}, loss = {history[-1]['loss']:.1e}")
