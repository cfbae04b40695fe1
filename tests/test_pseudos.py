"""GTH tables: reading, names, valences, cutoffs."""

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.calculators.calculator import InputError

from ase_nnxc.pseudopotentials import (
    Entry,
    default_valences,
    find_entry,
    find_pseudos,
    library,
    recommended_cutoff,
)
from ase_nnxc.xc import PBE

# a table of POTENTIAL_UZH whose last line is missing in PySCF's copy
DAMAGED = {("Bi", "uzh-pbe0-q15")}
# by lattice constants against all-electron PBE, or the only table
VALENCES = {
    "Al": 3,
    "Si": 4,
    "C": 4,
    "O": 6,
    "F": 7,
    "Mg": 2,
    "Ca": 10,
    "Ni": 18,
    "Cu": 19,
    "Pd": 18,
    "Rh": 17,
    "Ag": 11,
}


def entries(prefix):
    """Every entry of a file once."""
    return {(e.symbol, e.name): e for f in library(prefix).values() for t in f.values() for e in t.values()}


def numbers(table):
    """rloc, cloc, and l, radius, h of the channels that have projectors."""
    return [
        table.rloc,
        list(table.cloc),
        [[c.l, c.radius, [list(row) for row in c.h]] for c in table.channels],
    ]


def pyscf_numbers(data):
    channels = [[angular, c[0], c[2]] for angular, c in enumerate(data[5:]) if c[1]]
    return [data[1], data[3], channels]


@pytest.mark.parametrize("prefix", ["gth", "uzh"])
def test_every_table_holds_the_numbers_that_pyscf_reads(prefix):
    from pyscf.gto.basis import parse_cp2k_pp

    for key, entry in entries(prefix).items():
        if key in DAMAGED or key[1].startswith("gth-nlcc"):  # PySCF reads no core densities
            continue
        table = entry.read()
        data = parse_cp2k_pp._parse([entry.name, *entry.text.splitlines()])
        assert numbers(table) == pyscf_numbers(data), key
        assert list(entry.configuration) == data[0], key
        assert table.name.removesuffix("_old").endswith(f"-q{table.valence}"), key


@pytest.mark.parametrize(("prefix", "count"), [("gth", 435), ("uzh", 489)])
def test_no_entry_is_overlooked(prefix, count):
    assert len(entries(prefix)) >= count


def test_names_lead_to_the_tables_to_which_they_lead_in_pyscf():
    from pyscf.pbc.gto import pseudo

    checked = 0
    for (symbol, name), entry in entries("gth").items():
        if not name.endswith("_old") and not name.startswith("gth-nlcc"):
            data = pseudo.load(re.sub("gth-[a-z0-9]+", lambda m: m[0].upper(), name), symbol)
            assert numbers(entry.read()) == pyscf_numbers(data), (symbol, name)
    # PySCF's older copies, one a family, round to other digits; its alias is the first entry with a bare name
    for family in ("gth-pbe", "gth-pade", "gth-lda"):
        for symbol, tables in library("gth")[family].items():
            if "" in tables:
                data = pseudo.load(family, symbol)
                assert find_entry(symbol, family).read().valence == sum(data[0]), (
                    symbol,
                    family,
                )
                checked += 1
    assert checked > 200


def test_uzh_tables_carry_other_numbers_under_the_same_valence():
    for symbol, valence in [("C", 4), ("Al", 3), ("Cu", 11), ("Ni", 18)]:
        ours, theirs = (find_entry(symbol, f"{p}-pbe-q{valence}").read() for p in ("gth", "uzh"))
        assert ours.valence == theirs.valence == valence
        assert ours.digest != theirs.digest
    assert find_entry("Cu", "uzh-gga-q11").name == "uzh-pbe-q11"


def test_projector_matrix_is_symmetric_with_its_off_diagonal_part():
    (s, p, d) = find_entry("Cu", "gth-pbe-q11").read().channels
    assert (s.l, p.l, d.l) == (0, 1, 2)
    h = np.array(s.h)
    assert h.shape == (3, 3)
    assert np.array_equal(h, h.T)
    assert np.count_nonzero(h) == 9
    assert find_entry("Ce", "gth-pbe-q12").read().channels[-1].l == 3


def test_channel_without_projectors_is_left_out_and_table_without_channels_is_read():
    assert [c.l for c in find_entry("C", "gth-pbe").read().channels] == [0]
    assert find_entry("H", "gth-pbe").read().channels == ()


@pytest.mark.parametrize(("symbol", "valence"), VALENCES.items())
@pytest.mark.parametrize("xc_family", ["pbe", "pade"])
def test_shipped_valence_is_that_of_a_table(symbol, valence, xc_family):
    assert default_valences()[symbol]["valence"] == valence
    assert f"q{valence}" in library("gth")[f"gth-{xc_family}"][symbol]


