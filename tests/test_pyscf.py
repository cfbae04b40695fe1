"""Functionals in PySCF, and molecules there: charge, moments and broken spin symmetry."""

import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import CalculationFailed, InputError, SCFError
from pyscf import dft, gto
from pyscf.pbc import dft as periodic
from pyscf.pbc import gto as periodic_gto
from pyscf.scf import hf

from ase_nnxc.interop.pyscf import energy_tensor, solve_molecule, use_functional
from ase_nnxc.interop.pyscf_response import density_matrices, set_density
from ase_nnxc.ks.response import ResponseError
from ase_nnxc.registry import get_functional
from ase_nnxc.xc import LDA, PBE, R2SCAN, Functional


def solved(atoms: Atoms, **options):
    return solve_molecule(atoms, PBE(), "sto-3g", grid_level=1, **options)


def chain(*moments: float) -> Atoms:
    return Atoms(f"H{len(moments)}", [[0, 0, 5.0 * i] for i in range(len(moments))], magmoms=moments)


@pytest.mark.parametrize("moments", [(1, -1), (1, -1, 1), (-1, 1, -1)])
def test_stretched_hydrogen_with_alternating_moments_has_the_energy_of_its_atoms(moments):
    atom, molecule = solved(chain(1)), solved(chain(*moments))
    assert isinstance(molecule, dft.uks.UKS)
    assert molecule.e_tot == pytest.approx(len(moments) * atom.e_tot, abs=1e-4)


def test_closed_shell_without_moments_is_restricted():
    assert isinstance(solved(chain(0, 0)), dft.rks.RKS)


def test_antiparallel_moments_at_a_short_distance_give_the_closed_shell():
    short = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    energy = solved(short).e_tot
    short.set_initial_magnetic_moments([1, -1])
    assert solved(short).e_tot == pytest.approx(energy, abs=1e-6)


def test_charge_is_that_of_the_keyword_or_of_the_initial_charges():
    ion = Atoms("LiH", [[0, 0, 0], [0, 0, 1.6]], magmoms=[1, 0])
    by_keyword = solved(ion, charge=1)
    ion.set_initial_charges([1, 0])
    assert by_keyword.mol.nelectron == 3
    assert solved(ion).e_tot == pytest.approx(by_keyword.e_tot, abs=1e-8)
    assert solved(ion, charge=1).e_tot == pytest.approx(by_keyword.e_tot, abs=1e-8)


@pytest.mark.parametrize(
    ("charges", "charge", "message"),
    [
        ([1, 0], 0, "charge=0, but the initial charges of the atoms add up to 1"),
        ([0.5, 0], None, "the sum of the initial charges is 0.5: expected a whole number"),
        ([0, 0], 0.5, "charge is 0.5: expected a whole number"),
        ([0, 0], 1, "H2 with 1 electrons cannot have 0 unpaired ones"),
        ([0, 0], 2, "H2 with 0 electrons"),
    ],
)
def test_charge_that_is_contradicted_or_impossible_is_refused(charges, charge, message):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], charges=charges)
    with pytest.raises(InputError, match=message):
        solved(atoms, charge=charge)


def test_second_order_steps_follow_an_scf_that_has_not_converged():
    water = molecule("H2O")
    with pytest.raises(SCFError, match="H2O with sto-3g has not converged"):
        solved(water, max_cycle=4)
    assert solved(water, max_cycle=4, second_order=True).e_tot == pytest.approx(solved(water).e_tot, abs=1e-8)


# ---- PySCF's objects with a functional of this package ---------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_files(monkeypatch):
    """PySCF leaves its temporary files open."""
    monkeypatch.setattr(hf, "MUTE_CHKFILE", True)


WATER = "O 0 0 0; H 0 0.76 0.59; H 0 -0.76 0.59"


def small(mf, functional: Functional | None = None):
    """The object with a coarse grid and tight convergence, with a functional of this package if one is given."""
    if isinstance(mf.grids, dft.Grids):
        mf.grids.level = 0
    mf.conv_tol = 1e-11
    return mf if functional is None else use_functional(mf, functional)


