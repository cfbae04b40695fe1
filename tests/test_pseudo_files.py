"""Pseudopotentials from files. Those that tests write are made up: GTH tables on a mesh, invented core densities."""

import json
import math
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.calculator import InputError
from ase.units import Bohr
from kohn_sham import TIGHT, basis_of, crystal_of, rattled_silicon_carbide, slope, triplet

from ase_nnxc import NNXCCalculator
from ase_nnxc.ks.adjoint import differentiable
from ase_nnxc.ks.atom import pseudo_atom
from ase_nnxc.ks.convergence import SCFSettings
from ase_nnxc.ks.coulomb import of_gaussian
from ase_nnxc.ks.ground_state import GroundState
from ase_nnxc.ks.occupations import Smearing
from ase_nnxc.ks.scf import scf
from ase_nnxc.ks.system import System
from ase_nnxc.pseudopotentials import RADIAL_CUTOFF, find_pseudos, find_table, read_pseudo, recommended_cutoff
from ase_nnxc.pseudopotentials.gth import GTH
from ase_nnxc.pseudopotentials.radial import RadialMesh, TabulatedFunction
from ase_nnxc.registry import get_functional

UNIFORM = np.arange(901) * 0.01  # bohr
SPACING = np.full_like(UNIFORM, 0.01)
LOGARITHMIC = np.exp(np.arange(1200) * 0.0125 - 12)
WAVES = torch.linspace(0.0, 15.0, 400, dtype=torch.float64).square()


def table(symbol: str, family: str = "gth-pbe") -> GTH:
    return find_pseudos([symbol], "pbe", family)[symbol]


def invented_core(radii: np.ndarray) -> np.ndarray:
    """Core density, bohr^-3."""
    return 0.2 * np.exp(-(radii**2))


def section(tag: str, values: np.ndarray, attributes: str = "") -> str:
    return f"<{tag} {attributes}>\n{' '.join(f'{x:.16E}' for x in np.ravel(values))}\n</{tag}>\n"


def upf(gth: GTH, radii: np.ndarray = UNIFORM, spacing: np.ndarray = SPACING, core: bool = False, **header) -> str:
    """A made-up UPF file of a GTH table; Rydberg units."""
    inner = np.maximum(radii, 1e-9)
    density = gth.core.in_space if gth.core else invented_core if core else None
    betas = [(c.l, inner * c.in_space(i, inner)) for c in gth.channels for i in range(len(c.h))]
    couplings = torch.block_diag(*(torch.tensor(c.h, dtype=torch.float64) for c in gth.channels)).numpy()
    head = {
        "element": gth.symbol,
        "pseudo_type": "NC",
        "core_correction": "T" if density else "F",
        "functional": "PBE",
        "z_valence": f"{gth.valence}.0",
        "number_of_proj": str(len(betas)),
    } | header
    attributes = " ".join(f'{name}="{value}"' for name, value in head.items())
    text = '<UPF version="2.0.1">\n<PP_INFO>\nmade up for a test: r < 6 & <no> XML\n</PP_INFO>\n'
    text += f"<PP_HEADER {attributes}/>\n<PP_MESH>\n{section('PP_R', radii)}{section('PP_RAB', spacing)}</PP_MESH>\n"
    text += section("PP_LOCAL", 2 * gth.local_in_space(inner), 'type="real"')
    for number, (angular, beta) in enumerate(betas, start=1):
        text += section(f"PP_BETA.{number}", beta, f'angular_momentum="{angular}"')
    text += section("PP_DIJ", 2 * couplings) if betas else ""
    text += section("PP_NLCC", density(radii)) if density else ""
    return text + "</UPF>\n"


