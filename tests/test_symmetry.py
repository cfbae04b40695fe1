"""Space groups, irreducible k-points and averages over the operations."""

import time

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene
from kohn_sham import k_mesh
from torch import Tensor

from ase_nnxc.ks.symmetry import Symmetry, _largest_group, find_symmetry, identity
from ase_nnxc.ks.terms.ewald import ewald_energy


def tensor(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def symmetry_of(atoms: Atoms, magmoms=None) -> Symmetry:
    moments = None if magmoms is None else tensor(magmoms)
    return find_symmetry(tensor(atoms.cell[:]), tensor(atoms.get_scaled_positions()), atoms.numbers.tolist(), moments)


def low_symmetry() -> Atoms:
    """Triclinic, of two species, with nothing but inversion, whose centre is not the origin."""
    cell = [[3.1, 0.2, 0.1], [0.9, 4.3, -0.3], [0.4, 1.2, 5.1]]
    x = np.array([[0.35, 0.2, 0.8], [0.15, -0.2, 0.2], [0.25, 0.0, 0.5]])
    return Atoms("O2Mg", cell=cell, scaled_positions=x, pbc=True)


def random_crystal(seed: int) -> Atoms:
    """A cell of some lattice in a skewed, not reduced setting, where mesh reductions have gone wrong."""
    rng = np.random.default_rng(seed)
    lattice = ["fcc", "bcc", "hcp", "diamond", "rocksalt", "sc"][seed % 6]
    atoms = bulk("NaCl" if lattice == "rocksalt" else "Al", lattice, a=4.0)
    change = np.eye(3, dtype=int)
    for _ in range(3):
        i, j = rng.permutation(3)[:2]
        step = np.eye(3, dtype=int)
        step[i, j] = rng.integers(-1, 2)
        change = step @ change
    atoms.set_cell(change @ atoms.cell[:])
    atoms.wrap()
    if seed % 2:
        strain = np.diag(rng.uniform(-0.1, 0.1, 3))
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


CRYSTALS = {
    "Si": bulk("Si"),
    "Al cubic": bulk("Al", cubic=True),
    "Mg": bulk("Mg"),
    "graphene": graphene(vacuum=3),
    "triclinic": low_symmetry(),
    **{f"random {i}": random_crystal(i) for i in range(12)},
}


def star_average(symmetry: Symmetry, kpts: Tensor, function) -> Tensor:
    """A function of k (nk, 3) made symmetric: its mean over the images of k."""
    w = symmetry.rotations.to(torch.float64)
    images = torch.einsum("sij,kj->ski", torch.linalg.inv(w).mT, kpts)
    if symmetry.time_reversal:
        images = torch.cat([images, -images])
    return function(images).mean(0)


@pytest.mark.parametrize(
    ("atoms", "size", "operations", "nirr"),
    [
        (bulk("Al"), (8, 8, 8), 48, 29),
        (bulk("Si"), (4, 4, 4), 48, 8),
        (bulk("Cu"), (6, 6, 6), 48, 16),
        (bulk("Ni"), (5, 5, 5), 48, 10),
        (graphene(vacuum=5), (9, 9, 1), 24, 12),
        (bulk("Mg"), (6, 6, 4), 24, 21),
        (low_symmetry(), (3, 3, 3), 2, 14),
    ],
    ids=["Al", "Si", "Cu", "Ni", "graphene", "Mg", "triclinic"],
)
def test_number_of_operations_and_irreducible_kpoints(atoms, size, operations, nirr):
    """Counts that Quantum ESPRESSO finds for the first five."""
    kpts = k_mesh(size)
    symmetry = symmetry_of(atoms)
    assert len(symmetry) == operations
    irreducible, weights, mapping = symmetry.preserving_mesh(kpts).irreducible_kpoints(kpts)
    assert len(irreducible) == len(weights) == nirr
    assert len(mapping) == len(kpts)


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize(
    ("size", "gamma"), [((4, 4, 4), True), ((4, 4, 4), False), ((3, 4, 2), True), ((5, 3, 3), False)]
)
def test_irreducible_mesh_averages_symmetric_functions_as_full_mesh(name, size, gamma):
    kpts = k_mesh(size, gamma)
    symmetry = symmetry_of(CRYSTALS[name]).preserving_mesh(kpts)
    irreducible, weights, mapping = symmetry.irreducible_kpoints(kpts)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-14)
    generator = torch.Generator().manual_seed(1)
    stars = 2 * torch.pi * torch.randint(-3, 4, (9, 3), generator=generator).to(torch.float64)  # periodic in k
    amplitudes = torch.rand(9, generator=generator, dtype=torch.float64)

    def function(k: Tensor) -> Tensor:
        return torch.cos(k @ stars.mT + amplitudes) @ amplitudes

    full = star_average(symmetry, kpts, function)
    reduced = star_average(symmetry, irreducible, function)
    torch.testing.assert_close(full, reduced[mapping], rtol=0, atol=1e-10)  # each point has its representative's value
    assert float(weights @ reduced) == pytest.approx(float(full.mean()), abs=1e-12)


