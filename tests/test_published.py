"""Published networks: their formulae, the conditions they keep, their numbers, and files that are not theirs."""

import hashlib
import math
import os
import random
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf, expit

from ase_nnxc.interop import published_weights as published
from ase_nnxc.interop.published_weights import import_weights
from ase_nnxc.xc import LDA, DeepChemLDA, Dpyscf, Nagai, Sum, build, describe
from ase_nnxc.xc.lda import pw92
from ase_nnxc.xc.spins import Spins

K_F = (3 * math.pi**2) ** (1 / 3)
TAU = 0.3 * K_F**2
FORMS = {
    "gga exchange": lambda: Dpyscf("x", [1, 16, 16, 16, 1], "linear", 1.804),
    "gga correlation": lambda: Dpyscf("c", [3, 16, 16, 16, 1], "tanh", 2.0, softplus=True),
    "meta-gga exchange": lambda: Dpyscf("x", [2, 16, 16, 16, 1], "linear", 1.174),
    "meta-gga correlation": lambda: Dpyscf("c", [4, 16, 16, 16, 1], "tanh", 2.0, softplus=True),
    "later exchange": lambda: Dpyscf("x", [2, 32, 32, 32, 1], "linear", 1.174, eta=0.001),
    "later correlation": lambda: Dpyscf("c", [4, 32, 32, 32, 1], "linear", 2.0, eta=0.001),
    "free exchange": lambda: Dpyscf("x", [1, 16, 16, 16, 1], None, None),
    "free correlation": lambda: Dpyscf("c", [3, 16, 16, 16, 1], None, 2.0, softplus=True),
    "lsda": lambda: Nagai([2, 100, 100, 100, 1]),
    "gga": lambda: Nagai([3, 100, 100, 100, 1]),
    "meta-gga": lambda: Nagai([4, 100, 100, 100, 1]),
    "lda of deepchem": lambda: DeepChemLDA([16, 16]),
}
DPYSCF = {"pbe": "PBE", "pbe_free": "PBE", "scan": "SCAN"}
NAGAI = ("NNLSDA", "NNGGA", "NNmGGA")


