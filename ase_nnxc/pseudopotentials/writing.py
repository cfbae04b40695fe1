"""Writers of pseudopotential files for other programs: UPF 2 (Quantum ESPRESSO) and psp8 (ABINIT).

The radial functions of any pseudopotential, also of a GTH table, are written on a uniform mesh.
"""

import os
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from ase.calculators.calculator import InputError

from .protocol import Array, Pseudopotential, SeparablePart
from .psp8 import ixc_of

STEP, END = 0.01, 10.0  # bohr; pw.x, too, ends its integrals at 10 bohr
RADII: Array = np.linspace(0, END, round(END / STEP) + 1)
INNER = 1e-4  # bohr: stands for r = 0, where some functions are known as r f(r) only
NEGLIGIBLE = 1e-14  # of projectors times r, bohr^(-1/2)
_UPF_NAMES = {"pade": "PW", "lda": "PW"}  # other functionals are written under their own name
_AT_INNER = np.maximum(RADII, INNER)


def write_pseudo(pseudopotential: Pseudopotential, path: str | os.PathLike[str], functional: str | None = None) -> None:
    """Write a pseudopotential to a file.

    Parameters
    ----------
    pseudopotential : Pseudopotential
        What `find_pseudos`, `read_pseudo` or `generate` return.
    path : str or PathLike
        A file with the suffix ".upf" (UPF 2) or ".psp8".
    functional : str, optional
        Name of the functional in the file, such as "PBEsol"; default: that of the family of tables. Other programs must
        know it.

    Raises
    ------
    InputError
        If the suffix is another one, or the psp8 format has no number for the functional.
    """
    name = functional or pseudopotential.functional
    writers = {".upf": _upf_lines, ".psp8": _psp8_lines}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise InputError(f"{os.fspath(path)!r}: expected a file with the suffix {' or '.join(writers)}")
    Path(path).write_text("\n".join(writers[suffix](pseudopotential, name)) + "\n", encoding="utf-8")


def _diagonal(channel: SeparablePart) -> tuple[Array, Array]:
    """Return couplings (n,), Hartree, and r times projectors (n, nr), bohr^(-1/2), in which h is diagonal."""
    couplings, vectors = np.linalg.eigh(np.array(channel.h))
    functions = np.array([RADII * channel.in_space(i, _AT_INNER) for i in range(len(couplings))])
    return couplings, vectors.T @ functions


# ---- UPF -------------------------------------------------------------------------------------------------------------


def _upf_lines(table: Pseudopotential, functional: str) -> Iterator[str]:
    """Yield the lines of a UPF file, in Rydberg atomic units: energies are doubled."""
    projectors = [
        (channel.l, coupling, function) for channel in table.channels for coupling, function in zip(*_diagonal(channel))
    ]
    cutoff = table.recommended_cutoff
    header = {
        "generated": f"ase_nnxc, from {table.name}, sha256 {table.digest}",
        "author": "ase_nnxc",
        "date": date.today().isoformat(),
        "comment": "",
        "element": table.symbol,
        "pseudo_type": "NC",
        "relativistic": "scalar",
        **dict.fromkeys(("is_ultrasoft", "is_paw", "is_coulomb", "has_so", "has_wfc", "has_gipaw"), "F"),
        "core_correction": "F" if table.core is None else "T",
        "functional": _UPF_NAMES.get(functional.lower(), functional.upper()),
        "z_valence": f"{table.valence:.2f}",
        "total_psenergy": "0.0",
        "wfc_cutoff": f"{0.0 if cutoff is None else 2 * cutoff.ecut:.2f}",
        "rho_cutoff": f"{0.0 if cutoff is None else 8 * cutoff.ecut:.2f}",
        "l_max": str(max((channel.l for channel in table.channels), default=0)),
        "l_local": "-1",
        "mesh_size": str(len(RADII)),
        "number_of_wfc": "0",
        "number_of_proj": str(len(projectors)),
    }
    yield '<UPF version="2.0.1">'
    yield "<PP_HEADER"
    yield from (f'{name}="{value}"' for name, value in header.items())
    yield "/>"
    yield "<PP_MESH>"
    yield from _upf_section("PP_R", RADII)
    yield from _upf_section("PP_RAB", STEP * np.ones(len(RADII)))
    yield "</PP_MESH>"
    if table.core is not None:
        yield from _upf_section("PP_NLCC", table.core.in_space(_AT_INNER))
    yield from _upf_section("PP_LOCAL", 2 * table.local_in_space(_AT_INNER))
    yield "<PP_NONLOCAL>"
    for number, (angular, _, function) in enumerate(projectors, start=1):
        end = int(np.nonzero(np.abs(function) > NEGLIGIBLE)[0].max(initial=0)) + 2
        end = min(end + (end + 1) % 2, len(RADII))  # an odd number of points, for Simpson's rule
        attributes = f'index="{number}" angular_momentum="{angular}" cutoff_radius_index="{end}"'
        yield from _upf_section(f"PP_BETA.{number}", function, attributes)
    if projectors:
        yield from _upf_section("PP_DIJ", np.diag([2 * coupling for _, coupling, _ in projectors]).ravel())
    yield "</PP_NONLOCAL>"
    yield "<PP_PSWFC>"
    yield "</PP_PSWFC>"
    if table.density is not None:
        yield from _upf_section("PP_RHOATOM", 4 * np.pi * RADII**2 * table.density.in_space(_AT_INNER))
    yield "</UPF>"