def test_every_element_of_the_families_has_a_shipped_valence_with_a_reason():
    for family in ("gth-pbe", "gth-pade", "uzh-pbe"):
        for symbol, tables in library(family[:3])[family].items():
            assert f"q{default_valences()[symbol]['valence']}" in tables, (
                family,
                symbol,
            )
            assert default_valences()[symbol]["reason"]


def test_family_that_the_user_writes_keeps_its_alias():
    names = [t.name for t in find_pseudos(["Cu", "Pd", "Ag"], "pbe", "gth-pbe").values()]
    assert names == ["gth-pbe-q11", "gth-pbe-q18", "gth-pbe-q11"]
    assert find_pseudos(["Cu"], "pade", "GTH-LDA")["Cu"].name == "gth-pade-q11"
    assert find_pseudos(["U"], "pbe", "gth-pbe")["U"].valence == 14  # no alias: the shipped valence
    assert find_pseudos(["O", "Cu"], "pbe", "uzh-pbe")["Cu"].valence == 19  # the file has no aliases


def test_dict_chooses_by_element_and_default_holds_for_the_others():
    tables = find_pseudos(["Cu", "O", "Mg", "H"], "pbe", {"Cu": "gth-pbe-q19", "Mg": "uzh-pbe-q2"}, functional=PBE())
    assert [t.name for t in tables.values()] == ["gth-pbe-q19", "oncv", "uzh-pbe-q2", "oncv"]
    tables = find_pseudos(["Cu", "O"], "pbe", {"default": "uzh-pbe", "Cu": "gth-pbe"})
    assert [t.name for t in tables.values()] == ["gth-pbe-q11", "uzh-pbe-q6"]


def test_names_of_found_tables_find_them_again():
    found = find_pseudos(list(default_valences()), "pbe", "gth-pbe")
    assert find_pseudos(list(found), "pbe", {s: t.name for s, t in found.items()}) == found
    assert find_pseudos(["Ni", "Pd"], "pbe", "gth-pbe-q18")["Pd"].name == "gth-pbe-q18"
    assert find_entry("Na", "gth-pbe-q9_old").read() != find_entry("Na", "gth-pbe-q9").read()


@pytest.mark.parametrize(
    ("symbols", "pseudos", "message"),
    [
        (["Cu"], "gth-pbf", "did you mean 'gth-pbe'"),
        (["Cu"], "pbe", "did you mean 'gth-pbe'"),
        (["Cu"], "", "unknown pseudopotential family"),
        (["Cu"], "gth-pbe-q12", "valences of gth-pbe: q11, q19"),
        (["Ni", "Cu"], "gth-pbe-q18", "Cu has no table"),
        (["Cu"], "gth-olyp", "families that have it: gth-blyp, .*gth-pbe, .*uzh-scan"),
        (["Fr"], "gth-pbe", "no family has it"),
        (["Al"], "ALLELECTRON", "bare nuclei"),
        (["Al"], "uzh-all", "bare nuclei"),
        (["Bi"], "uzh-pbe0-q15", "damaged"),
        (["Qq"], None, "unknown element 'Qq'"),
        (["X"], None, "unknown element 'X'"),
        (["Cu"], {"cu": "gth-pbe"}, "did you mean 'Cu'"),
        (["Cu"], {"Cu": 19}, "expected the name of a table or a path for 'Cu'"),
        (["Cu"], [], r"expected a name, a path or a dict of these by element, got \["),
        (["Cu"], 19, "expected a name, a path or a dict of these by element, got 19"),
    ],
)
def test_wrong_choice_is_an_input_error_that_helps(symbols, pseudos, message):
    with pytest.raises(InputError, match=message):
        find_pseudos(symbols, "pbe", pseudos)


def test_parts_beyond_local_separable_and_core_are_refused():
    text = find_entry("C", "gth-pbe").text
    with pytest.raises(InputError, match="not supported"):
        Entry("C", "gth-pbe-q4", text + "\n 0.1 0.2").read()


@pytest.mark.parametrize("core", ["NLCC 2\n 0.5 1 2.0", "NLCC 1\n 0.5 2 2.0 1.0", "NLCC 1\n 0.5"])
def test_core_density_of_another_form_is_refused(core):
    text = find_entry("C", "gth-nlcc-pbe").text
    with pytest.raises(InputError, match="damaged"):
        Entry("C", "gth-nlcc-pbe-q4", text.replace("NLCC 1\n    0.274399357915869 1 58.7058349842360", core)).read()


