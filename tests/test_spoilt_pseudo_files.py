"""Spoilt pseudopotential files: each is refused by its name, with what is wrong, in less than a second."""

import math
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import InputError
from test_pseudo_files import LOGARITHMIC, UNIFORM, psp8, section, table, upf

from ase_nnxc import NNXCCalculator
from ase_nnxc.pseudopotentials import read_pseudo
from ase_nnxc.pseudopotentials.content import check_content
from ase_nnxc.pseudopotentials.upf import read_upf

NUMBERS = ("PP_R", "PP_RAB", "PP_LOCAL", "PP_BETA.1", "PP_BETA.2", "PP_DIJ", "PP_NLCC", "PP_RHOATOM")
DENSITY = 4 * math.pi * UNIFORM**2 * 4 * (1.5 / math.pi) ** 1.5 * np.exp(-1.5 * UNIFORM**2)  # 4 electrons


def good_upf(**header: str) -> str:
    """A UPF file of silicon with every section that is read."""
    rest = section("PP_RHOATOM", DENSITY) + "</UPF>\n"
    header = {"mesh_size": str(len(UNIFORM))} | header
    return upf(table("Si"), core=True, **header).replace("</UPF>\n", rest)


def good_psp8() -> str:
    """A psp8 file of silicon with a core density and its derivatives, and a text after the numbers."""
    radii = np.arange(600) * 0.01
    lines = [f"{i + 1} {r:.13E} {math.exp(-r * r):.13E} 0.0 0.0 0.0 0.0" for i, r in enumerate(radii)]
    return psp8(table("Si")).replace("0.0 0.0 0.0 rchrg", "3.0 1.0 0.0 rchrg") + "\n".join(lines) + "\n"