def _upf_section(tag: str, values: Array, attributes: str = "") -> Iterator[str]:
    yield f'<{tag} type="real" size="{len(values)}" columns="4" {attributes}>'
    yield from (" ".join(f"{value:.15E}" for value in values[i : i + 4]) for i in range(0, len(values), 4))
    yield f"</{tag}>"


# ---- psp8 ------------------------------------------------------------------------------------------------------------


def _psp8_lines(table: Pseudopotential, functional: str) -> Iterator[str]:
    """Yield the lines of a psp8 file."""
    ixc = ixc_of(functional)
    if ixc is None:
        raise InputError(f"psp8 files have no number for the functional {functional!r}; write a UPF file")
    channels = {channel.l: _diagonal(channel) for channel in table.channels}
    largest = max(channels, default=0)
    core = table.core
    yield f"{table.symbol} by ase_nnxc, from {table.name}, sha256 {table.digest}"
    yield f"{table.number:.4f} {table.valence:.4f} {date.today():%y%m%d} zatom, zion, pspd"
    yield f"8 {ixc} {largest} 4 {len(RADII)} 0 pspcod, pspxc, lmax, lloc, mmax, r2well"
    yield f"{0 if core is None else END:.8f} {0 if core is None else 1:.8f} 0.0 rchrg, fchrg, qchrg"
    counts = [len(channels[l][0]) if l in channels else 0 for l in range(5)]  # noqa: E741
    yield f"{' '.join(map(str, counts))} nproj"
    yield "0 extension_switch"
    for l, (couplings, functions) in channels.items():  # noqa: E741
        yield f"{l} {' '.join(f'{coupling:.15E}' for coupling in couplings)}"
        yield from _psp8_block(functions)
    yield "4"
    yield from _psp8_block([table.local_in_space(_AT_INNER)])
    if core is not None:
        yield from _psp8_block(4 * np.pi * np.array(_with_derivatives(core.in_space(_AT_INNER))))


def _psp8_block(columns: Sequence[Array] | Array) -> Iterator[str]:
    for number, (r, *values) in enumerate(zip(RADII, *columns), start=1):
        yield f"{number} {r:.15E} {' '.join(f'{value:.15E}' for value in values)}"


def _with_derivatives(values: Array) -> list[Array]:
    """Return values (nr,) of an even function of the radius with their first four derivatives."""
    from scipy.interpolate import make_interp_spline  # loading scipy takes longer than reading a file

    mirrored = np.concatenate((values[:0:-1], values))
    spline = make_interp_spline(np.concatenate((-RADII[:0:-1], RADII)), mirrored, k=7)
    return [values, *(spline.derivative(n)(RADII) for n in range(1, 5))]