@pytest.mark.parametrize("symbol", ["B", "C", "N", "O", "F", "Al", "Si", "P", "S", "Cl"])
def test_core_density_is_a_part_of_the_core_and_its_transform_that_of_its_values(symbol):
    table = find_entry(symbol, "gth-nlcc-pbe").read()
    radii = np.linspace(1e-6, 6.0, 4001)
    q = np.array([0.0, 1.0, 5.0])
    shells = 4 * np.pi * radii**2 * table.core.in_space(radii)
    transform = np.trapezoid(shells * np.sinc(np.outer(q, radii) / np.pi), radii)
    np.testing.assert_allclose(table.core(torch.from_numpy(q**2)).numpy(), transform, rtol=1e-6)
    assert 0 < transform[0] < table.number - table.valence


def test_core_density_changes_the_digest():
    table = find_entry("Si", "gth-nlcc-pbe").read()
    assert table.digest != replace(table, core=None).digest


def test_tables_of_another_functional_warn_once_and_matching_ones_do_not():
    with pytest.warns(
        UserWarning, match="gth-pade-q3, gth-pade-q4 were generated for a functional other than PBE"
    ) as record:
        find_pseudos(["Al", "Si"], "pbe", "gth-pade")
    assert len(record) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_pseudos(["Al"], "pbe", "uzh-pbe")
        find_pseudos(["B"], "pbe", "gth-pbesol")
        find_pseudos(["B"], "pbe", "gth-nlcc-pbe")
        find_pseudos(["Al"], "pade", "gth-lda")
        find_pseudos(["C"], "pbe", "gth-blyp", matching_family="blyp")


def test_every_table_has_a_recommended_cutoff():
    for prefix in ("gth", "uzh"):
        for key, entry in entries(prefix).items():
            if key not in DAMAGED:
                cutoff, how = recommended_cutoff(entry.read())
                assert 20 <= cutoff <= 500, key
                assert how in ("measured", "estimated"), key


def test_estimated_cutoffs_are_near_the_measured_ones():
    data = json.loads((files("ase_nnxc") / "data" / "cutoffs.json").read_text())
    measured = {(s, table): cutoff for s, tables in data["measured"].items() for table, cutoff in tables.items()}
    assert len(measured) >= 13
    for (symbol, table), cutoff in measured.items():
        assert 0.8 < data["estimated"][symbol][table] / cutoff < 1.4, (symbol, table)
        assert recommended_cutoff(find_entry(symbol, table).read()) == (cutoff, "measured")


def test_unlisted_table_has_no_recommended_cutoff():
    with pytest.raises(InputError, match="mine-q3 of Al; specify ecut"):
        recommended_cutoff(replace(find_entry("Al", "gth-pbe").read(), name="mine-q3"))


def test_digest_depends_on_the_numbers_and_not_on_the_name():
    table = find_entry("Al", "gth-pbe").read()
    assert table.digest == replace(table, name="other").digest
    assert table.digest != replace(table, rloc=table.rloc + 1e-9).digest


@pytest.mark.parametrize(
    ("symbol", "name", "digest"),
    [
        ("Al", "gth-pbe-q3", "18c265d4f33658a73987ddbe7d639e4890bc715ebff445b3348e452faa932eae"),
        ("Cu", "uzh-pbe-q11", "c676e2b9d2d2340e590fc746fe4f8d64d3fdc14935c4214978ac926a0fb7a136"),
        ("Si", "gth-nlcc-pbe-q4", "dc9303188827d736889b9fece224fd9d2808a7f0cd921e527c54f9a3e437f0a6"),
    ],
)
def test_digest_is_that_of_older_records_and_restart_files(symbol, name, digest):
    assert find_entry(symbol, name).read().digest == digest


@pytest.mark.parametrize(
    ("symbol", "name", "functional"),
    [("Al", "gth-pbe", "pbe"), ("Al", "gth-lda", "pade"), ("C", "gth-nlcc-pbe", "pbe"), ("Cu", "uzh-scan", "scan")],
)
def test_functional_of_a_table_is_that_of_its_family(symbol, name, functional):
    assert find_entry(symbol, name).read().functional == functional


def test_finding_and_reading_a_table_imports_neither_pyscf_nor_scipy():
    code = (
        "import sys; from ase_nnxc.pseudopotentials import find_pseudos; find_pseudos(['Mg', 'O'], 'pbe', 'gth-pbe');"
        "print({'pyscf', 'scipy'} & set(sys.modules) or 'neither')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "neither"


def test_files_of_tables_are_read_once(monkeypatch):
    find_pseudos(["Mg", "O"], "pbe", "gth-pbe")

    def refuse(path, *args, **kwargs):
        pytest.fail(f"{path} is read again")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    find_pseudos(["O", "Mg"], "pbe", "gth-pbe")