def water():
    return dft.RKS(gto.M(atom=WATER, basis="sto-3g", verbose=0))


def amidogen(kind=dft.UKS):
    return kind(gto.M(atom="N 0 0 0; H 0 0.8 0.64; H 0 -0.8 0.64", basis="sto-3g", spin=1, verbose=0))


def crystal(kind):
    options = {"basis": "gth-szv", "pseudo": "gth-pbe", "mesh": [15, 15, 15], "verbose": 0}
    cell = periodic_gto.M(atom="H 0 0 0; H 0 0 0.74", a="3 0 0; 0 3 0; 0 0 3", **options)
    return kind(cell, cell.make_kpts([1, 1, 2]))


OBJECTS = {
    "RKS": water,
    "UKS": amidogen,
    "ROKS": lambda: amidogen(dft.ROKS),
    "KRKS": lambda: crystal(periodic.KRKS),
    "KUKS": lambda: crystal(periodic.KUKS),
}


@pytest.mark.parametrize(("name", "functional"), [("LDA,PW_MOD", LDA()), ("PBE", PBE()), ("R2SCAN", R2SCAN())])
@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_energy_is_that_of_libxc(make, name, functional):
    reference = small(make())
    reference.xc = name
    assert small(make(), functional).kernel() == pytest.approx(reference.kernel(), abs=1e-8)


@pytest.mark.parametrize("functional", [PBE(), R2SCAN(), get_functional("pbe-clone")], ids=["PBE", "r2SCAN", "neural"])
@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_second_order_scf_finds_the_same_energy(make, functional):
    energy = small(make(), functional).kernel()
    assert small(make(), functional).newton().kernel() == pytest.approx(energy, abs=1e-8)


@pytest.mark.parametrize("singlet", [True, False])
@pytest.mark.parametrize(("name", "functional"), [("PBE", PBE()), ("R2SCAN", R2SCAN())])
def test_excitations_are_those_of_libxc(name, functional, singlet):
    energies = []
    for mf in (small(water(), functional), small(water())):
        mf.xc = mf.xc if energies == [] else name
        mf.kernel()
        excitations = mf.TDA()
        excitations.singlet = singlet
        energies.append(excitations.kernel()[0])
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)


def test_stability_analysis_finds_the_instability_of_a_stretched_bond():
    mf = small(dft.RKS(gto.M(atom="H 0 0 0; H 0 0 3", basis="sto-3g", verbose=0)), PBE())
    mf.kernel()
    assert mf.stability(external=True, return_status=True)[2:] == (True, False)


def test_bands_of_one_point_are_those_of_libxc():
    mf = crystal(periodic.KRKS)
    bands = []
    for functional in (R2SCAN(), None):
        single = small(periodic.RKS(mf.cell, mf.kpts[1]), functional)
        single.xc = single.xc if functional else "R2SCAN"
        single.kernel()
        bands.append(single.get_bands(mf.kpts)[0])
    assert bands[0][0] == pytest.approx(bands[1][0], abs=1e-8)


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_gradient_of_the_energy_is_that_of_differences(make):
    functional = PBE(trainable=("kappa",))
    mf = small(make(), functional)
    mf.kernel()
    energy_tensor(mf).backward()
    energies = []
    for kappa in (0.805, 0.803):
        energies.append(small(make(), PBE(kappa=kappa)).kernel())
    assert functional.kappa.grad.item() == pytest.approx((energies[0] - energies[1]) / 0.002, rel=1e-5)


def test_value_of_the_energy_tensor_is_the_total_energy():
    mf = small(water(), R2SCAN())
    assert energy_tensor(mf.run()).item() == pytest.approx(mf.e_tot, abs=1e-12)


def test_energy_tensor_needs_a_functional_of_this_package():
    with pytest.raises(TypeError, match="call use_functional before its kernel"):
        energy_tensor(small(water()).run())