def psp8(gth: GTH) -> str:
    """A made-up psp8 file of a GTH table: couplings are diagonal there."""
    radii = np.arange(600) * 0.01
    inner = np.maximum(radii, 1e-9)
    lmax = max((c.l for c in gth.channels), default=0)
    counts = [sum(len(c.h) for c in gth.channels if c.l == angular) for angular in range(lmax + 1)]
    lines = [
        f"{gth.symbol} made up for a test",
        f"{gth.number}.0 {gth.valence}.0 010100 zatom, zion, pspd",
        f"8 11 {lmax} 4 {len(radii)} 0 pspcod, pspxc, lmax, lloc, mmax, r2well",
        "0.0 0.0 0.0 rchrg fchrg qchrg",
        " ".join(map(str, counts)) + " nproj",
        "0 extension_switch",
    ]
    for channel in gth.channels:
        energies, vectors = np.linalg.eigh(np.array(channel.h))
        columns = vectors.T @ [inner * channel.in_space(i, inner) for i in range(len(energies))]
        lines.append(f"{channel.l} " + " ".join(f"{e:.16E}".replace("E", "D") for e in energies))
        lines += [" ".join([str(n + 1), *(f"{x:.16E}" for x in row)]) for n, row in enumerate(zip(radii, *columns))]
    lines.append("4")
    local = gth.local_in_space(inner)
    lines += [f"{n + 1} {r:.16E} {v:.16E}" for n, (r, v) in enumerate(zip(radii, local))]
    return "\n".join(lines) + "\n"


def write(folder: Path, gth: GTH, name: str | None = None, **options) -> str:
    path = folder / (name or f"{gth.symbol}.upf")
    path.write_text(psp8(gth) if path.suffix == ".psp8" else upf(gth, **options))
    return str(path)


def separable(potential, angular: int, q2: torch.Tensor) -> torch.Tensor:
    """sum_ij p_i h_ij p_j of one angular momentum, which does not depend on how the projectors are mixed."""
    total = torch.zeros_like(q2)
    for channel in (c for c in potential.channels if c.l == angular):
        radial = torch.stack([channel.projector(i, q2) for i in range(len(channel.h))])
        total = total + torch.einsum("iq,ij,jq->q", radial, torch.tensor(channel.h, dtype=q2.dtype), radial)
    return total


def results(atoms, **parameters):
    """Free energy, forces and stress, eV and Angstrom."""
    atoms = atoms.copy()
    atoms.calc = NNXCCalculator(
        "PBE", **{"ecut": 200, "kpts": (1, 1, 1), "convergence": {"energy": 1e-13}} | parameters
    )
    return atoms.get_potential_energy(force_consistent=True), atoms.get_forces(), atoms.get_stress(voigt=False)


# ---- reading --------------------------------------------------------------------------------------------------------


def local(table, q2):
    """Fourier transform of the local part, Hartree bohr^3, with its finite mean at q = 0."""
    kernel = torch.where(q2 == 0, 0.0, 4 * math.pi / torch.where(q2 == 0, 1.0, q2))
    return table.short(q2) - table.valence * of_gaussian(kernel, q2, table.rloc**2 / 2, (True, True, True))


@pytest.mark.parametrize("name", ["Si.upf", "Si.psp8"])
def test_table_on_a_mesh_has_the_transforms_of_the_table(tmp_path, name):
    gth = table("Si")
    read = read_pseudo(write(tmp_path, gth, name))
    torch.testing.assert_close(local(read, WAVES), local(gth, WAVES), rtol=1e-9, atol=1e-8)
    for angular in (0, 1, 2):
        torch.testing.assert_close(separable(read, angular, WAVES), separable(gth, angular, WAVES), rtol=0, atol=1e-7)
    assert (read.valence, read.number, read.configuration) == (4, 14, (2, 2, 0, 0))


def test_spacing_of_a_logarithmic_mesh_is_used(tmp_path):
    gth = table("O")
    read = read_pseudo(write(tmp_path, gth, radii=LOGARITHMIC, spacing=0.0125 * LOGARITHMIC))
    torch.testing.assert_close(local(read, WAVES), local(gth, WAVES), rtol=0, atol=1e-4)


def test_core_density_has_its_transform(tmp_path):
    read = read_pseudo(write(tmp_path, table("Si"), core=True))
    expected = 0.2 * math.pi**1.5 * torch.exp(-WAVES / 4)
    torch.testing.assert_close(read.core(WAVES), expected, rtol=0, atol=1e-9)