def test_skewed_cells_have_all_operations_of_their_lattice():
    counts = [len(symmetry_of(random_crystal(seed))) for seed in range(0, 12, 2)]
    assert counts == [48, 24, 48, 48, 24, 48]


@pytest.mark.parametrize("name", CRYSTALS)
def test_operations_are_a_group_that_maps_the_crystal(name):
    atoms = CRYSTALS[name]
    symmetry = symmetry_of(atoms)
    x, numbers = atoms.get_scaled_positions(), atoms.numbers
    codes = set()
    for w, t, atom_map in zip(symmetry.rotations.numpy(), symmetry.translations.numpy(), symmetry.atom_maps.numpy()):
        miss = x @ w.T + t - x[atom_map]
        assert np.abs(miss - miss.round()).max() < 1e-6
        assert (numbers[atom_map] == numbers).all()
        codes.add((*w.flat, *atom_map))
    assert len(codes) == len(symmetry)
    for w, a in zip(symmetry.rotations.numpy(), symmetry.atom_maps.numpy()):
        for v, b in zip(symmetry.rotations.numpy()[:8], symmetry.atom_maps.numpy()[:8]):
            assert (*(w @ v).flat, *a[b]) in codes


def test_operations_that_do_not_close_are_reduced_to_a_group():
    symmetry = symmetry_of(bulk("Al"))
    kept = torch.ones(48, dtype=torch.bool)
    kept[17] = False
    group = _largest_group(symmetry._subgroup(kept))
    assert 1 < len(group) < 48
    assert 48 % len(group) == 0
    rotations = {tuple(w.flatten().tolist()) for w in group.rotations}
    assert {tuple((v @ w).flatten().tolist()) for v in group.rotations for w in group.rotations} == rotations
    assert len(_largest_group(symmetry)) == 48


def test_atoms_that_miss_their_places_lose_the_operation():
    atoms = bulk("Si", cubic=True)
    full = len(symmetry_of(atoms))
    atoms.positions[3, 0] += 1e-3
    assert len(symmetry_of(atoms)) < full / 8
    atoms.rattle(0.01, seed=3)
    assert len(symmetry_of(atoms)) == 1


def test_silicon_has_quarter_translations_that_the_box_must_carry():
    symmetry = symmetry_of(bulk("Si"))
    assert symmetry.box_multiples() == (4, 4, 4)
    assert len(symmetry.preserving_box((32, 32, 32))) == 48
    assert len(symmetry.preserving_box((30, 30, 30))) == 24  # those about an atom at the origin
    assert len(symmetry.preserving_box((32, 32, 30))) < 24
    centred = bulk("Si")
    centred.set_scaled_positions([[1 / 8] * 3, [-1 / 8] * 3])
    assert symmetry_of(centred).box_multiples() == (2, 2, 2)
    assert len(symmetry_of(centred).preserving_box((30, 30, 30))) == 48


def test_screw_axis_of_magnesium_needs_an_even_box():
    symmetry = symmetry_of(bulk("Mg"))
    assert symmetry.box_multiples() == (3, 3, 2)
    assert len(symmetry.preserving_box((24, 24, 40))) == 24
    assert len(symmetry.preserving_box((24, 24, 45))) == 12
    assert len(symmetry.preserving_box((24, 30, 40))) < 24


def test_a_mesh_keeps_the_operations_of_its_shape():
    symmetry = symmetry_of(bulk("Al", cubic=True))
    counts = [len(symmetry.preserving_mesh(k_mesh(size, True))) for size in [(4, 4, 4), (4, 4, 3), (4, 3, 2)]]
    assert counts == [192, 64, 32]
    one = tensor([[0.1, 0.2, 0.3]])
    assert len(symmetry.preserving_mesh(one)) == 8  # four translations, with inversion as time reversal
    no_reversal = identity(4)
    both = torch.cat([one, -one])
    assert len(no_reversal.irreducible_kpoints(both)[0]) == 2


def test_kpoints_with_repetitions_keep_their_weights():
    """An operation that swaps points of different multiplicity must go: the list is not symmetric under it."""
    symmetry = symmetry_of(bulk("Al", cubic=True))
    kpts = tensor([[0.25, 0, 0], [0, 0.25, 0], [0, 0.25, 0]])
    kept = symmetry.preserving_mesh(kpts)
    _, weights, mapping = kept.irreducible_kpoints(kpts)
    assert weights.tolist() == pytest.approx([1 / 3, 2 / 3])
    assert mapping.tolist() == [0, 1, 1]


def test_moments_break_symmetry_and_antiferromagnets_keep_their_sublattices():
    atoms = bulk("Fe", "bcc", a=2.9, cubic=True)
    assert len(symmetry_of(atoms)) == 96
    assert len(symmetry_of(atoms, [2.0, 2.0])) == 96
    antiferromagnet = symmetry_of(atoms, [2.0, -2.0])
    assert len(antiferromagnet) == 48  # without the body-centring translation, which flips spins
    assert (antiferromagnet.atom_maps == torch.arange(2)).all()
    assert len(symmetry_of(atoms, [2.0, 1.0])) == 48
    assert len(symmetry_of(atoms, [0.0, 0.0])) == 96
    rows = bulk("Ni", cubic=True)
    assert len(symmetry_of(rows, [1.0, 1.0, -1.0, -1.0])) == 32  # tetragonal layers, two centrings


