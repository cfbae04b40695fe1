"""The functionals under test: clones fitted to molecular densities only, and networks with random weights."""

from dataclasses import dataclass
from pathlib import Path

from ase_nnxc import get_functional, load_functional
from ase_nnxc.checkpoints import save_functional
from ase_nnxc.train.clone import CloneSettings, clone, new_network
from ase_nnxc.train.samples import BASES, MOLECULES, Samples, sample_molecules
from ase_nnxc.xc import Functional

DENSITIES = dict(zip(("all-electron", "pseudo"), BASES.values()))  # basis, pseudopotentials
POINTS, STEPS = 150, 150  # of each molecule; of a fit, at most


@dataclass(frozen=True)
class Network:
    """A network of the kind "constrained" or "mlp", fitted to a parent on a key of `DENSITIES`, or random."""

    parent: str
    kind: str
    densities: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Return the name of the model and of the rows of tables."""
        return f"{self.parent.lower()}-{self.kind}-{self.densities}-{self.seed}"


class Clones:
    """Functionals by name; the fits are kept in a folder."""

    def __init__(self, folder: Path, points: int = POINTS, steps: int = STEPS) -> None:
        self.folder, self.points, self.steps = folder, points, steps
        self.samples: dict[tuple[str, str], Samples] = {}

    def functional(self, network: Network) -> Functional:
        """Return a functional, which is fitted if its model does not exist."""
        parent = get_functional(network.parent)
        functional = new_network(parent, network.kind, network.seed)
        if network.densities == "random":
            return functional
        path = self.folder / f"{network.name}@1"
        if not path.exists():
            samples = self._samples(network.parent, network.densities)
            fit = clone(functional, parent, samples, CloneSettings(steps=self.steps, seed=network.seed))
            description = f"{network.parent} cloned from molecular densities ({network.densities})"
            save_functional(functional, self.folder, name=network.name, description=description, training=fit)
            print(f"{network.name}: {fit['fits']}", flush=True)
        return load_functional(path)

    def _samples(self, parent: str, densities: str) -> Samples:
        """Return the points that clones of a parent are fitted to."""
        if (parent, densities) not in self.samples:
            basis, pseudo = DENSITIES[densities]
            functional = get_functional(parent)
            points = sample_molecules(MOLECULES, functional, self.points, basis=basis, pseudo=pseudo)
            self.samples[parent, densities] = points
        return self.samples[parent, densities]