def test_numbers_beyond_the_radial_cutoff_are_not_used(tmp_path):
    gth, radii = table("Si"), UNIFORM
    text = upf(gth)
    noisy = 2 * gth.local_in_space(np.maximum(radii, 1e-9)) + np.where(radii > RADIAL_CUTOFF + 0.005, 0.01, 0.0)
    start, end = text.index("<PP_LOCAL"), text.index("</PP_LOCAL>\n") + len("</PP_LOCAL>\n")
    (tmp_path / "clean.upf").write_text(text)
    (tmp_path / "noisy.upf").write_text(text[:start] + section("PP_LOCAL", noisy) + text[end:])
    clean, other = (read_pseudo(tmp_path / f"{name}.upf") for name in ("clean", "noisy"))
    assert clean.digest == other.digest


def test_radial_functions_end_at_the_radial_cutoff_and_its_value_is_part_of_the_identity(tmp_path):
    path = write(tmp_path, table("Si"), core=True)
    default, longer = read_pseudo(path), read_pseudo(path, radial_cutoff=8.0)
    beyond = np.array([7.0])
    assert default.core.in_space(beyond) == 0
    assert longer.core.in_space(beyond) == pytest.approx(invented_core(beyond), rel=1e-6)
    assert longer.digest != default.digest
    assert longer != default
    assert find_pseudos(["Si"], "pbe", path, radial_cutoff=8.0)["Si"] == longer
    assert read_pseudo(path) == default


@pytest.mark.parametrize(
    ("radial_cutoff", "message"),
    [
        (0.0, r"radial_cutoff=0\.0: expected a positive length in bohr"),
        (math.nan, "radial_cutoff=nan"),
        (0.02, r"only 3 radii are below 0\.02 bohr, expected 5 or more"),
        (0.5, r"local potential at 0\.50 bohr is .* not -Z/r = -8\.0"),
    ],
)
def test_radial_cutoff_that_is_too_small_is_refused(tmp_path, radial_cutoff, message):
    with pytest.raises(InputError, match=message):
        read_pseudo(write(tmp_path, table("Si")), radial_cutoff)


def test_interpolated_transform_is_its_integral():
    radii = UNIFORM[:600]
    mesh = RadialMesh.up_to(RADIAL_CUTOFF, UNIFORM, SPACING)
    function = TabulatedFunction(1, mesh, radii**2 * np.exp(-2 * radii**2))
    expected = (math.pi / 2) ** 1.5 / 4 * torch.exp(-WAVES / 8)  # of r exp(-2 r^2) Y_1m, over q
    torch.testing.assert_close(function(WAVES), expected, rtol=0, atol=1e-11)


def test_transform_does_not_depend_on_the_numbers_that_were_needed_before():
    """Not in one bit: the number of steps of an SCF may depend on the last digits."""
    mesh = RadialMesh(UNIFORM[1:], SPACING[1:])
    at_once, in_steps = (TabulatedFunction(1, mesh, UNIFORM[1:] ** 2 * np.exp(-2 * UNIFORM[1:] ** 2)) for _ in range(2))
    in_steps(WAVES[:50])
    assert torch.equal(at_once(16 * WAVES), in_steps(16 * WAVES))


def test_transforms_have_first_and_second_derivatives():
    mesh = RadialMesh.up_to(RADIAL_CUTOFF, UNIFORM, SPACING)
    function = TabulatedFunction(0, mesh, UNIFORM[:600] * np.exp(-2 * UNIFORM[:600] ** 2))
    waves = torch.tensor([0.0, 0.3, 0.5, 9.0, 40.0], dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(function(waves).sum(), waves, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), waves)[0]
    expected = (math.pi / 2) ** 1.5 * torch.exp(-waves.detach() / 8)
    torch.testing.assert_close(first.detach(), -expected / 8, rtol=0, atol=1e-9)
    torch.testing.assert_close(second, expected / 64, rtol=0, atol=1e-6)


def test_table_is_hashable_and_survives_pickling(tmp_path):
    read = read_pseudo(write(tmp_path, table("Si"), core=True))
    copy = pickle.loads(pickle.dumps(read))
    assert copy == read
    assert hash(copy) == hash(read)
    assert read.digest == replace(read, name="elsewhere").digest
    assert read.digest != read_pseudo(write(tmp_path, table("Si"), "other.upf")).digest


