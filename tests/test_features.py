"""Features: a nonlocal one, registered from outside, goes all the way; what cannot be made is refused by name."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import InputError
from kohn_sham import basis_of, crystal_of, rattled_silicon_carbide, slope, triplet
from torch import Tensor

from ase_nnxc import NNXCCalculator, PySCFCalculator, load_functional, save_functional
from ase_nnxc.interop.pyscf import solve_molecule
from ase_nnxc.ks.basis import Basis
from ase_nnxc.ks.crystal import Crystal
from ase_nnxc.ks.fields import Fields
from ase_nnxc.ks.system import System
from ase_nnxc.ks.terms.xc import ExchangeCorrelation
from ase_nnxc.train.clone import clone
from ase_nnxc.train.penalties import Bounds
from ase_nnxc.train.samples import sample_mesh
from ase_nnxc.xc import LDA, PBE, R2SCAN, Feature, Functional, Sum, register_architecture, register_feature
from ase_nnxc.xc.features import FEATURES, FFTGrid, feature, fields_needed, gradient
from ase_nnxc.xc.functional import check_functional
from ase_nnxc.xc.spins import spin_sum

LENGTH2 = 0.5  # bohr^2


def convolve(fields, grid):
    """Spin densities convolved with a Gaussian: exp(-LENGTH2 G^2 / 2) n_G."""
    axes = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in grid.shape]
    g2 = (torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ grid.reciprocal).square().sum(-1)
    density = torch.fft.fftn(fields["density"], dim=(-3, -2, -1))
    return torch.fft.ifftn(density * torch.exp(-0.5 * LENGTH2 * g2), dim=(-3, -2, -1)).real


def smooth_feature(**changes) -> Feature:
    kwargs = {"name": "smooth", "components": (), "fields": ("density",), "make": convolve}
    return Feature(**kwargs | {"test_points": lambda points: 0.9 * points["density"]} | changes)


@pytest.fixture
def smooth(monkeypatch):
    """The feature "smooth", for one test."""
    for name in list(FEATURES):
        monkeypatch.setitem(FEATURES, name, FEATURES[name])
    monkeypatch.setitem(FEATURES, "smooth", smooth_feature())


@register_architecture("test-nonlocal", 1)
class Nonlocal(Functional):
    """LDA at a density that is averaged with its surroundings, and a product with the gradient."""

    features = ("smooth", "density", "gradient")
    closed_shell = True

    def __init__(self) -> None:
        super().__init__()
        self.lda = LDA()
        self.weight = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        slope2 = spin_sum(features["gradient"]).square().sum(0)
        energy = self.lda({"density": self.weight * features["smooth"] + (1 - self.weight) * features["density"]})
        return energy - 0.1 * spin_sum(features["smooth"]) * slope2


def xc_energy(functional: Functional, fields: Tensor, crystal: Crystal, basis: Basis) -> Tensor:
    """Energy of fields (nspin, n1, n2, n3)."""
    term = ExchangeCorrelation(System(crystal, basis, functional))
    return term.energy(Fields(basis.grid, crystal.nspin, real=fields))


def problem(atoms: Atoms):
    """Crystal and basis without symmetry, and plausible total and magnetisation density on the grid."""
    crystal = crystal_of(atoms)
    basis = basis_of(crystal, 5.0, (1, 1, 1), symmetric=False)
    generator = torch.Generator().manual_seed(0)
    nspin = crystal.nspin
    noise = torch.randn(nspin, len(basis.grid.index), dtype=torch.complex128, generator=generator)
    waves = basis.grid.to_real(noise / len(basis.grid.index))
    fields = 0.02 * waves / waves.abs().max()
    fields[0] += 0.05
    return crystal, basis, fields


@pytest.mark.parametrize("atoms", [rattled_silicon_carbide(), triplet()], ids=["closed shell", "spins"])
def test_potential_of_a_nonlocal_feature_is_the_derivative_of_the_energy(smooth, atoms):
    crystal, basis, fields = problem(atoms)
    functional = Nonlocal()
    term = ExchangeCorrelation(System(crystal, basis, functional))
    energy, potential = term.potential(Fields(basis.grid, crystal.nspin, real=fields))
    assert energy == pytest.approx(float(xc_energy(functional, fields, crystal, basis).detach()), abs=1e-14)
    generator = torch.Generator().manual_seed(3)
    for field in range(len(fields)):
        change = torch.zeros_like(fields)
        change[field] = torch.rand(fields.shape[1:], dtype=torch.float64, generator=generator)
        numerical = slope(lambda h, c=change: float(xc_energy(functional, fields + h * c, crystal, basis)), 1e-4)
        expected = float((potential * change).sum() * crystal.volume / basis.grid.size)
        assert numerical == pytest.approx(expected, rel=1e-8)


def test_energy_of_a_nonlocal_feature_depends_on_the_cell(smooth):
    crystal, basis, fields = problem(rattled_silicon_carbide())
    strain = torch.tensor([[0.2, 0.5, 0.0], [0.5, -0.3, 0.1], [0.0, 0.1, 0.4]], dtype=torch.float64)

    def energy(h: Tensor) -> Tensor:
        lattice = crystal.lattice @ (torch.eye(3, dtype=torch.float64) + h * strain)
        return xc_energy(Nonlocal(), fields, type(crystal)(lattice, crystal.positions, crystal.potentials), basis)

    h = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (stress,) = torch.autograd.grad(energy(h), h)
    numerical = slope(lambda x: float(energy(torch.tensor(x, dtype=torch.float64))), 1e-3)
    assert numerical == pytest.approx(float(stress.detach()), rel=1e-8)


def test_symmetry_does_not_change_the_energy_of_a_nonlocal_feature(smooth):
    crystal = crystal_of(bulk("Si"))
    symmetric, plain = (basis_of(crystal, 5.0, (1, 1, 1), symmetric=on, gpts=(16, 16, 16)) for on in (True, False))
    noise = torch.randn(1, len(plain.grid.index), dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    waves = symmetric.orbits.symmetrize(symmetric.grid.to_real(noise))
    fields = symmetric.grid.to_fourier(0.05 + 0.02 * waves / waves.abs().max())
    bases = (symmetric, plain)
    energies = [float(xc_energy(Nonlocal(), basis.grid.to_real(fields), crystal, basis)) for basis in bases]
    assert len(symmetric.fine_orbits.counts) < len(plain.fine_orbits.counts) / 5
    assert energies[0] == pytest.approx(energies[1], abs=1e-13)


def test_forces_and_stress_with_a_nonlocal_feature_are_derivatives_of_the_energy(smooth):
    calculator = NNXCCalculator(
        Nonlocal(), ecut=150, kpts=(1, 1, 1), pseudos="gth-pbe", smooth_cutoff=True, convergence={"energy": 1e-12}
    )
    atoms = Atoms("H2", cell=[3.2, 3.4, 3.6], positions=[[0.1, 0.0, 0.2], [0.6, 0.3, 0.8]], pbc=True)
    atoms.calc = calculator
    force, stress = atoms.get_forces()[1, 2], atoms.get_stress()[2]
    energies = []
    for step in (-1e-3, 1e-3):
        moved, strained = atoms.copy(), atoms.copy()
        moved.positions[1, 2] += step
        strained.set_cell(atoms.cell.array @ np.diag([1.0, 1.0, 1.0 + step]), scale_atoms=True)
        for copy in (moved, strained):
            copy.calc = calculator
        energies.append([copy.get_potential_energy(force_consistent=True) for copy in (moved, strained)])
    by_position, by_strain = (np.array(energies[1]) - energies[0]) / 2e-3
    assert -by_position == pytest.approx(force, abs=1e-4)
    assert by_strain / atoms.get_volume() == pytest.approx(stress, abs=1e-4)


def test_functional_of_a_registered_feature_is_accepted_saved_and_loaded(smooth, tmp_path):
    functional = Sum([(1.0, Nonlocal()), (1.0, PBE()), (-1.0, LDA())])
    check_functional(functional)
    folder = save_functional(functional, tmp_path, name="test-nonlocal", description="A test.")
    loaded = load_functional(folder)
    assert loaded.card["features"] == ["density", "gradient", "smooth"]
    assert set(loaded.card["self_test"]["inputs"]) == {"density", "gradient", "smooth"}
    points = {"density": torch.rand(2, 4).double(), "gradient": torch.rand(2, 3, 4).double()}
    points["smooth"] = points["density"] + 0.1
    assert torch.equal(loaded(points), functional(points))


def test_feature_that_is_not_registered_is_refused_with_the_closest_one():
    with pytest.raises(ValueError, match="Nonlocal: unknown feature 'smooth': expected one of density, gradient, tau"):
        check_functional(Nonlocal())
    with pytest.raises(ValueError, match="did you mean 'gradient'"):
        feature("gradeint")


def test_pyscf_refuses_a_feature_that_it_does_not_have():
    with pytest.raises(ValueError, match="Nonlocal reads the features smooth; PySCF only has density, gradient, tau"):
        solve_molecule(Atoms("He"), Nonlocal(), "sto-3g")


def test_calculator_of_pyscf_refuses_a_feature_that_it_does_not_have(smooth):
    with pytest.raises(InputError, match="xc: Nonlocal reads the features smooth; PySCF only has"):
        PySCFCalculator(Nonlocal())


def test_points_for_training_refuse_a_feature_that_they_do_not_have():
    message = "Nonlocal reads the features smooth; a set of samples only has density, gradient, tau"
    with pytest.raises(ValueError, match=message):
        clone(PBE(mu=0.2, trainable=("mu",)), Nonlocal(), sample_mesh(8))
    with pytest.raises(ValueError, match=message):
        Bounds(1.0, points=8)(Nonlocal())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "density"}, "'density' is already registered by ase_nnxc.xc.features._density"),
        ({"fields": ("density", "current")}, "unknown field 'current': expected one of density, tau"),
        ({"components": (3, 0)}, r"components=\(3, 0\) must be positive integers"),
    ],
)
def test_wrong_feature_is_not_registered(smooth, changes, message):
    with pytest.raises(ValueError, match=message):
        register_feature(smooth_feature(**changes))


def test_module_that_registers_a_feature_can_be_imported_again(smooth):
    register_feature(smooth_feature())
    assert feature("smooth").make is convolve


@pytest.mark.parametrize(
    ("functional", "fields"),
    [(LDA(), ("density",)), (PBE(), ("density",)), (R2SCAN(), ("density", "tau")), (Nonlocal(), ("density",))],
)
def test_fields_follow_from_the_features(smooth, functional, fields):
    assert fields_needed(functional.features) == fields


def test_density_is_a_field_of_every_calculation():
    assert fields_needed(("tau",)) == ("density", "tau")


def test_gradient_of_waves_is_analytic():
    shape, lattice = (6, 8, 5), torch.tensor([[4.0, 0.3, 0.0], [0.0, 5.0, 0.2], [0.5, 0.0, 6.0]], dtype=torch.float64)
    reciprocal = 2 * torch.pi * torch.linalg.inv(lattice).mT
    axes = [torch.arange(n, dtype=torch.float64) / n for n in shape]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1) @ lattice
    wave = torch.tensor([1.0, -2.0, 2.0], dtype=torch.float64) @ reciprocal
    phase = points @ wave
    expected = -wave[:, None, None, None] * torch.sin(phase)
    torch.testing.assert_close(gradient(torch.cos(phase)[None], FFTGrid(shape, reciprocal))[0], expected)
