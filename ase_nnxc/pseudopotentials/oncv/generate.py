"""The pseudopotential of an element for a functional: generated once, then kept in the process and in a folder."""

import hashlib
import json
from dataclasses import asdict

import numpy as np

from ...atoms.sphere import SPHERICAL
from ...xc.architecture import UnknownArchitecture, describe
from ...xc.functional import Functional
from ...xc.identity import functional_digest
from ...xc.mgga import R2SCAN, SCAN
from ..tabulated import Tabulated
from .errors import GenerationError
from .inputs import Inputs, load_inputs
from .store import load_numbers, store_numbers
from .table import digest_of, numbers_of, table_of

NAME = "oncv"
"""What `pseudos` calls pseudopotentials that are generated for the functional in use; "oncv-PBE" are those of PBE."""
VERSION = 2
"""Version of the generator, which is raised whenever the same inputs would give other numbers."""
MOST_TABLES = 256  # in the process

_tables: dict[tuple[str, str], Tabulated] = {}


@np.errstate(under="ignore")  # the tails of orbitals; the user may have told NumPy to raise
def generate(symbol: str, functional: Functional, name: str = NAME) -> Tabulated:
    """Return the optimised norm-conserving pseudopotential of an element for a functional.

    The scalar-relativistic all-electron atom, the separable potentials, the core and the unscreening all use the
    functional. It takes about half a second. The result is kept in the process, and in the folder $NNXC_CACHE_DIR (by
    default in the user's cache) if the class of the functional is a registered architecture.

    Parameters
    ----------
    symbol : str
        Chemical symbol; inputs exist for 72 elements from H to Rn.
    functional : Functional
        Any functional of the density, its gradient and tau, with its present parameters. SCAN has the pseudopotential
        of r2SCAN.
    name : str
        Name of the result.

    Returns
    -------
    Tabulated
        Its recommended cutoff is `Generated.recommended_cutoff`. Its digest is that of inputs, functional
        and version of the generator, equal on all machines.

    Raises
    ------
    InputError
        If there are no inputs for the element, the functional has other features, the atom does not converge, or the
        result fails a check: eigenvalues, norms and continuity, numbers of levels up to 1 Ha (ghosts).

    Warns
    -----
    UserWarning
        Once, if the folder cannot be written.
    """
    parent = parent_of(functional)
    inputs = load_inputs(symbol, "tau" in parent.features)
    key = _key(inputs, parent)
    if key is not None and (key, name) in _tables:
        return _tables[key, name]
    numbers = None if key is None else load_numbers(inputs, key)
    if numbers is None:
        from .generator import build  # loads scipy, which a table in the folder does not need

        numbers = numbers_of(build(inputs, parent))
        if key is not None:
            store_numbers(inputs, key, numbers)
    functional_name = f"{type(parent).__qualname__} {functional_digest(parent)[:12]}"
    table = table_of(inputs, numbers, functional_name, key or digest_of(inputs, numbers), name)
    if key is not None:
        while len(_tables) >= MOST_TABLES:
            del _tables[next(iter(_tables))]
        _tables[key, name] = table
    return table


def parent_of(functional: Functional) -> Functional:
    """Return the functional with which a pseudopotential is generated: itself, and r2SCAN for SCAN.

    The potential of SCAN is too rough in atoms: pseudopotentials would need four times the cutoff.

    Raises
    ------
    GenerationError
        If there is none.
    """
    features = set(functional.features)
    if not features <= SPHERICAL:
        others = ", ".join(sorted(features - SPHERICAL))
        raise GenerationError(
            f"no pseudopotential can be generated for {type(functional).__qualname__}, which depends on {others}: "
            "choose pseudos='oncv-PBE', which are those of PBE, or a table, such as 'gth-pbe'"
        )
    return R2SCAN() if type(functional) is SCAN else functional


def _key(inputs: Inputs, functional: Functional) -> str | None:
    """The sha256 of everything that the numbers depend on; None for a class that is not registered.

    A registered architecture has a version that is raised whenever its numbers change; another class may be a different
    one in the next process.
    """
    try:
        description = describe(functional)
    except UnknownArchitecture:
        return None
    text = json.dumps([VERSION, asdict(inputs), description], sort_keys=True)
    return hashlib.sha256(f"{text} {functional_digest(functional)}".encode()).hexdigest()