def test_pseudo_atom_is_that_of_the_table(tmp_path):
    own, read = (pseudo_atom(p) for p in (table("Si"), read_pseudo(write(tmp_path, table("Si")))))
    torch.testing.assert_close(read.density(WAVES), own.density(WAVES), rtol=0, atol=1e-6)


def test_start_density_is_that_of_the_file(tmp_path):
    radii = UNIFORM
    density = 4 * math.pi * radii**2 * 4 * (1.5 / math.pi) ** 1.5 * np.exp(-1.5 * radii**2)
    text = upf(table("Si")).replace("</UPF>", section("PP_RHOATOM", density) + "</UPF>")
    (tmp_path / "Si.upf").write_text(text)
    atom = pseudo_atom(read_pseudo(tmp_path / "Si.upf"))
    torch.testing.assert_close(atom.density(WAVES), 4 * torch.exp(-WAVES / 6), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("symbol", "valence", "expected"),
    [("Ni", 18, (4, 6, 8, 0)), ("Ga", 3, (2, 1, 0, 0)), ("Pb", 14, (2, 2, 10, 0)), ("Hf", 12, (4, 6, 2, 0))],
)
def test_configuration_without_orbitals_is_that_outside_the_lowest_shells(tmp_path, symbol, valence, expected):
    gth = replace(table("Si"), symbol=symbol, valence=valence)
    assert read_pseudo(write(tmp_path, gth)).configuration == expected


def test_configuration_is_that_of_the_orbitals_of_the_file(tmp_path):
    orbitals = '<PP_CHI.1 l="0" occupation="1.0"></PP_CHI.1><PP_CHI.2 l="1" occupation="3.0"></PP_CHI.2></UPF>'
    (tmp_path / "Si.upf").write_text(upf(table("Si")).replace("</UPF>", orbitals))
    assert read_pseudo(tmp_path / "Si.upf").configuration == (1, 3, 0, 0)


# ---- unusable files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"is_paw": "T", "pseudo_type": "PAW"}, "is a PAW data set; only norm-conserving"),
        ({"is_ultrasoft": ".true."}, "is ultrasoft; only norm-conserving"),
        ({"pseudo_type": "US"}, "is ultrasoft"),
        ({"pseudo_type": "SL"}, "semilocal"),
        ({"has_so": "T"}, "spin-orbit"),
        ({"z_valence": "0.75"}, "0.75 valence electrons"),
        ({"z_valence": "3.0"}, "not -Z/r"),
        ({"element": "Xx"}, "unknown element 'Xx'"),
        ({"z_valence": "15.0"}, "expected 1 to 14 valence electrons for Si, got 15"),
        ({"core_correction": "T"}, "section PP_NLCC is missing or incomplete"),
    ],
)
def test_unusable_file_is_refused_by_name(tmp_path, header, message):
    (tmp_path / "Si.upf").write_text(upf(table("Si"), **header))
    with pytest.raises(InputError, match=message) as error:
        read_pseudo(tmp_path / "Si.upf")
    assert str(tmp_path / "Si.upf") in str(error.value)


def test_upf_file_that_breaks_off_is_refused(tmp_path):
    text = upf(table("Si"))
    (tmp_path / "Si.upf").write_text(text[: text.index("</PP_DIJ>")])
    with pytest.raises(InputError, match="damaged or cannot be used: the file is not complete: its end </UPF> is miss"):
        read_pseudo(tmp_path / "Si.upf")


def test_file_of_version_1_is_refused_with_a_way_out(tmp_path):
    (tmp_path / "Si.upf").write_text("<PP_HEADER>\n0 Version Number\n</PP_HEADER>\n")
    with pytest.raises(InputError, match=r"not a UPF file of version 2 but of version 1; convert it with upfconv\.x"):
        read_pseudo(tmp_path / "Si.upf")