@pytest.fixture(scope="session")
def shared_weights() -> Path:
    """Folder of published weights, which are not kept in the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "weights"
    if not folder.is_dir():
        pytest.skip("reference data not kept here")
    return folder


@pytest.fixture(params=FORMS)
def network(request):
    """A network of each form with weights that are drawn."""
    functional = FORMS[request.param]()
    functional.load_state_dict(drawn(functional))
    return functional


def drawn(functional):
    """A state dict of random weights that keep the size of signals."""
    rng = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(tensor.shape, dtype=torch.float64, generator=rng) / math.sqrt(tensor.shape[-1])
        for name, tensor in functional.state_dict().items()
    }


def features(rs, s, alpha, zeta):
    """Features (2, ...) of points with these local variables; the densities of both spins have one shape."""
    rs, s, alpha, zeta = np.broadcast_arrays(*(np.asarray(x, float) for x in (rs, s, alpha, zeta)))
    n = 3 / (4 * np.pi * rs**3)
    gradient = 2 * K_F * n ** (4 / 3) * s
    scaling = ((1 + zeta) ** (5 / 3) + (1 - zeta) ** (5 / 3)) / 2
    tau = TAU * n ** (5 / 3) * scaling * alpha + gradient**2 / (8 * n)
    shares = np.stack([(1 + zeta) / 2, (1 - zeta) / 2])
    direction = np.array([0.6, 0.0, 0.8])
    made = {"density": shares * n, "gradient": (shares * gradient)[:, None] * direction[:, None], "tau": shares * tau}
    return {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in made.items()}


POINTS = features([0.7, 2, 2, 3, 5], [0.4, 0.02, 1.1, 3, 0.6], [0.3, 1.2, 1, 4, 0.01], [0, 0.3, 0.8, 0.99, -0.5])


def differentiate(functional, point):
    """Energies, and their derivatives by the features that are read."""
    energy = functional(point)
    inputs = [point[name] for name in functional.features]
    return energy, torch.autograd.grad(energy.sum(), inputs, create_graph=True)


def mlp(state, x, activation):
    """The network of a state dict, in numpy; inputs along the last axis."""
    layers = sorted({int(name.split(".")[1]) for name in state})
    for layer in layers:
        x = x @ state[f"net.{layer}.weight"].numpy().T + state[f"net.{layer}.bias"].numpy()
        x = x if layer == layers[-1] else activation(x)
    return x[..., 0]


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def numbers(point):
    """Spin densities, |grad n_s|, |grad n|, tau in numpy."""
    density, gradient, tau = (point[name].detach().numpy() for name in ("density", "gradient", "tau"))
    return density, np.linalg.norm(gradient, axis=1), np.linalg.norm(gradient.sum(0), axis=0), tau


def dpyscf_exchange(network, point):
    """Energy per volume by the published formulae, channel by channel."""
    total = 0
    density, gradient, _, tau = numbers(point)
    for n, g, t in zip(2 * density, 2 * gradient, 2 * tau):
        s = g / (2 * K_F * n ** (4 / 3))
        x2 = (1 - np.exp(-(s**2))) * np.log(1 + s)
        inputs, gate = [x2], x2
        if "tau" in network.features:
            weizsaecker, uniform = g**2 / (8 * n), TAU * n ** (5 / 3)
            x3 = np.log(((t - weizsaecker) / (uniform + network.eta * weizsaecker) + 1) / 2)
            inputs, gate = [x2, x3], x2 + np.tanh(x3) ** 2
        y = mlp(network.state_dict(), np.stack(inputs, -1), gelu) * (1 if network.gate is None else gate)
        factor = 1 + y if network.bound is None else network.bound * expit(y - math.log(network.bound - 1))
        total = total - 0.375 * (3 / math.pi) ** (1 / 3) * n ** (4 / 3) * factor
    return total


def dpyscf_correlation(network, point):
    """Energy per volume by the published formulae, spin up being the majority."""
    (up, down), _, gradient, tau = numbers(point)
    n, zeta = up + down, abs(up - down) / (up + down)
    s = gradient / (2 * K_F * n ** (4 / 3)) / ((1 + zeta) ** (2 / 3) + (1 - zeta) ** 2 / 3)
    x2 = (1 - np.exp(-(s**2))) * np.log(1 + s)
    inputs = [np.log(n ** (1 / 3) + 1e-5), np.log(((1 + zeta) ** (4 / 3) + (1 - zeta) ** (4 / 3)) / 2), x2]
    gate = np.tanh(x2) if network.gate == "tanh" else x2
    if "tau" in network.features:
        scaling = ((1 + zeta) ** (5 / 3) + (1 - zeta) ** (5 / 3)) / 2
        weizsaecker = gradient**2 / (8 * n)
        alpha = (tau.sum(0) - weizsaecker) / (TAU * n ** (5 / 3) * scaling + network.eta * weizsaecker)
        inputs.append(np.log((alpha + 1) / 2))
        gate = gate + np.tanh(inputs[-1]) ** 2
    y = mlp(network.state_dict(), np.stack(inputs, -1), gelu)
    y = (np.logaddexp(0, y) if network.softplus else y) * (1 if network.gate is None else gate)
    return n * pw92(Spins.of(point["density"])).detach().numpy() * (1 - np.tanh(y / 2))


def nagai(network, point, d=1e-7):
    """Energy per volume by the formulae of the published program."""
    (up, down), _, gradient, tau = numbers(point)
    n = up + down
    cbrt, zeta = (n + d) ** (1 / 3), (up - down) / (n + d)
    polarisation = ((1 + zeta) ** (4 / 3) + (1 - zeta) ** (4 / 3)) / 2
    t = [
        cbrt,
        polarisation,
        (np.sqrt(gradient**2 + 4 * d) + d) / cbrt**4,
        (tau.sum(0) + d) / (cbrt**5 * ((1 + zeta) ** (5 / 3) + (1 - zeta) ** (5 / 3))),
    ]
    y = mlp(network.state_dict(), np.log(np.stack(t[: network.layers[0]], -1)), elu)
    return -(n ** (4 / 3)) * polarisation * (elu(y) + 1)


def deepchem_lda(network, point):
    """Energy per volume by the formula of DeepChem, spin up being the majority."""
    (up, down), *_ = numbers(point)
    n, zeta = up + down, abs(up - down) / (up + down)
    return n * mlp(network.state_dict(), np.stack([n, zeta], -1), lambda x: np.logaddexp(0, x))


def formula(network):
    if isinstance(network, DeepChemLDA):
        return deepchem_lda
    return nagai if isinstance(network, Nagai) else {"x": dpyscf_exchange, "c": dpyscf_correlation}[network.kind]


def test_energy_is_that_of_the_published_formulae(network):
    np.testing.assert_allclose(network(POINTS).detach(), formula(network)(network, POINTS), rtol=1e-9)


def test_description_makes_the_same_functional(network):
    again = build(describe(network))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(POINTS), network(POINTS))


def test_spins_may_be_exchanged(network):
    swapped = {name: feature.flip(0) for name, feature in POINTS.items()}
    torch.testing.assert_close(network(swapped), network(POINTS), rtol=1e-13, atol=0)


def test_one_channel_of_a_closed_shell_has_the_energy_and_potential_of_two(network):
    two = features([0.5, 2, 4], [0, 0.7, 2], [1, 0.3, 2], 0)
    one = {name: feature.detach()[:1].requires_grad_() for name, feature in two.items()}
    (energy, derivatives), (energy_of_one, derivatives_of_one) = (differentiate(network, f) for f in (two, one))
    torch.testing.assert_close(energy_of_one, energy, rtol=1e-12, atol=0)
    for by_one, by_two in zip(derivatives_of_one, derivatives):
        torch.testing.assert_close(by_one[0], by_two.sum(0), rtol=1e-10, atol=1e-14)


def test_derivatives_are_those_of_the_energy(network):
    point = features([0.6, 0.9, 1.2], [0.4, 1, 0.8], [0.7, 1.2, 2], [0, 0.5, -0.3])
    inputs = [point[name] for name in network.features]

    def energy(*values):
        return network(dict(zip(network.features, values)))

    assert torch.autograd.gradcheck(energy, inputs, eps=1e-7, atol=1e-6, rtol=1e-5, fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, inputs, eps=1e-6, atol=1e-4, rtol=1e-4, fast_mode=True)


def extreme_points():
    """Every density, gradient and polarisation of the contract, and noise."""
    n = 10.0 ** np.arange(-15, 4)
    grid = np.meshgrid(
        (3 / (4 * np.pi * n)) ** (1 / 3), [0, 1e-9, 0.3, 1e3], [-0.1, 0, 1, 1e3], [-1, -1 + 1e-9, 0, 0.4, 1]
    )
    point = features(*(axis.ravel() for axis in grid))
    noise = {
        "density": [[1e-3, -1e-17, 1e-6, 0], [-1e-10, -1e-16, -1e-8, 0]],
        "gradient": [[[1e-7, -1e-9, 1e-9, 0]] * 3, [[-1e-9, 1e-9, -1e-8, 0]] * 3],
        "tau": [[1e-3, -1e-12, 1e-7, 0], [-1e-11, 1e-12, -1e-9, 0]],
    }
    return {
        name: torch.cat([value.detach(), torch.tensor(noise[name], dtype=torch.float64)], dim=-1).requires_grad_()
        for name, value in point.items()
    }


def test_energy_and_two_derivatives_are_finite_everywhere(network):
    point = extreme_points()
    energy, first = differentiate(network, point)
    rng = torch.Generator().manual_seed(1)
    along = sum((one * torch.randn(one.shape, dtype=torch.float64, generator=rng)).sum() for one in first)
    second = torch.autograd.grad(along, [point[name] for name in network.features])
    assert energy.isfinite().all()
    assert all(one.isfinite().all() for one in (*first, *second))


def test_vacuum_has_no_energy(network):
    point = {name: 0 * feature.detach() for name, feature in POINTS.items()}
    assert not network(point).any()


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith(("gga ", "meta-gga ", "later"))])
@pytest.mark.parametrize("zeta", [0, 0.6])
def test_uniform_gas_is_exact(form, zeta):
    functional = FORMS[form]()
    functional.load_state_dict(drawn(functional))
    point = features([0.5, 2, 5], 0, 1, zeta)
    if functional.kind == "x":  # alpha of a channel is one
        cube = (1 + np.array([[zeta], [-zeta]])) ** (5 / 3) / ((1 + zeta) ** (5 / 3) + (1 - zeta) ** (5 / 3))
        point["tau"] = torch.tensor(cube) * point["tau"].sum(0)
    gas = LDA(part=functional.kind)(point)
    torch.testing.assert_close(functional(point), gas, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("form", "bound"), [("gga exchange", 1.804), ("meta-gga exchange", 1.174)])
def test_exchange_keeps_its_bound(form, bound):
    functional = FORMS[form]()
    weights = drawn(functional)
    weights["net.6.bias"] += 30  # which pushes against it
    functional.load_state_dict(weights)
    point = features([1.0] * 4, [0.5, 1, 3, 10], [0.1, 1, 2, 10], 0)
    factor = functional(point) / LDA(part="x")(point)
    assert (factor > 1.1).all()
    assert (factor <= bound * (1 + 1e-15)).all()


@pytest.mark.parametrize("form", [form for form in FORMS if form.endswith("correlation")])
def test_correlation_is_not_positive(form):
    functional = FORMS[form]()
    functional.load_state_dict(drawn(functional))
    assert (functional(POINTS) <= 0).all()


def test_divisor_of_s_is_smooth_through_zero_polarisation():
    network = FORMS["gga correlation"]()
    network.load_state_dict(drawn(network))
    zeta = np.array([-2e-3, -1e-3, 0, 1e-3, 2e-3])
    point = features(2.0, 1.0, 1.0, zeta)
    _, (slope, _) = differentiate(network, point)
    difference = (slope[0] - slope[1]).detach()  # odd in zeta, and linear without a kink
    assert abs(difference[2]) < 1e-15
    assert difference[4] / difference[3] == pytest.approx(2, rel=1e-3)


def test_kink_of_the_polarisation_is_rounded():
    network = FORMS["lda of deepchem"]()
    network.load_state_dict(drawn(network))
    changes = []
    for zeta in (0.0, 0.1):  # where the polynomial begins and ends
        points = features(2.0, 0, 1, zeta + 1e-4 * np.array([-2, -1, 0, 1, 2]))
        slope = differentiate(network, points)[1][0]
        changes.append((slope[0] - slope[1]).detach().diff())
    curvature = changes[0].abs().max()
    for change in changes:  # alike to the left and to the right: no step in the potential, and none in its slope
        assert (change - change[0]).abs().max() < 1e-2 * curvature


def save(path, form, dtype=torch.float64, rename=False):
    """A file of drawn weights of a form."""
    functional = FORMS[form]()
    state = {name: tensor.to(dtype) for name, tensor in drawn(functional).items()}
    if rename:
        state = {f"fc{int(name[4]) // 2 + 1}{name[5:]}": tensor for name, tensor in state.items()}
    torch.save(state, path)
    return path


@pytest.fixture
def nagai_file(tmp_path):
    return save(tmp_path / "NNmGGA", "meta-gga", torch.float32, rename=True)


@pytest.fixture
def dpyscf_folder(tmp_path):
    folder = tmp_path / "pbe"
    folder.mkdir()
    save(folder / "x", "gga exchange")
    save(folder / "c", "gga correlation")
    return folder


def test_nagai_file_is_read(nagai_file):
    functional, card = import_weights("nagai", [nagai_file])
    single = {name: tensor.float().double() for name, tensor in drawn(functional).items()}
    assert all(torch.equal(tensor, single[name]) for name, tensor in functional.state_dict().items())
    assert functional.features == ("density", "gradient", "tau")
    assert "not for metals" in card["description"]


def test_two_files_of_dpyscf_are_read_in_any_order(dpyscf_folder, monkeypatch):
    monkeypatch.setattr(published, "_LIMITS", {"x": math.inf, "c": math.inf})
    folder, _ = import_weights("dpyscf", [dpyscf_folder])
    files, _ = import_weights("dpyscf", [dpyscf_folder / "c", dpyscf_folder / "x"])
    assert isinstance(folder, Sum)
    assert folder.kind == "xc"
    assert [part.kind for part in files.parts] == ["x", "c"]
    for part in folder.parts:
        assert all(torch.equal(tensor, drawn(part)[name]) for name, tensor in part.state_dict().items())
    assert torch.equal(folder(POINTS), files(POINTS))


def test_networks_that_clone_nothing_are_refused(dpyscf_folder):
    with pytest.raises(ValueError, match=r"x is not a clone of PBE or PBEsol: F_x differs by up to .* from"):
        import_weights("dpyscf", [dpyscf_folder])


def test_file_that_runs_code_is_refused_and_runs_none(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "NNGGA"
    torch.save({"fc1.weight": Trap()}, path)
    with pytest.raises(ValueError, match="runs code"):
        import_weights("nagai", [path])
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut off", b"\x80\x04K\x01."])
def test_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "NNGGA"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"NNGGA (is damaged|does not hold a dict)"):
        import_weights("nagai", [path])


def test_cut_file_is_refused(nagai_file):
    nagai_file.write_bytes(nagai_file.read_bytes()[:20000])
    with pytest.raises(ValueError, match="damaged"):
        import_weights("nagai", [nagai_file])


def test_file_with_a_flipped_bit_of_its_numbers_is_refused(nagai_file):
    good = nagai_file.read_bytes()
    (number,) = torch.load(nagai_file, weights_only=True)["fc4.bias"]
    place = good.index(number.detach().numpy().tobytes())
    nagai_file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    with pytest.raises(ValueError, match=r"NNmGGA is damaged: .* in it does not have its checksum"):
        import_weights("nagai", [nagai_file])


@pytest.mark.parametrize("content", [[torch.zeros(3)], torch.zeros(3), {"fc1.weight": 1.0}])
def test_file_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "NNGGA")
    with pytest.raises(ValueError, match="does not hold a dict of tensors by name"):
        import_weights("nagai", [tmp_path / "NNGGA"])


def test_weights_of_the_other_kind_are_refused_by_name(nagai_file, dpyscf_folder):
    with pytest.raises(ValueError, match="they are those of kind 'nagai'"):
        import_weights("dpyscf", [nagai_file, dpyscf_folder / "c"])
    with pytest.raises(ValueError, match="they are those of kind 'dpyscf'"):
        import_weights("nagai", [dpyscf_folder / "x"])


def test_unknown_tensors_are_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(3, 3)}, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"not those of kind 'nagai'.*\(layer.weight\)"):
        import_weights("nagai", [tmp_path / "weights"])


def test_unknown_kind_is_refused_with_the_closest():
    with pytest.raises(ValueError, match="did you mean 'dpyscf'"):
        import_weights("dpyscfl", [])


def test_xc_and_activation_are_refused_where_they_are_known(nagai_file):
    with pytest.raises(ValueError, match="xc and activation belong to the kind 'hybridxc'"):
        import_weights("nagai", [nagai_file], xc="lda_x")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"pbe/x: No such file"):
        import_weights("dpyscf", [tmp_path / "pbe"])


@pytest.mark.parametrize("kind", ["dpyscf", "nagai"])
def test_wrong_number_of_files_is_refused(kind, nagai_file):
    with pytest.raises(ValueError, match=f"{kind}: expected .*, got nothing"):
        import_weights(kind, [])
    with pytest.raises(ValueError, match=f"{kind}: expected .*, got .*NNmGGA"):
        import_weights(kind, [nagai_file] * 3)


def test_other_precision_than_the_published_is_refused(tmp_path, dpyscf_folder):
    save(dpyscf_folder / "x", "gga exchange", torch.float32)
    with pytest.raises(ValueError, match=r"net.0.weight torch.float32.*the published tensors are torch.float64"):
        import_weights("dpyscf", [dpyscf_folder])


def test_exchange_and_correlation_must_belong_together(dpyscf_folder):
    save(dpyscf_folder / "c", "meta-gga correlation")
    with pytest.raises(ValueError, match="networks with 1 and 4 inputs"):
        import_weights("dpyscf", [dpyscf_folder])


def change(path, name, function):
    state = torch.load(path, weights_only=True)
    torch.save({**state, name: function(state[name])}, path)


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("fc2.weight", lambda tensor: tensor[:50], "are not a network"),
        ("fc1.weight", lambda tensor: tensor[0], "are not a network"),
        ("fc4.bias", lambda tensor: tensor[0], "are not a network"),
        (
            "fc1.weight",
            lambda tensor: torch.cat([tensor, tensor], 1),
            "8 inputs; those of kind .* have 2, 3, 4",
        ),
        ("fc3.bias", lambda tensor: tensor * math.nan, "not finite"),
    ],
)
def test_damaged_tensors_are_refused(nagai_file, name, function, message):
    change(nagai_file, name, function)
    with pytest.raises(ValueError, match=message):
        import_weights("nagai", [nagai_file])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda tensor: tensor.to_sparse(),
            "fc2.weight is torch.sparse_coo on the device cpu, expected a dense",
        ),
        (lambda tensor: tensor.to("meta"), "fc2.weight is torch.strided on the device meta, expected a dense tensor"),
        (lambda tensor: torch.zeros(1).expand(10**6, 10**6), "fc2.weight has 1000000000000 elements, more than its"),
        (lambda tensor: tensor[0].clone().expand(100, 100), "fc2.weight has 10000 elements, more than its storage"),
        (lambda tensor: torch.zeros(2**23)[:10000].view(100, 100), "NNmGGA: it has .* bytes, more than the limit"),
    ],
)
def test_tensors_without_their_own_numbers_are_refused(nagai_file, function, message):
    change(nagai_file, "fc2.weight", function)
    with pytest.raises(ValueError, match=message):
        import_weights("nagai", [nagai_file])


def test_archive_that_is_larger_when_it_is_unpacked_is_refused(nagai_file):
    with zipfile.ZipFile(nagai_file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(2**25))
    assert nagai_file.stat().st_size < 2**20
    with pytest.raises(ValueError, match="bytes when it is unpacked, more than the limit"):
        import_weights("nagai", [nagai_file])


def test_weights_in_the_older_format_of_torch_are_read(nagai_file):
    state = torch.load(nagai_file, weights_only=True)
    torch.save(state, nagai_file, _use_new_zipfile_serialization=False)
    assert import_weights("nagai", [nagai_file])[0].features == ("density", "gradient", "tau")


def test_weights_on_a_fifo_or_device_are_refused_and_not_waited_for(tmp_path, dpyscf_folder):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="fifo: it is a FIFO, expected a regular file"):
        import_weights("dpyscf", [dpyscf_folder / "x", tmp_path / "fifo"])
    with pytest.raises(ValueError, match="zero: it is a device file, expected a regular file"):
        import_weights("nagai", [Path("/dev/zero")])


def test_spoilt_weights_are_refused_or_recorded_as_another_file(nagai_file):
    rng, data = random.Random(13), nagai_file.read_bytes()
    for _ in range(40):
        nagai_file.write_bytes(data[: rng.randrange(len(data))])
        with pytest.raises(ValueError, match="NNmGGA"):
            import_weights("nagai", [nagai_file])
    for _ in range(40):
        place = rng.randrange(len(data))
        nagai_file.write_bytes(data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :])
        with suppress(ValueError):  # else weights of another value, whose card states this
            _, card = import_weights("nagai", [nagai_file])
            assert hashlib.sha256(data).hexdigest() not in card["training"]["sha256"].values()


@pytest.mark.parametrize("kwargs", [{"part": "xc"}, {"layers": [3, 16, 1]}, {"gate": "sigmoid"}])
def test_wrong_arguments_are_refused(kwargs):
    with pytest.raises(ValueError, match="expected"):
        Dpyscf(**{"part": "x", "layers": [1, 16, 1], "gate": "linear", "bound": 1.804, **kwargs})
    with pytest.raises(ValueError, match="2, 3 or 4 inputs"):
        Nagai([1, 100, 1])
    with pytest.raises(ValueError, match="expected one hidden layer or more"):
        DeepChemLDA([])
    with pytest.raises(ValueError, match="unknown activation 'relu': expected one of softplus, expm1"):
        DeepChemLDA([8], "relu")


def test_making_a_network_draws_no_random_numbers():
    state = torch.get_rng_state()
    FORMS["gga"]()
    assert torch.equal(torch.get_rng_state(), state)


# With the published weights


# Largest |dF_x| and mean |d eps_c| at zeta = 0 and 0.5 for rs 1.5-4, s 0-2, alpha 0.05-5, against the parent. The
# repository's own code of today gives the correlation of pbe 5e-3 Hartree off.
@pytest.mark.parametrize(
    ("folder", "parent", "exchange", "correlation", "polarised"),
    [
        ("pbe", "PBE", 2.6e-4, 1.8e-5, 3.1e-5),
        ("pbe_free", "PBE", 2.1e-4, 0.9e-5, 5.1e-5),
        ("scan", "SCAN", 1.2e-3, 4.5e-4, 5.0e-4),
    ],
)
def test_clones_reproduce_their_parents(shared_weights, folder, parent, exchange, correlation, polarised):
    _, card = import_weights("dpyscf", [shared_weights / "dpyscf" / folder])
    assert card["parent"] == parent
    assert card["metrics"]["F_x_max_error"] < exchange
    assert card["metrics"]["eps_c_mean_error_hartree"] < correlation
    assert card["metrics"]["eps_c_mean_error_zeta_0.5_hartree"] < polarised


def test_free_and_constrained_clones_are_told_apart(shared_weights):
    gates = {}
    for folder in ("pbe", "pbe_free"):
        functional, card = import_weights("dpyscf", [shared_weights / "dpyscf" / folder])
        gates[folder] = [part.gate for part in functional.parts]
        assert ("without the constraints" in card["description"]) == (folder == "pbe_free")
    assert gates == {"pbe": ["linear", "tanh"], "pbe_free": [None, None]}


def test_networks_of_different_clones_do_not_go_together(shared_weights):
    folder = shared_weights / "dpyscf"
    with pytest.raises(ValueError, match="networks with 1 and 4 inputs"):
        import_weights("dpyscf", [folder / "pbe" / "x", folder / "scan" / "c"])


def test_published_weights_give_the_published_formulae(shared_weights):
    for folder in DPYSCF:
        clone, _ = import_weights("dpyscf", [shared_weights / "dpyscf" / folder])
        for part in clone.parts:
            np.testing.assert_allclose(part(POINTS).detach(), formula(part)(part, POINTS), rtol=1e-9)
    for name in NAGAI:
        functional, _ = import_weights("nagai", [shared_weights / "nagai" / name])
        np.testing.assert_allclose(functional(POINTS).detach(), nagai(functional, POINTS), rtol=1e-9)


@pytest.mark.parametrize(("name", "energy"), [("NNLSDA", -0.265333), ("NNGGA", -0.271231), ("NNmGGA", -0.294534)])
def test_nagai_has_these_energies_of_the_uniform_gas(shared_weights, name, energy):
    _, card = import_weights("nagai", [shared_weights / "nagai" / name])
    assert card["metrics"]["eps_xc_uniform_gas_rs_2_hartree"] == pytest.approx(energy, abs=1e-6)
    assert card["metrics"]["eps_xc_pw92_rs_2_hartree"] == pytest.approx(-0.273842, abs=1e-6)


def test_card_tells_where_weights_come_from(shared_weights):
    _, card = import_weights("dpyscf", [shared_weights / "dpyscf" / "pbe"])
    digest = "87344db79c7baa5956611e0c843bbd7de569f20ed40acb54d4396ac2dce85fea"
    assert card["training"]["sha256"]["pbe/x"] == digest
    assert card["licence"].startswith("BSD-3-Clause")
    assert card["pseudos"] == "gth-pbe"


# Total energies of H2O in 6-31G with the program of Nagai et al., from the tests of semodi/libnxc; single precision
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "total", "tolerance"),
    [("NNLSDA", -75.834848, 2e-6), ("NNGGA", -76.103874, 1e-5), ("NNmGGA", -76.199803, 5e-4)],
)
def test_nagai_gives_the_published_total_energy_of_water(shared_weights, name, total, tolerance):
    from pyscf import dft, gto

    functional, _ = import_weights("nagai", [shared_weights / "nagai" / name])

    def eval_xc(xc_code, rho, spin=0, relativity=0, deriv=1, omega=None, verbose=None):
        rho = np.atleast_2d(rho)
        columns = {"density": rho[0], "gradient": rho[1:4], "tau": rho[-1]}
        point = {key: torch.tensor(np.stack([columns[key] / 2] * 2), requires_grad=True) for key in functional.features}
        energy, derivatives = differentiate(functional, point)
        slopes = {key: slope[0].detach().numpy() for key, slope in zip(functional.features, derivatives)}
        vsigma = vtau = None
        if "gradient" in slopes:  # dE/d(grad n) = 2 dE/dsigma grad n
            sigma = np.sum(rho[1:4] ** 2, axis=0)
            vsigma = np.sum(slopes["gradient"] * rho[1:4], axis=0) / (2 * np.maximum(sigma, 1e-30))
        if "tau" in slopes:
            vtau = slopes["tau"]
        return energy.detach().numpy() / rho[0], (slopes["density"], vsigma, None, vtau), None, None

    water = gto.M(atom="O 0 0 .119262; H 0 .763239 -.477047; H 0 -.763239 -.477047", basis="6-31G", verbose=0)
    mean_field = dft.RKS(water)
    mean_field.define_xc_(eval_xc, {"NNLSDA": "LDA", "NNGGA": "GGA", "NNmGGA": "MGGA"}[name])
    assert mean_field.kernel() == pytest.approx(total, abs=tolerance)