def test_energy_tensor_needs_a_converged_state():
    mf = small(water(), PBE())
    mf.max_cycle = 1
    with pytest.raises(SCFError, match="not stationary"):
        energy_tensor(mf.run())


def test_object_without_collinear_densities_is_refused():
    with pytest.raises(TypeError, match=r"GKS of PySCF .* expected RKS, UKS"):
        use_functional(dft.GKS(water().mol), PBE())


def test_exact_exchange_of_the_former_functional_is_not_used():
    mf = water()
    mf.xc = "B3LYP"
    assert small(mf, PBE()).kernel() == pytest.approx(small(water(), PBE()).kernel(), abs=1e-10)


def test_conversion_that_loses_the_functional_does_not_run():
    with pytest.raises(KeyError, match="NNXC:PBE"):
        small(water(), PBE()).to_gks().kernel()


def test_functional_that_is_not_finite_is_named():
    class Broken(LDA):
        def forward(self, features):
            return super().forward(features) / (features["density"].sum(0) < 10)

    with pytest.raises(CalculationFailed, match="Broken returns values that are not finite"):
        small(water(), Broken()).kernel()


def test_potential_is_available_in_inference_mode():
    with torch.inference_mode():
        assert small(water(), PBE()).kernel() < -75


# ---- density matrices with gradients


@pytest.mark.parametrize("make", [water, amidogen])
def test_object_that_is_set_to_a_density_has_its_gradients(make):
    functional, slopes = PBE(trainable=("kappa",)), []
    solved = small(make(), functional)
    solved.kernel()
    restored = small(make(), functional)
    set_density(restored, solved.make_rdm1())
    for mf in (solved, restored):
        matrices = density_matrices(mf)
        slopes += torch.autograd.grad(matrices.square().sum(), functional.kappa)
    assert restored.e_tot == pytest.approx(solved.e_tot, abs=1e-9)
    assert matrices.sum(0).numpy(force=True) == pytest.approx(
        solved.make_rdm1().reshape(-1, *matrices.shape[1:]).sum(0)
    )
    assert slopes[1].item() == pytest.approx(slopes[0].item(), rel=1e-6)


def test_response_of_an_object_that_was_solved_again_is_refused():
    functional = PBE(trainable=("kappa",))
    mf = small(water(), functional)
    mf.kernel()
    matrices = density_matrices(mf)
    mf.kernel()
    with pytest.raises(ResponseError, match="orbitals which it no longer has"):
        matrices.sum().backward()


def test_molecule_without_empty_orbitals_has_no_response():
    functional = PBE(trainable=("kappa",))
    mf = small(dft.RKS(gto.M(atom="He", basis="sto-3g", verbose=0)), functional)
    mf.kernel()
    assert torch.autograd.grad(density_matrices(mf).sum(), functional.kappa)[0].item() == 0


def test_orbitals_that_rotate_without_a_change_of_the_energy_have_no_response():
    functional = PBE(trainable=("kappa",))
    mf = small(dft.UKS(gto.M(atom="O 0 0 0; H 0 0 0.97", basis="sto-3g", spin=1, verbose=0)), functional)
    mf.grids.level = 1  # a coarser one breaks the symmetry
    mf.kernel()
    matrices = density_matrices(mf)
    with pytest.raises(ResponseError, match="rotated with almost no change of the energy"):
        matrices[1, 2, 3].backward()  # between p_x and p_y, one of which is empty


def test_object_without_a_response_is_refused():
    unsolved = small(water(), PBE())
    with pytest.raises(SCFError, match="has not converged: its density has no response"):
        density_matrices(unsolved)
    with pytest.raises(TypeError, match="expected RKS or UKS of a molecule"):
        density_matrices(small(amidogen(dft.ROKS), PBE()))
    with pytest.raises(TypeError, match="use_functional"):
        density_matrices(water())
    unsolved.converged, unsolved.mo_occ = True, torch.tensor([2.0, 1.9, 0.1]).numpy()
    with pytest.raises(InputError, match="occupations are fractional"):
        density_matrices(unsolved)