def test_psp8_file_that_breaks_off_is_refused(tmp_path):
    lines = psp8(table("Si")).splitlines()
    (tmp_path / "Si.psp8").write_text("\n".join(lines[:1000]))
    with pytest.raises(InputError, match=r"Si.psp8 is damaged or cannot be used: the file ends in the middle"):
        read_pseudo(tmp_path / "Si.psp8")


def test_upf_header_without_a_needed_attribute_is_refused_by_its_name(tmp_path):
    (tmp_path / "Si.upf").write_text(upf(table("Si")).replace("z_valence", "z"))
    with pytest.raises(InputError, match="the attribute z_valence is missing"):
        read_pseudo(tmp_path / "Si.upf")


def test_spin_orbit_psp8_is_refused(tmp_path):
    (tmp_path / "Si.psp8").write_text(psp8(table("Si")).replace("0 extension_switch", "3 extension_switch"))
    with pytest.raises(InputError, match="spin-orbit"):
        read_pseudo(tmp_path / "Si.psp8")


# ---- finding files --------------------------------------------------------------------------------------------------


def test_files_are_found_by_path_folder_and_element(tmp_path):
    write(tmp_path, table("Si"), "si_made-up.UPF")
    write(tmp_path, table("C"), "C.psp8")
    write(tmp_path, table("Cu"), "Cu.upf")  # not one of C
    for pseudos in (tmp_path, str(tmp_path), {"Si": tmp_path / "si_made-up.UPF", "default": str(tmp_path)}):
        found = find_pseudos(["Si", "C"], "pbe", pseudos)
        assert {s: Path(t.name).name for s, t in found.items()} == {"Si": "si_made-up.UPF", "C": "C.psp8"}
    mixed = find_pseudos(["Si", "C"], "pbe", {"Si": tmp_path, "default": "gth-pbe"})
    assert mixed["C"].name == "gth-pbe-q4"


def test_bare_name_of_a_file_or_folder_is_a_path(tmp_path, monkeypatch):
    write(tmp_path, table("Si"))
    monkeypatch.chdir(tmp_path)
    assert find_table("Si", "Si.upf").symbol == "Si"
    assert find_pseudos(["Si"], "pbe", Path("."))["Si"].symbol == "Si"


def test_ambiguous_missing_and_wrong_files_are_input_errors(tmp_path):
    for name in ("Si.upf", "Si_sp.upf", "C.upf"):
        write(tmp_path, table(name[:2].strip(".")), name)
    with pytest.raises(InputError, match=r"several files for Si: Si.upf, Si_sp.upf; choose one, as in pseudos=\{'Si'"):
        find_pseudos(["Si"], "pbe", tmp_path)
    with pytest.raises(InputError, match=r"has no file Al\*.upf or Al\*.psp8; .* files in it: C.upf, Si.upf"):
        find_pseudos(["Al"], "pbe", tmp_path)
    with pytest.raises(InputError, match="pseudopotential of C, not of Si"):
        find_pseudos(["Si"], "pbe", tmp_path / "C.upf")
    with pytest.raises(InputError, match=r"no file or folder 'nowhere/Si.upf'"):
        NNXCCalculator(pseudos={"Si": "nowhere/Si.upf"})