def changed(tag: str, change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    """A change of the numbers of a section, as a function of the text of the file."""

    def of_text(text: str) -> str:
        pattern = rf"(<{re.escape(tag)} [^>]*>)([^<]*)(</{re.escape(tag)}>)"
        match = re.search(pattern, text)
        assert match, tag
        return f"{text[: match.end(1)]}\n{' '.join(change(match[2].split()))}\n{text[match.start(3) :]}"

    return of_text


def put(index: int, word: str) -> Callable[[list[str]], list[str]]:
    """A change of one number."""
    return lambda words: [*words[:index], word, *words[index:][1:]]


def times(factor: float) -> Callable[[list[str]], list[str]]:
    """A change of all numbers."""
    return lambda words: [repr(factor * float(word)) for word in words]


def refusal(path: Path, text: str | bytes) -> str:
    """The message of the error that a file causes, without the name of the file that it must have."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.perf_counter()
    with pytest.raises(InputError) as error:
        read_pseudo(path)
    assert time.perf_counter() - start < 1
    assert str(path) in str(error.value)
    return str(error.value).replace(str(path), "")


def test_files_that_are_spoilt_below_are_good(tmp_path):
    (tmp_path / "Si.upf").write_text(good_upf(wfc_cutoff="30.0"))
    (tmp_path / "Si.psp8").write_text(good_psp8())
    for name in ("Si.upf", "Si.psp8"):
        assert read_pseudo(tmp_path / name).core is not None


@pytest.mark.parametrize("name", ["Si.upf", "Si.psp8"])
def test_good_file_is_read_and_a_wrong_one_refused_where_numpy_raises_all_its_errors(tmp_path, name):
    text = {"Si.upf": good_upf(), "Si.psp8": good_psp8()}[name]
    (tmp_path / name).write_text(text)
    with np.errstate(all="raise"):
        assert read_pseudo(tmp_path / name).symbol == "Si"
        refusal(tmp_path / name, text.replace("E-02", "E+300", 1))


# ---- UPF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "change", "message"),
    [
        ("PP_RAB", times(0.0), "spacing dr/di at radius 1 is 0 bohr, expected 0.01 bohr"),
        ("PP_RAB", times(-1.0), "spacing dr/di at radius 1 is -0.01 bohr, expected 0.01 bohr"),
        ("PP_RAB", times(2.0), "spacing dr/di at radius 1 is 0.02 bohr, expected 0.01 bohr"),
        ("PP_RAB", put(300, "0.02"), "spacing dr/di at radius 301 is 0.02 bohr, expected 0.01 bohr"),
        ("PP_R", put(7, "0.3"), "the radii do not increase"),
        ("PP_R", put(0, "-0.01"), "the first radius is -0.01 bohr, expected zero or more"),
        ("PP_DIJ", put(1, "7.0"), "couplings D_ij of the projectors are not symmetric"),
        ("PP_DIJ", put(0, "inf"), "couplings D_ij of the projectors are not all finite"),
        ("PP_NLCC", times(-1.0), "the core density is negative"),
        ("PP_NLCC", put(900, "-0.1"), "the core density is negative: its minimum is -0.1"),
        (
            "PP_NLCC",
            put(5, "9.0"),
            "density is not smooth near its number 6: it is 9, expected about 0.19",
        ),
        ("PP_BETA.2", put(100, "9.0"), "projector 2 is not smooth near its number 101: it is 9, expected about"),
        ("PP_RHOATOM", times(-1.0), "the density of the atom is negative"),
        ("PP_RHOATOM", times(2.0), "the density of the atom has 8.000 electrons, expected 4"),
        ("PP_RHOATOM", times(1.02), "the density of the atom has 4.080 electrons, expected 4"),
        ("PP_RHOATOM", times(0.0), "the density of the atom has 0.000 electrons, expected 4"),
        ("PP_LOCAL", times(2.0), "not -Z/r"),
        (
            "PP_LOCAL",
            put(200, "3.5"),
            "potential is not smooth near its number 201: it is 1.75, expected about -",
        ),
    ],
)
def test_upf_with_wrong_numbers_is_refused(tmp_path, tag, change, message):
    assert message in refusal(tmp_path / "Si.upf", changed(tag, change)(good_upf()))


@pytest.mark.parametrize("tag", NUMBERS)
def test_upf_with_a_number_too_many_or_too_few_is_refused(tmp_path, tag):
    for change in (lambda words: words[:-1], lambda words: [*words, words[-1]], lambda words: []):
        message = refusal(tmp_path / "Si.upf", changed(tag, change)(good_upf()))
        assert re.search("numbers, expected one for each|PP_R has|PP_DIJ has", message), message


@pytest.mark.parametrize("word", ["NaN", "inf", "-Infinity", "1e999", "1e300"])
@pytest.mark.parametrize("tag", NUMBERS)
def test_upf_with_a_number_that_is_not_finite_is_refused(tmp_path, tag, word):
    message = refusal(tmp_path / "Si.upf", changed(tag, put(2, word))(good_upf()))
    assert re.search("number 3 of the .*, expected a finite number|not all finite", message), message


@pytest.mark.parametrize("tag", NUMBERS)
def test_upf_with_text_among_its_numbers_is_refused_by_section(tmp_path, tag):
    message = refusal(tmp_path / "Si.upf", changed(tag, put(2, "0.1x"))(good_upf()))
    assert f"the section {tag} does not contain only numbers" in message


@pytest.mark.parametrize("tag", [*NUMBERS, "PP_INFO", "UPF"])
def test_upf_without_the_end_of_a_section_is_refused_by_section(tmp_path, tag):
    text = good_upf().replace(f"</{tag}>", "", 1)
    message = refusal(tmp_path / "Si.upf", text)
    assert re.search(f"the section {tag} (is incomplete|is missing|does not contain)|its end </UPF>", message), message


@pytest.mark.parametrize("tag", NUMBERS)
def test_upf_without_the_start_of_a_section_is_refused_by_section(tmp_path, tag):
    text = re.sub(rf"<{re.escape(tag)} [^>]*>", "", good_upf(), count=1)
    assert re.search(f"the section {tag} is missing|the file has 2 projectors", refusal(tmp_path / "Si.upf", text))


@pytest.mark.parametrize("tag", [*NUMBERS, "PP_HEADER"])
def test_upf_with_an_opening_tag_that_does_not_end_is_refused_by_section(tmp_path, tag):
    text = re.sub(rf"(<{re.escape(tag)} [^>]*)>", r"\1", good_upf(), count=1)
    assert f"the section {tag} is" in refusal(tmp_path / "Si.upf", text)


FILLINGS = ("<PP_INFO>", "<PP_R ", "</PP_R ", "a" * 9, "a=", '="', " ", "<PP_CHI.1 ", "</PP_DIJ")


@pytest.mark.parametrize("filling", FILLINGS)
def test_upf_of_many_unfinished_tags_is_refused_at_once(tmp_path, filling):
    text = good_upf(wfc_cutoff="nan")  # refused when everything was read, at the latest
    for place in (text.index("element="), text.index("<PP_DIJ") + len("<PP_DIJ "), text.index("</UPF>")):
        refusal(tmp_path / "Si.upf", text[:place] + filling * (500_000 // len(filling)) + text[place:])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"number_of_proj": "2"}, "number_of_proj=2, but the file has 3 projectors"),
        ({"number_of_proj": "4"}, "number_of_proj=4, but the file has 3 projectors"),
        ({"number_of_proj": "-1"}, "number_of_proj=-1"),
        ({"number_of_proj": "1" * 5000}, "integer string conversion"),
        ({"mesh_size": "900"}, "mesh_size=900, but PP_R has 901 numbers"),
        ({"z_valence": "inf"}, "inf valence electrons"),
        ({"z_valence": "nan"}, "nan valence electrons"),
        ({"z_valence": "-4.0"}, "expected 1 to 14 valence electrons"),
        ({"wfc_cutoff": "nan"}, "recommended cutoff is nan Ha, expected 0 to 1000 Ha"),
        ({"wfc_cutoff": "inf"}, "recommended cutoff is inf Ha"),
        ({"wfc_cutoff": "1e12"}, "recommended cutoff is 500000000000.0 Ha"),
        ({"wfc_cutoff": "-30"}, "recommended cutoff is -15.0 Ha"),
        ({"element": "X"}, "unknown element 'X'"),
        ({"core_correction": "maybe"}, "core_correction='maybe', expected T or F"),
        ({"core_correction": "F"}, "states core_correction=F, but the file has a section PP_NLCC"),
        ({"is_paw": "nan"}, "is_paw='nan', expected T or F"),
    ],
)
def test_upf_with_a_wrong_header_is_refused(tmp_path, header, message):
    assert message in refusal(tmp_path / "Si.upf", good_upf(**header))


@pytest.mark.parametrize("angular", ["4", "-1", "99999999999999999999"])
def test_upf_with_an_angular_momentum_that_is_not_supported_is_refused(tmp_path, angular):
    text = good_upf().replace('angular_momentum="1"', f'angular_momentum="{angular}"')
    assert f"angular momentum {angular}, expected 0 to 3" in refusal(tmp_path / "Si.upf", text)
    text = good_upf().replace("</UPF>", f'<PP_CHI.1 l="{angular}" occupation="4.0">\n</PP_CHI.1></UPF>')
    assert f"(PP_CHI) has l={angular}, expected 0 to 3" in refusal(tmp_path / "Si.upf", text)


@pytest.mark.parametrize("tag", NUMBERS)
def test_upf_of_far_too_many_numbers_is_refused_at_once(tmp_path, tag):
    text = changed(tag, lambda words: words + ["0"] * 4_000_000)(good_upf())
    assert f"the section {tag} has more than 100000 numbers" in refusal(tmp_path / "Si.upf", text)


def test_spacing_of_a_logarithmic_mesh_is_compared_with_its_radii(tmp_path):
    for factor in (2.0, 0.5, -1.0):
        text = upf(table("O"), radii=LOGARITHMIC, spacing=factor * 0.0125 * LOGARITHMIC)
        assert "the spacing dr/di at radius" in refusal(tmp_path / "O.upf", text)


# ---- psp8 -----------------------------------------------------------------------------------------------------------


def with_line(number: int, change: Callable[[list[str]], list[str]]) -> str:
    """The psp8 file with a change of the words of one line, counted from 0."""
    lines = good_psp8().splitlines()
    lines[number] = " ".join(change(lines[number].split()))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (100, put(2, "NaN"), "number 94 of the projector 1 is nan"),
        (100, lambda words: words[:-1], "expected a line with the number 94, a radius and 2 values"),
        (100, lambda words: [*words, "0.1"], "expected a line with the number 94"),
        (100, put(0, "95"), "expected a line with the number 94"),
        (100, put(1, "0.94"), "radius 94 is 0.94 bohr, expected 0.930000 bohr"),
        (1, put(0, "-1.0"), "zatom is -1.0, expected an atomic number from 1 to"),
        (1, put(0, "inf"), "zatom is inf"),
        (1, put(0, "500"), "zatom is 500.0"),
        (1, put(1, "inf"), "inf valence electrons"),
        (2, put(2, "4"), "lmax is 4"),
        (2, put(2, "-1"), "lmax is -1"),
        (2, put(3, "0"), r"l = 0 is that of the local potential (lloc) and has 2 projectors"),
        (2, put(4, "601"), "expected a line with the number 601"),
        (2, put(4, "599"), "the block of l = 1 begins with '600'"),
        (2, put(4, "1000000000000"), "mmax is 1000000000000, expected 3 to 100000 radii"),
        (2, put(4, "-5"), "mmax is -5, expected 3 to 100000 radii"),
        (4, put(0, "1"), "the block of l = 0 has 2 energies, expected one for 1 projectors"),
        (4, put(0, "3"), "the block of l = 0 has 2 energies"),
        (4, put(0, "-2"), "expected 2 numbers of projectors"),
        (6, lambda words: words[:-1], "the block of l = 0 has 1 energies"),
        (6, put(1, "nan"), "not all finite"),
        (3, put(1, "0.0"), "fchrg is 0.0, but a block of a core density follows"),
        (3, put(1, "nan"), "fchrg is nan, expected a finite number"),
        (-100, lambda words: words[:-1], "expected a line with the number 501, a radius and 5 values"),
        (-1, put(2, "-1.0"), "the core density is negative"),
        (-300, put(2, "1.0"), "core density is not smooth near its number 301: it is 0.0795775"),
    ],
)
def test_psp8_with_wrong_numbers_is_refused(tmp_path, line, change, message):
    assert message in refusal(tmp_path / "Si.psp8", with_line(line, change))


@pytest.mark.parametrize("end", ["", "\n<INPUT>\nof the generator"])
def test_psp8_without_an_end_of_its_last_line_is_read(tmp_path, end):
    (tmp_path / "Si.psp8").write_text(good_psp8())
    digest = read_pseudo(tmp_path / "Si.psp8").digest
    (tmp_path / "Si.psp8").write_text(good_psp8().rstrip() + end)
    assert read_pseudo(tmp_path / "Si.psp8").digest == digest


# ---- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Si.upf", "Si.psp8"])
def test_file_that_is_cut_short_anywhere_is_refused(tmp_path, name):
    rng = random.Random(13)
    text = {"Si.upf": good_upf(), "Si.psp8": good_psp8()}[name]
    text = text.rstrip()
    for length in [0, 1, len(text) - 1, *(rng.randrange(len(text)) for _ in range(40))]:
        refusal(tmp_path / name, text[:length])


@pytest.mark.parametrize("name", ["Si.upf", "Si.psp8"])
def test_file_with_a_part_taken_out_or_of_other_bytes_is_refused(tmp_path, name):
    rng = random.Random(14)
    text = {"Si.upf": good_upf(), "Si.psp8": good_psp8()}[name].encode()
    start = text.index(b"PP_MESH") if name == "Si.upf" else text.index(b"extension_switch") + 20
    for _ in range(20):
        place, length = rng.randrange(start, len(text) - 500), rng.randrange(100, 400)
        refusal(tmp_path / name, text[:place] + text[place + length :])
        refusal(tmp_path / name, text[:place] + rng.randbytes(length) + text[place + length :])


@pytest.mark.parametrize("name", ["Si.upf", "Si.psp8"])
def test_fifo_device_folder_and_large_file_are_refused_at_once(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    for pseudos in (path, tmp_path, {"Si": str(path)}):
        with pytest.raises(InputError, match=f"{name} cannot be read: it is a FIFO, expected a regular file"):
            NNXCCalculator(pseudos=pseudos).resolve(bulk("Si"))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=f"{name} cannot be read: it is a device file"):
        read_pseudo(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=f"{name} cannot be read: it is a folder"):
        read_pseudo(path)
    path.rmdir()
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(InputError, match=f"{name} cannot be read: it has 1099511627776 bytes, more than the limit"):
        read_pseudo(path)


# digests before the checks were made, of radial functions that end at 5.99 bohr
PSEUDODOJO = {
    "Al": "345a93004f18eb96",
    "C": "ed708a53aaf96831",
    "Ca": "05e541093f171a56",
    "Cu": "64cb380661597741",
    "F": "59783d75dc3089db",
    "H": "c9424ed522f557ec",
    "Mg": "b6a8bbfe35810b56",
    "Ni": "03422a307e14a025",
    "O": "255a1084bc2e3052",
    "Si": "23833e3f07b6be52",
}


def test_files_of_pseudodojo_pass_the_checks_and_keep_their_numbers(shared_pseudo):
    assert {s: read_pseudo(shared_pseudo / f"{s}.upf").digest[:16] for s in PSEUDODOJO} == PSEUDODOJO


def test_density_of_an_atom_may_decay_beyond_the_end_of_the_mesh(shared_pseudo):
    for symbol in PSEUDODOJO:
        content = read_upf((shared_pseudo / f"{symbol}.upf").read_text(), symbol)
        inside = content.radii < 6.0  # up to 2.7 % of the electrons of Al are outside
        rows = {name: getattr(content, name)[inside] for name in ("radii", "spacing", "local", "density")}
        check_content(replace(content, **rows, core=None, projectors=[p[inside] for p in content.projectors]))


def test_cut_files_of_pseudodojo_are_refused(shared_pseudo, tmp_path):
    rng = random.Random(15)
    for symbol in PSEUDODOJO:
        text = (shared_pseudo / f"{symbol}.upf").read_text().rstrip()
        for _ in range(4):
            refusal(tmp_path / f"{symbol}.upf", text[: rng.randrange(len(text))])