@pytest.mark.parametrize("name", CRYSTALS)
def test_symmetrized_density_is_invariant_under_each_operation(name):
    shape = (12, 12, 24) if name == "graphene" else (12, 12, 12)
    symmetry = symmetry_of(CRYSTALS[name]).preserving_box(shape)
    orbits = symmetry.grid_orbits(shape)
    assert int(orbits.counts.sum()) == np.prod(shape)
    assert (orbits.labels[orbits.representatives] == torch.arange(len(orbits.counts))).all()
    field = torch.rand((2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    symmetric = orbits.symmetrize(field)
    torch.testing.assert_close(symmetric.sum(), field.sum())
    n = np.array(shape)
    points = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    group_mean = torch.zeros_like(field)
    for w, t in zip(symmetry.rotations.numpy(), symmetry.translations.numpy()):
        image = (points / n @ w.T + t) * n
        assert np.abs(image - image.round()).max() < 1e-9
        i, j, k = (image.round().astype(int) % n).T
        moved = symmetric[:, i, j, k].view(symmetric.shape)
        torch.testing.assert_close(moved, symmetric, rtol=0, atol=0)
        group_mean += field[:, i, j, k].view(field.shape) / len(symmetry)
    torch.testing.assert_close(symmetric, group_mean, rtol=0, atol=1e-13)


def test_a_search_that_fails_leaves_time_reversal_alone():
    """Atoms on top of each other, which is for others to refuse."""
    symmetry = symmetry_of(Atoms("H2", cell=[3, 3, 3], positions=[[0, 0, 0], [0, 0, 1e-9]], pbc=True))
    assert len(symmetry) == 1
    assert symmetry.time_reversal


def test_orbits_of_a_box_that_an_operation_leaves_are_an_error():
    with pytest.raises(ValueError, match="do not map an FFT box"):
        symmetry_of(bulk("Si")).grid_orbits((30, 30, 30))


@pytest.mark.parametrize("name", ["Mg", "Al cubic", "triclinic", "random 1", "random 3", "random 9"])
def test_forces_and_stress_of_a_symmetric_energy_are_unchanged_and_noise_is_averaged(name):
    atoms = CRYSTALS[name]
    symmetry = symmetry_of(atoms)
    cell, x = tensor(atoms.cell[:]), tensor(atoms.get_scaled_positions())
    charges = tensor(atoms.numbers.astype(float))
    strain = torch.zeros((3, 3), dtype=torch.float64, requires_grad=True)
    moved = torch.zeros((len(x), 3), dtype=torch.float64, requires_grad=True)
    deformed = cell + cell @ (strain + strain.mT) / 2
    energy = ewald_energy(deformed, x + moved @ torch.linalg.inv(cell), charges)
    stress, forces = torch.autograd.grad(energy, (strain, moved))
    tolerance = 1e-12 * float(stress.abs().max())
    torch.testing.assert_close(symmetry.symmetrize_stress(stress, cell), stress, rtol=0, atol=tolerance)
    torch.testing.assert_close(symmetry.symmetrize_forces(forces, cell), forces, rtol=0, atol=tolerance)
    noise = torch.rand(forces.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once = symmetry.symmetrize_forces(noise, cell)
    torch.testing.assert_close(symmetry.symmetrize_forces(once, cell), once, rtol=0, atol=1e-12)
    if len(symmetry) > 1:
        assert (once - noise).abs().max() > 0.01


def test_identity_leaves_everything():
    symmetry = identity(2)
    kpts = k_mesh((2, 3, 4), True)
    irreducible, _, mapping = symmetry.preserving_mesh(kpts).irreducible_kpoints(kpts)
    assert irreducible.equal(kpts)
    assert mapping.equal(torch.arange(24))
    field = torch.rand((3, 4, 5), dtype=torch.float64)
    assert symmetry.grid_orbits((3, 4, 5)).symmetrize(field).equal(field)


def test_large_mesh_has_the_right_number_of_irreducible_points():
    symmetry, kpts = symmetry_of(bulk("Al")), k_mesh((18, 18, 18))
    assert len(symmetry.preserving_mesh(kpts).irreducible_kpoints(kpts)[0]) == 195


@pytest.mark.timing
def test_large_meshes_and_boxes_take_a_fraction_of_a_second():
    symmetry, kpts = symmetry_of(bulk("Al")), k_mesh((18, 18, 18))
    start = time.perf_counter()
    symmetry.preserving_mesh(kpts).irreducible_kpoints(kpts)
    symmetry.grid_orbits((48, 48, 48))
    assert time.perf_counter() - start < 1  # 0.1 s when the machine is idle