def test_file_for_another_functional_warns(tmp_path):
    with pytest.warns(UserWarning, match=r"Si.upf were generated for a functional other than PBE"):
        find_pseudos(["Si"], "pbe", write(tmp_path, table("Si"), functional="SLA PZ NOGX NOGC"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_pseudos(["Si"], "pbe", write(tmp_path, table("Si"), functional=" SLA PW PBX PBC"))
        find_pseudos(["Si"], "pbe", write(tmp_path, table("Si"), "Si.psp8"))


def test_cutoff_is_the_one_that_the_file_recommends(tmp_path):
    hinted = read_pseudo(write(tmp_path, table("Si"), wfc_cutoff="3.0E+01"))
    assert recommended_cutoff(hinted) == (15.0, "from the file")
    with pytest.raises(InputError, match=r"plain.upf of Si; specify ecut"):  # that of rho is a radius
        recommended_cutoff(read_pseudo(write(tmp_path, table("Si"), "plain.upf", rho_cutoff="1.5E+01")))


def test_parameters_with_paths_are_plain_and_give_the_same_tables(tmp_path):
    write(tmp_path, table("Si"), core=True)
    atoms = bulk("Si")
    calculator = NNXCCalculator(ecut=100, pseudos=tmp_path)
    resolved = calculator.resolve(atoms)
    assert json.loads(json.dumps(calculator.todict()))["pseudos"] == str(tmp_path)
    assert resolved["pseudos"] == {"Si": str(tmp_path / "Si.upf")}
    again = NNXCCalculator(**{k: v for k, v in resolved.items() if v is not None})
    assert again.pseudopotential_digests(atoms) == calculator.pseudopotential_digests(atoms)


def test_calculator_ends_radial_functions_where_it_is_asked_to(tmp_path):
    atoms, path = bulk("Si"), write(tmp_path, table("Si"))
    calculator = NNXCCalculator(ecut=100, kpts=(1, 1, 1), pseudos=path, radial_cutoff=8.0 * Bohr)
    digest = read_pseudo(path, radial_cutoff=8.0).digest
    assert calculator.pseudopotential_digests(atoms) == {"Si": digest}
    assert NNXCCalculator(**calculator.todict()).pseudopotential_digests(atoms) == {"Si": digest}
    calculator.set(radial_cutoff=None)
    assert calculator.pseudopotential_digests(atoms) == {"Si": read_pseudo(path).digest}
    with pytest.raises(InputError, match=r"radial_cutoff=-1: expected a positive number, in Angstrom"):
        calculator.set(radial_cutoff=-1)


# ---- calculating ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gth-pbe", "gth-nlcc-pbe"])
def test_file_of_a_table_gives_its_energy_forces_and_stress(tmp_path, family):
    for symbol in ("Si", "C"):
        write(tmp_path, table(symbol, family))
    ours, expected = (results(rattled_silicon_carbide(), pseudos=p) for p in (tmp_path, family))
    assert ours[0] == pytest.approx(expected[0], abs=2e-8)
    np.testing.assert_allclose(ours[1], expected[1], atol=1e-6)
    np.testing.assert_allclose(ours[2], expected[2], atol=1e-7)


MOVE = torch.tensor([[0.0, 0.0, 0.0], [0.6, -0.3, 0.7]], dtype=torch.float64)  # bohr
STRAIN = torch.tensor([[0.9, 0.2, 0.0], [0.2, 0.6, 0.0], [0.0, 0.0, 0.7]], dtype=torch.float64)


def polarised_and_cored(folder: Path, xc: str) -> tuple[GroundState, Callable[[float, float], GroundState]]:
    """A ground state with spin and core correction, and those moved and strained, of the same plane waves."""
    crystal = crystal_of(triplet(), write(folder, table("H"), core=True))
    basis, smearing, functional = basis_of(crystal, 12.0, (1, 1, 1)), Smearing("fermi-dirac", 0.005), get_functional(xc)
    settings = SCFSettings(energy=1e-14)
    state = scf(System(crystal, basis, functional), smearing, settings=settings)

    def changed(move: float, strain: float) -> GroundState:
        moved = System(crystal.deformed(strain * STRAIN, move * MOVE), basis, functional)
        return scf(moved, smearing, settings=settings, start=state)

    return state, changed


@pytest.mark.parametrize("xc", ["PBE", pytest.param("r2SCAN", marks=pytest.mark.slow)])
def test_forces_and_stress_with_core_correction_are_derivatives_of_the_free_energy(tmp_path, xc):
    state, changed = polarised_and_cored(tmp_path, xc)
    forces, stress = state.derivatives()
    assert state.total_moment > 1.9
    work = -float((forces * MOVE).sum())
    assert slope(lambda x: changed(x, 0.0).free_energy, 5e-3) == pytest.approx(work, rel=1e-5)
    work = float((stress * STRAIN).sum() * state.crystal.volume)
    assert slope(lambda x: changed(0.0, x).free_energy, 2e-3) == pytest.approx(work, rel=1e-5)


def test_second_derivatives_with_core_correction_are_those_of_the_forces(tmp_path):
    for symbol in ("Si", "C"):
        write(tmp_path, table(symbol), core=True)
    crystal = crystal_of(rattled_silicon_carbide(), str(tmp_path))
    basis, smearing = basis_of(crystal, 6.0, (1, 1, 1), symmetric=False), Smearing("gaussian", 0.02)
    state = scf(System(crystal, basis, get_functional("PBE")), smearing, settings=TIGHT)
    zeros = [torch.zeros(n, 3, dtype=torch.float64, requires_grad=True) for n in (2, 3)]
    along = (differentiable(state, *zeros).forces * MOVE).sum()
    by_move, by_strain = torch.autograd.grad(along, zeros)

    def force(move: float, strain: float) -> float:
        moved = crystal.deformed(strain * STRAIN, move * MOVE)
        there = scf(state.system.at(moved), smearing, settings=TIGHT, start=state)
        return float((there.derivatives()[0] * MOVE).sum())

    assert float((by_move * MOVE).sum()) == pytest.approx(slope(lambda x: force(x, 0.0), 4e-3), rel=1e-5)
    assert float((by_strain * STRAIN).sum()) == pytest.approx(slope(lambda x: force(0.0, x), 1e-3), rel=3e-5)


def test_core_correction_of_a_crystal_without_moments_is_the_same_with_spin(tmp_path):
    path = write(tmp_path, table("Si"), core=True)
    paired, spin = (results(bulk("Si"), pseudos=path, spinpol=s, kpts=(2, 2, 2)) for s in (False, True))
    assert spin[0] == pytest.approx(paired[0], abs=1e-8)
    np.testing.assert_allclose(spin[2], paired[2], atol=1e-8)


def test_symmetry_does_not_change_numbers_with_core_correction(tmp_path):
    path = write(tmp_path, table("Si"), core=True)
    on, off = (results(bulk("Si"), pseudos=path, symmetry=s, kpts=(2, 2, 2), gpts=(20, 20, 20)) for s in (True, False))
    assert on[0] == pytest.approx(off[0], abs=1e-8)
    np.testing.assert_allclose(on[2], off[2], atol=1e-7)


def test_meta_gga_with_core_correction_warns(tmp_path):
    with pytest.warns(UserWarning, match="not to the kinetic energy density, and r2SCAN depends on both"):
        NNXCCalculator("r2SCAN", ecut=100, pseudos=write(tmp_path, table("Si"), core=True)).resolve(bulk("Si"))


# pw.x 6.7 with the same file, Hartree atomic units, by benchmarks/pseudodojo.py: strained, with moved atoms
SILICON = {
    "energy": -8.36856684,
    "force": [0.01062413, 0.013404705, 0.007122],
    "stress": [
        [-0.00020011, -3.75e-07, -0.00023387],
        [-3.75e-07, -0.00014862, -0.000137935],
        [-0.00023387, -0.000137935, -0.0001731],
    ],
}


def test_pseudodojo_silicon_is_that_of_pwx(shared_pseudo):
    """With the end of radial functions that pw.x uses."""
    strain = 0.02 * np.array([[1, 0.5, 0], [0.5, -1, 0], [0, 0, 0.5]])
    atoms = bulk("Si", a=5.47)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.positions += 0.05 * np.sin(1 + np.arange(6)).reshape(2, 3)
    silicon = find_table("Si", str(shared_pseudo), radial_cutoff=10.0)
    crystal = replace(crystal_of(atoms), potentials=(silicon, silicon))
    basis, smearing = basis_of(crystal, 20.0, (2, 2, 2)), Smearing("gaussian", 0.01)
    state = scf(System(crystal, basis, get_functional("PBE")), smearing, settings=SCFSettings(energy=1e-14))
    forces, stress = state.derivatives()
    assert state.free_energy == pytest.approx(SILICON["energy"], abs=4e-6)
    np.testing.assert_allclose(forces[1].numpy(), SILICON["force"], atol=2e-6)
    np.testing.assert_allclose(stress.numpy(), SILICON["stress"], atol=2e-8)
