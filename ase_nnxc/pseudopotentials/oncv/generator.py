"""Generation of a pseudopotential for an element and a functional, with all checks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...atoms import AllElectronAtom, AtomError, Elements, Shell, solve_atom, xc_of_sphere
from ...atoms.elements import Array, atomic_edges
from ...xc.functional import Functional
from ...xc.gga import PBE
from .channel import Channel, PseudoFunctions, make_channel, make_functions
from .errors import GenerationError
from .inputs import ChannelInputs, Inputs, ModelCoreInputs
from .levels import Levels
from .local import local_potential
from .model_core import ModelCore, equal_densities, fit_model_core
from .partial_core import PartialCore, make_partial_core
from .pseudo_atom import pseudo_levels, unscreen, valence_fields
from .reference import Reference, Unbound, cut_solution, reference_functions
from .smooth import SmoothElements

EIGENVALUE_TOLERANCE = 1e-3  # Hartree, of the pseudo-atom against the atom
CONTINUITY_TOLERANCE = 1e-6  # of norms, values and derivatives, relative to the largest
CORE_TOLERANCE = 0.05  # of core levels against PBE's, relative: those of LDA and BLYP differ by up to 0.015
Core = ModelCore | PartialCore


@dataclass(frozen=True, eq=False)
class Generated:
    """A generated pseudopotential and what it was made of.

    Attributes
    ----------
    inputs : Inputs
        The inputs that were used; they may differ from those of the table where these failed.
    atom : AllElectronAtom
        The all-electron atom.
    smooth : SmoothElements
        Elements of everything below.
    local : Array
        (N,) screened local potential, Hartree.
    density : Array
        (N,) density of the valence functions, bohr^-3.
    v_tau : Array
        (N,) screened derivative of the exchange-correlation energy with respect to the kinetic energy density.
    ion : Array
        (N,) local potential of the ion, Hartree.
    channels : tuple of Channel
        Projectors by angular momentum.
    core : ModelCore, PartialCore or None
        The core that exchange and correlation see.
    """

    inputs: Inputs
    atom: AllElectronAtom
    smooth: SmoothElements
    local: Array
    density: Array
    v_tau: Array
    ion: Array
    channels: tuple[Channel, ...]
    core: Core | None

    @cached_property
    def levels(self) -> Mapping[Shell, float]:
        """Valence shell -> eigenvalue in the screened pseudopotential, Hartree."""
        return pseudo_levels(self.atom, self.smooth, self.local, self.v_tau, self.channels, self.inputs)

    @property
    def eigenvalue_error(self) -> float:
        """Largest difference of an eigenvalue from that of the all-electron atom, Hartree."""
        return max(abs(energy - self.atom.states[shell].energy) for shell, energy in self.levels.items())

    @property
    def cutoff(self) -> float:
        """Plane-wave cutoff at which the worst first function has a residual kinetic energy of 1e-4 Ha, Hartree."""
        return max(channel.functions.cutoff for channel in self.channels)

    @property
    def recommended_cutoff(self) -> float:
        """Plane-wave cutoff for lattice constants, Hartree.

        PseudoDojo's cutoffs of normal precision, found from the energy of solids, are 1.1 E + 4.2 Ha with the above E
        of the same inputs, with a mean deviation of 1.6 Ha over 72 elements.
        """
        return 1.1 * self.cutoff + 4.2

    @property
    def core_density(self) -> Array:
        """(N,) density of the model core, bohr^-3; zero without one."""
        return core_fields(self.core, self.smooth)[0]


def build(inputs: Inputs, functional: Functional) -> Generated:
    """Generate the pseudopotential of an element for a functional of the density, its gradient and tau.

    If a check fails, some of the inputs are changed, one at a time: see `variants`.

    Raises
    ------
    GenerationError
        If all variants of the inputs fail; the message says why the inputs themselves did.
    AtomError
        If the atom does not converge.
    """
    failure: GenerationError | None = None
    atoms: dict[tuple[float, ...], AllElectronAtom] = {}
    for variant in variants(inputs):
        if variant.radii not in atoms:
            atoms[variant.radii] = _all_electron(variant, functional)
        try:
            return build_with(variant, functional, atoms[variant.radii])
        except GenerationError as error:
            failure = failure or error
    raise GenerationError(f"no pseudopotential of {inputs.symbol} for this functional passes all checks: {failure}")


def variants(inputs: Inputs) -> Iterator[Inputs]:
    """Return the inputs, and then those with changes that help against ghosts.

    For each channel the spacing of its energies changes by 20 %; then V_loc(0) by 10 %; then for each channel the
    radius by 2 %, or the basis by one wave.
    """
    yield inputs
    for factor in (0.8, 1.2):
        yield from _changed_channels(inputs, lambda c: replace(c, spacing=factor * c.spacing))
    for factor in (0.9, 1.1):
        yield replace(inputs, local=replace(inputs.local, v0=factor * inputs.local.v0))
    for factor in (0.98, 1.02):
        yield from _changed_channels(inputs, lambda c: replace(c, radius=factor * c.radius))
    yield from _changed_channels(inputs, lambda c: replace(c, waves=c.waves + 1))


def _changed_channels(inputs: Inputs, change: Callable[[ChannelInputs], ChannelInputs]) -> Iterator[Inputs]:
    """The inputs with a change of each channel in turn."""
    for i, channel in enumerate(inputs.channels):
        channels = (*inputs.channels[:i], change(channel), *inputs.channels[i + 1 :])
        yield replace(inputs, channels=channels)


def _all_electron(inputs: Inputs, functional: Functional) -> AllElectronAtom:
    """The atom with a functional, started from PBE's.

    A functional that is wild at the densities of the core, as a network may be, moves the core levels. Then the core is
    that of PBE, and the valence shells alone follow the functional.
    """
    elements = Elements(atomic_edges(inputs.number, inputs.radii))
    shells = (*inputs.core, *inputs.valence)
    start = solve_atom(inputs.number, shells, PBE(), elements=elements)
    try:
        atom = solve_atom(inputs.number, shells, functional, elements=elements, start=start)
    except AtomError:
        atom = None
    if atom is not None and _same_core(inputs, atom, start):
        return atom
    return solve_atom(inputs.number, shells, functional, elements=elements, start=start, frozen=inputs.core)


def _same_core(inputs: Inputs, atom: AllElectronAtom, start: AllElectronAtom) -> bool:
    energies = [(atom.states[shell].energy, start.states[shell].energy) for shell in inputs.core]
    return all(abs(a - b) <= CORE_TOLERANCE * abs(b) for a, b in energies)


def build_with(
    inputs: Inputs, functional: Functional, atom: AllElectronAtom, unbound: Unbound = cut_solution
) -> Generated:
    """Generate the pseudopotential of an element for a functional from its all-electron atom, without other inputs.

    Parameters
    ----------
    inputs : Inputs
        Inputs of the element.
    functional : Functional
        The functional.
    atom : AllElectronAtom
        The atom with the same shells and with edges at all radii of the inputs.
    unbound : callable
        Makes the functions at positive energies, see `reference_functions`; by default `cut_solution`.

    Raises
    ------
    GenerationError
        If a check fails.
    """
    smooth = SmoothElements.of(atom.elements)
    references = [reference_functions(atom, inputs, channel, unbound) for channel in inputs.channels]
    candidates = [make_functions(smooth, *pair) for pair in zip(inputs.channels, references)]
    levels = [Levels(atom, smooth, inputs, channel.l) for channel in inputs.channels]
    reason: GenerationError | None = None
    while True:  # a channel with false levels gets its next functions; v_tau depends on those of all channels
        generated = _complete(inputs, functional, atom, smooth, [options[0] for options in candidates])
        found = (
            one.first_difference(channel, generated.local, generated.v_tau)
            for one, channel in zip(levels, generated.channels)
        )
        wrong = next(((i, difference) for i, difference in enumerate(found) if difference is not None), None)
        if wrong is None:
            break
        number, difference = wrong
        reason = reason or _false_levels(inputs.channels[number].l, *difference)
        candidates[number] = candidates[number][1:]
        if not candidates[number]:
            raise reason
    for channel, reference in zip(generated.channels, references):
        _check_continuity(channel.functions, reference)
    if generated.eigenvalue_error > EIGENVALUE_TOLERANCE:
        raise GenerationError(
            f"its eigenvalues differ by {generated.eigenvalue_error:.1e} Ha from those of the all-electron atom"
        )
    return generated


def _complete(
    inputs: Inputs,
    functional: Functional,
    atom: AllElectronAtom,
    smooth: SmoothElements,
    functions: Sequence[PseudoFunctions],
) -> Generated:
    """The pseudopotential with pseudo functions of each channel, not yet checked."""
    with_tau = "tau" in functional.features
    local = local_potential(atom, smooth, inputs.local, 2 if with_tau else 3)
    density, tau = valence_fields(functions, inputs, smooth)
    core = _core(inputs, atom, smooth, density, with_tau)
    core_density, core_tau = core_fields(core, smooth)
    xc = xc_of_sphere(functional, smooth, density + core_density, tau + core_tau)
    # beyond these radii the functions are solutions of the local Hamiltonian: v_tau is right where all functions are
    longest = max(channel.radius for channel in inputs.channels)
    radii = [longest if with_tau else channel.radius for channel in inputs.channels]
    channels = tuple(make_channel(smooth, local, xc.v_tau, *pair) for pair in zip(functions, radii))
    return Generated(
        inputs=inputs,
        atom=atom,
        smooth=smooth,
        local=local,
        density=density,
        v_tau=xc.v_tau,
        ion=unscreen(smooth, local, density, xc.v),
        channels=channels,
        core=core,
    )


def _false_levels(l: int, energy: float, pseudo: int, all_electron: int) -> GenerationError:  # noqa: E741
    return GenerationError(
        f"l = {l}: there are {pseudo} levels below {energy:.2f} Ha in a sphere of 6 bohr, and {all_electron} "
        "with all electrons"
    )


def _core(inputs: Inputs, atom: AllElectronAtom, smooth: SmoothElements, valence: Array, with_tau: bool) -> Core | None:
    """The core that goes with a density of the valence (N,); None for an element without."""
    if inputs.model_core is None:
        return None
    if isinstance(inputs.model_core, ModelCoreInputs) == with_tau:
        raise GenerationError(f"these inputs are for other functionals: use load_inputs(symbol, with_tau={with_tau})")
    core = atom.density_of(inputs.core)
    radius = equal_densities(atom.elements, core, smooth, valence)
    if isinstance(inputs.model_core, ModelCoreInputs):
        return fit_model_core(inputs.model_core, atom.elements, core, radius)
    longest = max(channel.radius for channel in inputs.channels)
    return make_partial_core(inputs.model_core, atom.elements, core, atom.tau_of(inputs.core), radius, longest)


def _check_continuity(functions: PseudoFunctions, reference: Reference) -> None:
    """Raise GenerationError unless norms, overlaps, values and derivatives are those of the all-electron functions."""
    for name, actual, expected in (
        ("norms", functions.overlaps, reference.overlaps),
        ("values and derivatives at r_c", functions.derivatives, reference.derivatives),
    ):
        error = float(np.abs(actual - expected).max() / np.abs(expected).max())
        if not error < CONTINUITY_TOLERANCE:
            raise GenerationError(f"l = {functions.l}: the {name} of the pseudo functions are wrong by {error:.1e}")


def core_fields(core: Core | None, smooth: SmoothElements) -> tuple[Array, Array]:
    """Return density, bohr^-3, and kinetic energy density, Hartree bohr^-3, of a model core (N,); zero without one."""
    r = smooth.radii
    return (np.zeros(len(r)), np.zeros(len(r))) if core is None else (core.density(r), core.kinetic_energy_density(r))
