"""Lattice scans with ASE's EMT as a stand-in for the calculator: bracket, resume, folder, failures."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, InputError, SCFError
from ase.calculators.emt import EMT
from ase.io import read
from ase.units import Hartree

from ase_nnxc import NNXCCalculator
from ase_nnxc.eos import Point, ScanError, scan_eos
from ase_nnxc.eos.faults import faults
from ase_nnxc.eos.fit import fit_energies
from ase_nnxc.folder_lock import folder_lock

A_EMT = 3.5898  # Angstrom, lattice constant of copper in EMT (scan from 3.59 with 13 points)


class Counting(EMT):
    """EMT that counts its calculations, and fails or is interrupted at chosen ones."""

    def __init__(self, fail=(), interrupt=None):
        super().__init__()
        self.count, self.volumes, self.fail, self.interrupt = 0, [], fail, interrupt

    def calculate(self, atoms, properties, system_changes):
        self.count += 1
        if self.count == self.interrupt:
            raise KeyboardInterrupt
        if self.count in self.fail:
            raise SCFError("not converged after 100 steps")
        super().calculate(atoms, properties, system_changes)
        self.volumes.append(atoms.get_volume())


class Boxed(Counting):
    """Has a mesh and a box like the real calculator: the box follows the volume unless it is set."""

    default_parameters = EMT.default_parameters | {"kpts": None, "gpts": None, "smooth_cutoff": False}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.used = []

    def resolve(self, atoms):
        box = self.parameters.gpts or (int(20 * atoms.get_volume() ** (1 / 3)),) * 3
        return {"kpts": self.parameters.kpts or (4, 4, 4), "gpts": box}

    def calculate(self, atoms, properties, system_changes):
        super().calculate(atoms, properties, system_changes)
        self.used.append((self.parameters.gpts, self.parameters.smooth_cutoff))


def copper(a: float) -> Atoms:
    return bulk("Cu", a=a)


@pytest.mark.parametrize(("start", "count"), [(3.59, 7), (3.40, 15), (3.80, 16), (4.1, 28)])
def test_bracket_is_extended_until_the_minimum_is_inside(start, count):
    calc = Counting()
    result = scan_eos(copper(start), calc, max_points=31)
    below = [p for p in result.points if p.volume_A3 < result.fit.volume.item()]
    assert 2 <= len(below) <= len(result.points) - 2
    assert len(result.fitted) == 7
    assert calc.count <= count
    assert result.conventional_a == pytest.approx(A_EMT, abs=1e-3)
    assert result.ase_fit[0] == pytest.approx(result.fit.volume.item(), rel=1e-5)
    assert not result.warnings


def test_upward_and_downward_scans_agree():
    up, down = (Counting(), Counting())
    results = [scan_eos(copper(3.55), c, order=o) for c, o in ((up, "up"), (down, "down"))]
    assert up.volumes[0] < up.volumes[6]
    assert down.volumes[0] > down.volumes[6]
    assert results[0].fitted == results[1].fitted
    assert results[0].fit.volume.item() == pytest.approx(results[1].fit.volume.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("atoms", "a0"),
    [
        (bulk("Cu", cubic=True, a=3.6), A_EMT),
        (bulk("Cu", a=3.6) * (2, 1, 1), A_EMT),
        (bulk("Cu", "hcp", a=2.55), None),
    ],
    ids=["conventional", "supercell", "hcp"],
)
def test_lattice_constant_is_that_of_the_conventional_cubic_cell(atoms, a0):
    result = scan_eos(atoms, EMT())
    if a0 is None:
        assert result.conventional_a is None
        assert result.todict()["a0_A"] is None
        assert result.atoms.cell.lengths()[2] / result.atoms.cell.lengths()[0] == pytest.approx(np.sqrt(8 / 3))
    else:
        assert result.conventional_a == pytest.approx(a0, abs=1e-3)


def test_start_structure_and_calculator_parameters_are_left_alone():
    atoms, calc = copper(3.59), Boxed()
    before = atoms.copy()
    scan_eos(atoms, calc)
    assert atoms == before
    assert atoms.calc is None
    assert (calc.parameters.kpts, calc.parameters.gpts, calc.parameters.smooth_cutoff) == (None, None, False)


def test_box_is_that_of_the_largest_volume_for_every_point(tmp_path):
    calc = Boxed()
    result = scan_eos(copper(3.40), calc, folder=tmp_path, max_points=31)
    largest = result.points[-1].volume_A3
    final_box = int(20 * largest ** (1 / 3))
    boxes = [json.loads(line)["settings"] for line in (tmp_path / "points.jsonl").read_text().splitlines()]
    assert set(boxes[-len(result.points) :]) == {result.fingerprint}  # recomputed when the first box was too small
    assert all(box[0] >= final_box for box, _ in calc.used[-len(result.points) :])
    assert all(smooth for _, smooth in calc.used)
    again = Boxed()
    assert scan_eos(copper(3.40), again, folder=tmp_path, max_points=31).fit.volume == result.fit.volume
    assert again.count == 0


def test_interrupted_scan_resumes_from_finished_points(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        scan_eos(copper(3.59), Counting(interrupt=4), folder=tmp_path)
    points = tmp_path / "points.jsonl"
    assert len(points.read_text().splitlines()) == 3
    with points.open("a") as file:
        file.write('{"scan": "half a li')  # killed while writing
    calc = Counting()
    result = scan_eos(copper(3.59), calc, folder=tmp_path)
    assert calc.count == 4
    assert len(points.read_text().splitlines()) == 7
    assert result.fit.volume.item() == pytest.approx(scan_eos(copper(3.59), EMT()).fit.volume.item(), rel=1e-12)


@pytest.mark.parametrize("other", ["atoms", "parameters", "moments"])
def test_another_scan_in_the_folder_is_an_error_unless_forced(tmp_path, other):
    scan_eos(copper(3.59), EMT(), folder=tmp_path)
    atoms, calc = copper(3.59), EMT()
    if other == "atoms":
        atoms = copper(3.60)
    elif other == "parameters":
        calc.set(asap_cutoff=True)
    else:
        atoms.set_initial_magnetic_moments([1.0])
    with pytest.raises(InputError, match="another scan"):
        scan_eos(atoms, calc, folder=tmp_path)
    result = scan_eos(atoms, calc, folder=tmp_path, force=True)
    records = [json.loads(line) for line in (tmp_path / "points.jsonl").read_text().splitlines()]
    assert {r["scan"] for r in records} == {result.fingerprint}


def test_file_that_is_not_a_record_of_a_scan_is_refused(tmp_path):
    (tmp_path / "points.jsonl").write_text("1 2 3\n")
    with pytest.raises(InputError, match="not the record of a scan"):
        scan_eos(copper(3.59), EMT(), folder=tmp_path)


def test_failed_point_is_recorded_and_left_out_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="1 of the points failed"):
        result = scan_eos(copper(3.59), Counting(fail={2}), folder=tmp_path)
    assert list(result.failed) == [-2]
    assert -2 not in result.fitted
    assert result.conventional_a == pytest.approx(A_EMT, abs=1e-3)
    data = json.loads((tmp_path / "eos.json").read_text())
    assert data["failed"] == [{"index": -2, "error": "SCFError: not converged after 100 steps"}]
    again = Counting()
    assert not scan_eos(copper(3.59), again, folder=tmp_path).failed  # tried again
    assert again.count == 1


def test_failed_side_of_the_bracket_is_widened():
    calc = Counting(fail={6, 7})
    with pytest.warns(UserWarning, match="2 of the points failed"):
        result = scan_eos(copper(3.59), calc)
    lowest = min(result.points, key=lambda p: p.free_energy_eV)
    assert sum(p.index > lowest.index for p in result.points) >= 2


def test_scan_without_a_minimum_is_an_error_and_keeps_its_points(tmp_path):
    with pytest.raises(ScanError, match="no minimum"):
        scan_eos(copper(4.3), EMT(), folder=tmp_path, max_points=9)
    assert len((tmp_path / "points.jsonl").read_text().splitlines()) == 7
    with folder_lock(tmp_path):
        pass  # the failed scan has released the folder


def test_scan_where_every_point_fails_is_an_error():
    with pytest.raises(ScanError, match="not converged after 100 steps"):
        scan_eos(copper(3.59), Counting(fail=set(range(100))))


class Invented(Calculator):
    """Energies and moments that are functions of the volume of the cell."""

    implemented_properties = ("energy", "free_energy", "magmom")

    def __init__(self, energy, moment=lambda volume: 0.0):
        super().__init__()
        self.energy, self.moment = energy, moment

    def calculate(self, atoms, properties, system_changes):
        super().calculate(atoms, properties, system_changes)
        energy, moment = self.energy(atoms.get_volume()), self.moment(atoms.get_volume())
        self.results = {"energy": energy, "free_energy": energy, "magmom": moment}


V_CU = 3.59**3 / 4  # Angstrom^3, of the start


def well(volume, derivative=4.5, centre=V_CU):
    """Birch-Murnaghan energy with a bulk modulus of 1 eV/A^3."""
    f = ((centre / volume) ** (2 / 3) - 1) / 2
    return 9 / 2 * centre * f**2 * (1 + (derivative - 4) * f)


@pytest.mark.parametrize("derivative", [0.5, 4.5, 11.5])
def test_sensible_derivative_of_the_bulk_modulus_is_recovered(derivative):
    calc = Invented(lambda v: well(v, derivative))
    if 1 < derivative < 9:
        fit = scan_eos(copper(3.57), calc).fit
    else:
        with pytest.warns(UserWarning, match="poor fit: B0'"):
            fit = scan_eos(copper(3.57), calc).fit
    assert fit.bulk_derivative.item() == pytest.approx(derivative, abs=1e-6)
    assert fit.volume.item() == pytest.approx(V_CU, rel=1e-8)


@pytest.mark.parametrize(
    ("energy", "moment", "message"),
    [
        (lambda v: well(v, -8.5), None, r"B0' = -8\.5, outside the range from 0 to 12"),
        (lambda v: well(v, 13.0), None, r"B0' = 13\.0, outside the range from 0 to 12"),
        (lambda v: well(v) + 0.02 * np.sin(1e3 * v), None, "the points scatter around the curve by"),
        (lambda v: well(v) - 0.002 * (v > 1.01 * V_CU), None, r"jumps by -2 meV between 11\.57 and 11\.79 A\^3"),
        (lambda v: well(v) + 0.001 * (1.01 < v / V_CU < 1.03), None, r"jumps by 1 meV at 11\.79 A\^3"),
        # two states whose energies cross between two points
        (lambda v: well(v) - 0.02 * (v > 1.03 * V_CU), None, "the points scatter around the curve by"),
        (
            well,
            lambda v: 0.0 if v < 1.01 * V_CU else 1.0,
            r"moment jumps from 0\.00 to 1\.00 Bohr magnetons",
        ),
        (lambda v: min(well(v), 0.005 + well(v, centre=1.3 * V_CU)), None, r"second minimum .* at 15\.04 A\^3"),
    ],
    ids=[
        "negative derivative",
        "large derivative",
        "rough",
        "another branch",
        "one point on another branch",
        "two branches",
        "moment",
        "second minimum",
    ],
)
def test_points_that_are_not_an_equation_of_state_are_an_error_that_keeps_them(tmp_path, energy, moment, message):
    calc = Invented(energy, moment or (lambda v: 0.0))
    options = {"span": 0.3, "points": 13} if "second" in message else {}
    with pytest.raises(ScanError, match=message) as caught:
        scan_eos(copper(3.59), calc, folder=tmp_path, **options)
    lines = [json.loads(line) for line in (tmp_path / "points.jsonl").read_text().splitlines()]
    assert sorted(line["volume_A3"] for line in lines) == [point.volume_A3 for point in caught.value.points]
    assert len(lines) >= 7
    assert not (tmp_path / "eos.json").exists()


def test_smooth_moment_and_states_with_opposite_moments_are_no_jump():
    flipping = Invented(well, lambda v: (2.0 + 3 * (v / V_CU - 1)) * (-1 if v > V_CU else 1))
    assert not scan_eos(copper(3.59), flipping).warnings
    collapsing = Invented(well, lambda v: 4 * max(0.0, v / V_CU - 0.97) ** 0.5)
    assert not scan_eos(copper(3.59), collapsing).warnings


@pytest.mark.parametrize("seed", range(20))
def test_noise_is_no_jump_of_the_free_energy(seed):
    volumes = np.linspace(0.94, 1.06, 7) * V_CU
    noise = np.random.default_rng(seed).normal(scale=5e-4, size=7)
    points = [Point(i, v, well(v) + e, 0.0, None, 0.0) for i, (v, e) in enumerate(zip(volumes, noise))]
    fit = fit_energies([p.volume_A3 for p in points], [p.free_energy_eV for p in points])
    assert not [message for message in faults(fit, points, points) if "jumps" in message]


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (2e-6, "B0' = 13.0, outside the range from 0 to 12 of crystals"),
        (
            3e-4,
            "B0' = 14.6, outside the range from 0 to 12 of crystals, but uncertain by 2.8, because the points scatter "
            "by 0.66 meV around a curve whose depth is 27 meV; a wider span or a denser mesh helps",
        ),
    ],
)
def test_noise_is_the_reason_for_an_uncertain_derivative_only(noise, reason):
    volumes = np.linspace(0.94, 1.06, 7) * V_CU
    energies = [well(v, 13.0) + noise * x for v, x in zip(volumes, (1, -2, 1, 1, -2, 2, -1))]
    points = [Point(i, v, e, 0.0, None, 0.0) for i, (v, e) in enumerate(zip(volumes, energies))]
    assert faults(fit_energies(volumes, energies), points, points) == [reason]


def test_minimum_at_the_rim_of_the_points_is_a_fault():
    points = [Point(i, 10.0 + i, well(10.0 + i, centre=15.5), 0.0, None, 0.0) for i in range(7)]
    fit = fit_energies([p.volume_A3 for p in points], [p.free_energy_eV for p in points])
    assert faults(fit, points, points) == ["the fitted volume 15.500 A^3 is at the rim of the points"]


def test_rough_energies_draw_a_warning():
    class Rough(EMT):
        def calculate(self, atoms, properties, system_changes):
            super().calculate(atoms, properties, system_changes)
            noise = 0.0015 * np.sin(1e3 * atoms.get_volume())
            self.results |= {"energy": self.results["energy"] + noise, "free_energy": self.results["energy"] + noise}

    with pytest.warns(UserWarning, match="poor fit"):
        scan_eos(copper(3.59), Rough())


def test_free_energy_is_fitted_and_the_extrapolated_minimum_is_beside_it():
    class Smeared(EMT):
        def calculate(self, atoms, properties, system_changes):
            super().calculate(atoms, properties, system_changes)
            self.results["energy"] += 0.02 * atoms.get_volume()

    result = scan_eos(copper(3.59), Smeared())
    assert result.conventional_a == pytest.approx(A_EMT, abs=1e-3)
    assert result.todict()["extrapolated_a0_A"] < A_EMT - 0.01


def test_moment_is_reported_at_the_minimum():
    class Magnetic(EMT):
        def calculate(self, atoms, properties, system_changes):
            super().calculate(atoms, properties, system_changes)
            self.results["magmom"] = 0.05 * atoms.get_volume()

    result = scan_eos(copper(3.59), Magnetic())
    assert result.todict()["magmom_muB"] == pytest.approx(0.05 * result.fit.volume.item())
    assert scan_eos(copper(3.59), EMT()).magmom() is None


def test_output_folder_holds_trajectory_json_and_picture(tmp_path):
    result = scan_eos(copper(3.59), EMT(), folder=tmp_path / "run")
    data = json.loads((tmp_path / "run" / "eos.json").read_text())
    assert {"a0_A", "a0_error_A", "V0_A3", "F0_eV", "B0_GPa", "B0_prime", "extrapolated_a0_A", "ase_B0_GPa"} <= set(
        data
    )
    assert data["a0_A"] == pytest.approx((4 * data["V0_A3"]) ** (1 / 3))
    assert data["B0_GPa"] == pytest.approx(134, abs=3)
    images = read(tmp_path / "run" / "eos.traj", ":")
    assert [i.get_volume() for i in images] == pytest.approx([p.volume_A3 for p in result.points])
    assert [i.get_potential_energy() for i in images] == pytest.approx([p.energy_eV for p in result.points])
    assert (tmp_path / "run" / "eos.png").read_bytes().startswith(b"\x89PNG")


def test_two_runs_in_one_folder_do_not_mix(tmp_path):
    with folder_lock(tmp_path), pytest.raises(InputError, match="another run"):
        scan_eos(copper(3.59), EMT(), folder=tmp_path)
    assert not (tmp_path / "points.jsonl").exists()


@pytest.mark.parametrize(
    ("atoms", "options", "message"),
    [
        (Atoms("Cu", cell=[3, 3, 3], pbc=[True, True, False]), {}, "periodic in three directions"),
        (Atoms("Cu", pbc=True), {}, "periodic in three directions"),
        (copper(3.6), {"points": 3}, "points=3: expected an odd number, at least 5"),
        (copper(3.6), {"points": 6}, "points=6: expected an odd number"),
        (copper(3.6), {"span": 6}, "span=6: expected a relative change"),
        (copper(3.6), {"order": "sideways"}, "order='sideways': expected 'up' or 'down'"),
        (copper(3.6), {"max_points": 5}, r"at most max_points \(5\)"),
        (
            copper(3.6),
            {"groups": 2},
            "groups=2: there is one rank, and so one group; more ranks need torchrun",
        ),
        (copper(3.6), {"groups": 1.0}, r"groups=1\.0: there is one rank, and so one group"),
    ],
    ids=["slab", "no cell", "few points", "even points", "span in percent", "order", "max_points", "groups", "float"],
)
def test_structures_and_options_that_cannot_be_scanned_are_refused(atoms, options, message):
    with pytest.raises(InputError, match=message):
        scan_eos(atoms, EMT(), **options)


@pytest.mark.slow
def test_nickel_has_one_equation_of_state_upward_and_downward():
    atoms = bulk("Ni", "fcc", a=3.55)
    atoms.set_initial_magnetic_moments([0.6])
    results = [
        scan_eos(atoms, NNXCCalculator(ecut=120 * Hartree, kpts={"size": (4, 4, 4), "gamma": True}), order=order)
        for order in ("up", "down")
    ]
    up, down = (r.todict() for r in results)
    assert up["a0_A"] == pytest.approx(down["a0_A"], abs=1e-5)
    assert up["magmom_muB"] == pytest.approx(down["magmom_muB"], abs=1e-3)
    assert up["magmom_muB"] > 0.5
