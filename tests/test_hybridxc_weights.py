"""Functionals that DeepChem has trained: their formula, checkpoints and an SCF, and files that are refused."""

import os

import numpy as np
import pytest
import safetensors.torch
import torch
from ase import Atoms
from pyscf.dft import libxc

from ase_nnxc import cli, load_functional, save_functional
from ase_nnxc.calculator import PySCFCalculator
from ase_nnxc.interop.published_weights import import_weights
from ase_nnxc.registry import resolve
from ase_nnxc.units import HARTREE
from ase_nnxc.xc import LDA, HybridXC

A, B = 0.3, 0.9


class Reference(torch.nn.Module):
    """The formula with a torch.nn.Sequential, which reads zeta with its sign."""

    class ExpM1(torch.nn.Module):
        def forward(self, x):
            return x.exp() - 1

    def __init__(self, activation="softplus", widths=(5, 4), bias=False, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        layers, inputs = [], 2
        for width in widths:
            layers += [torch.nn.Linear(inputs, width), torch.nn.Softplus()]
            inputs = width
        if activation == "expm1":
            layers[-1] = self.ExpM1()
        self.nnmodel = torch.nn.Sequential(*layers, torch.nn.Linear(inputs, 1, bias=bias)).to(dtype)
        for parameter in self.parameters():
            parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator, dtype=dtype)

    def state(self, **changes):
        """The state dict that DeepChem's HybridXC would have, with tensors changed, added or (None) left out."""
        dtype = self.nnmodel[0].weight.dtype
        numbers = {"aweight": torch.tensor(A, dtype=dtype), "bweight": torch.tensor(B, dtype=dtype)}
        network = {f"nnxc.nnmodel.{name}": tensor for name, tensor in self.nnmodel.state_dict().items()}
        state = {**numbers, **network, **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
        return {name: tensor for name, tensor in state.items() if tensor is not None}

    def forward(self, density, xc="lda_x,"):
        """Energy per volume at spin densities (2, n)."""
        n = density.sum(0)
        zeta = (density[0] - density[1]) / (n + 1e-18)
        network = n * self.nnmodel(torch.stack([n, zeta], -1)).squeeze(-1)
        gas = torch.from_numpy(libxc.eval_xc(xc, density.detach().numpy(), spin=1, deriv=0)[0])
        return A * network + B * n * gas


def densities(count=200):
    """Spin densities (2, n): a third of them unpolarised, the others with zeta from 0.1 to 1."""
    rng = np.random.default_rng(5)
    n, zeta = 10 ** rng.uniform(-4, 1, count), rng.uniform(0.1, 1, count)
    zeta[::3], zeta[1] = 0, 1
    return torch.tensor(np.stack([n * (1 + zeta), n * (1 - zeta)]) / 2, dtype=torch.float64)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hybrid.pt"


def written(path, state):
    torch.save(state, path)
    return path


def imported(path, xc="lda_x", activation="softplus"):
    return import_weights("hybridxc", [path], xc=xc, activation=activation)


# ---- the functional --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["softplus", "expm1"])
@pytest.mark.parametrize("widths", [(6,), (5, 4), (3, 3, 3)])
@pytest.mark.parametrize("bias", [False, True])
def test_energy_is_that_of_the_formula(path, activation, widths, bias):
    reference = Reference(activation, widths, bias)
    functional, _ = imported(written(path, reference.state()), activation=activation)
    density = densities()
    with torch.no_grad():
        torch.testing.assert_close(functional({"density": density}), reference(density), rtol=1e-11, atol=0)
    assert functional.kind == "xc"


@pytest.mark.parametrize(
    ("xc", "names"),
    [
        ("lda_x,lda_c_pw", "lda_x,lda_c_pw"),
        ("LDA_X + LDA_C_PW_MOD", "lda_x,lda_c_pw_mod"),
        ("lda_x+lda_c_pz", "lda_x,lda_c_pz"),
        ("lda_x,lda_c_vwn", "lda_x,lda_c_vwn"),
        ("lda_xc_teter93", "lda_xc_teter93"),
        ("lda_c_pw", ",lda_c_pw"),
    ],
)
def test_conventional_functional_is_that_of_libxc(path, xc, names):
    reference, density = Reference(), densities()
    functional, card = imported(written(path, reference.state()), xc)
    with torch.no_grad():
        torch.testing.assert_close(functional({"density": density}), reference(density, names), rtol=1e-9, atol=0)
    assert card["parent"] == (None if xc == "lda_c_pw" else card["training"]["xc"])
    assert card["parent"] is None or resolve(card["parent"]).functional.kind == "xc"


def test_majority_is_treated_as_up_at_every_point(path):
    functional, _ = imported(written(path, Reference().state()))
    density = densities()
    torch.testing.assert_close(functional({"density": density.flip(0)}), functional({"density": density}))


def test_potential_is_the_derivative_of_the_energy(path):
    functional, _ = imported(written(path, Reference("expm1").state()), activation="expm1")
    density = torch.tensor([[0.3, 0.2, 0.31, 0.4], [0.3, 0.1, 0.3, 0.05]], dtype=torch.float64, requires_grad=True)
    energy = functional({"density": density})
    (potential,) = torch.autograd.grad(energy.sum(), density)
    step = 1e-5
    with torch.no_grad():
        for channel in range(2):
            shift = torch.zeros_like(density)
            shift[channel] = step
            both = [functional({"density": density + sign * shift}) for sign in (1, -1)]
            torch.testing.assert_close(potential[channel], (both[0] - both[1]) / (2 * step), rtol=1e-6, atol=1e-8)


def test_weights_of_both_parts_are_those_of_the_file_and_can_be_trained(path):
    functional, card = imported(written(path, Reference().state()))
    assert isinstance(functional, HybridXC)
    assert (functional.a.item(), functional.b.item()) == (A, B)
    assert {"a", "b"} < {name for name, parameter in functional.named_parameters() if parameter.requires_grad}
    assert isinstance(functional.conventional, LDA)  # and not that of libxc, which is slower
    assert "0.3 times a network" in card["description"]
    assert card["metrics"]["eps_xc_pw92_rs_2_hartree"] == pytest.approx(-0.273842, abs=1e-6)


def test_file_in_single_precision_is_read(path):
    reference = Reference(dtype=torch.float32)
    functional, _ = imported(written(path, reference.state()))
    assert functional.a.item() == torch.tensor(A, dtype=torch.float32).item()
    assert functional.neural.net[0].weight.dtype == torch.float64
    assert torch.equal(functional.neural.net[0].weight, reference.nnmodel[0].weight.double())


def test_file_of_safetensors_is_read(tmp_path, path):
    state = Reference().state()
    safetensors.torch.save_file(state, tmp_path / "hybrid.safetensors")
    (one, card), (other, _) = imported(tmp_path / "hybrid.safetensors"), imported(written(path, state))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert list(card["training"]["sha256"]) == [f"{tmp_path.name}/hybrid.safetensors"]


def test_cut_file_of_safetensors_is_refused(tmp_path):
    damaged = tmp_path / "hybrid.safetensors"
    damaged.write_bytes(safetensors.torch.save(Reference().state())[:-9])
    with pytest.raises(ValueError, match=r"hybrid\.safetensors is damaged"):
        imported(damaged)


@pytest.mark.parametrize("xc", ["lda_x", "lda_x,lda_c_pw"])
def test_checkpoint_has_the_same_energies(tmp_path, path, xc):
    functional, card = imported(written(path, Reference("expm1").state()), xc, "expm1")
    folder = save_functional(functional, tmp_path / "models", name="theirs", **card)
    loaded = load_functional(folder)
    features = {"density": densities()}
    assert torch.equal(loaded(features), functional(features))
    assert loaded.card["training"]["activation"] == "expm1"
    assert loaded.card["pseudos"] == "gth-pade"


def test_command_makes_a_model(tmp_path, path, capsys):
    written(path, Reference().state())
    options = ["--activation", "softplus", "--name", "theirs", "--root", str(tmp_path / "models")]
    assert cli.main(["models", "import", "hybridxc", str(path), "--xc", "lda_x", *options]) == 0
    assert load_functional(tmp_path / "models" / "theirs@1").kind == "xc"
    capsys.readouterr()
    assert cli.main(["models", "import", "hybridxc", str(path), *options, "--version", "2"]) == 2
    assert "the file does not contain the conventional functional: state xc" in capsys.readouterr().err


@pytest.mark.parametrize("moment", [0, 2])
def test_energy_of_hydrogen_is_that_of_pyscf_with_the_formula(path, moment):
    reference = Reference()
    functional, _ = imported(written(path, reference.state()))
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], magmoms=[moment / 2] * 2)
    atoms.calc = PySCFCalculator(functional, basis="sto-3g", grid_level=0)
    mean_field = atoms.calc.mean_field(atoms)
    one = np.asarray(mean_field.make_rdm1())
    spins = np.stack([one / 2] * 2) if one.ndim == 2 else one
    orbitals = mean_field._numint.eval_ao(mean_field.mol, mean_field.grids.coords)
    density = torch.tensor(np.einsum("gi,sij,gj->sg", orbitals, spins, orbitals))
    with torch.no_grad():
        energy = (torch.tensor(mean_field.grids.weights) * reference(density)).sum().item()
    others = mean_field.energy_elec()[0] - mean_field.scf_summary["exc"]
    total = (mean_field.energy_nuc() + others + energy) * HARTREE
    assert atoms.get_potential_energy() == pytest.approx(total, abs=1e-6)


# ---- what is refused -------------------------------------------------------------------------------------------------


REFUSED = [
    ({"aweight": torch.tensor(0.0)}, "aweight is zero, so that the network does not act"),
    ({"aweight": torch.zeros(2)}, r"aweight is of shape \(2,\), expected one number"),
    ({"aweight": None}, "missing tensors aweight"),
    ({"bweight": torch.tensor(torch.nan)}, "some weights are not finite numbers"),
    ({"bweight": torch.tensor(1)}, "bweight is torch.int64; expected torch.float32 or torch.float64"),
    ({"nnxc__nnmodel__0__weight": torch.ones(5, 2, dtype=torch.complex128)}, "0.weight is torch.complex128"),
    ({"nnxc__nnmodel__0__weight": torch.full((5, 2), torch.inf)}, "some weights are not finite numbers"),
    ({"nnxc__nnmodel__0__weight": torch.ones(5, 3)}, "the network has 3 inputs; that of an LDA has 2"),
    ({"nnxc__nnmodel__2__weight": torch.ones(4, 6)}, "are not a network with one output"),
    ({"nnxc__nnmodel__4__weight": torch.ones(2, 4)}, "are not a network with one output"),
    ({"nnxc__nnmodel__0__bias": None}, "missing tensors nnxc.nnmodel.0.bias"),
    ({"nnxc__nnmodel__4__weight": None}, "are not a network with one output"),
    ({"nnxc__nnmodel__2__weight": None, "nnxc__nnmodel__2__bias": None}, "layers of nnxc.nnmodel are 0, 4; expected 0"),
    ({"nnxc__nnmodel__1__alpha": torch.ones(1)}, "unknown tensors nnxc.nnmodel.1.alpha"),
    ({"xc__kappa": torch.ones(1)}, "unknown tensors xc.kappa"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_wrong_state_is_refused(path, changes, message):
    with pytest.raises(ValueError, match=message):
        imported(written(path, Reference().state(**changes)))


@pytest.mark.parametrize("inside", [True, False])
def test_checkpoint_of_an_xcmodel_is_refused_with_the_reason(path, inside):
    state = {f"nnmodel.{name}": tensor for name, tensor in Reference().nnmodel.state_dict().items()}
    content = {"model_state_dict": state, "global_step": 3} if inside else state
    with pytest.raises(ValueError, match="XCModel makes a new HybridXC with aweight = 0 at each call"):
        imported(written(path, content))


def test_checkpoint_of_a_hybridxc_is_its_state(path):
    state = Reference().state()
    plain = imported(written(path, state))[0].state_dict()
    inside = imported(written(path, {"model_state_dict": state, "global_step": 3}))[0].state_dict()
    assert plain.keys() == inside.keys()
    assert all(torch.equal(plain[name], inside[name]) for name in plain)


@pytest.mark.parametrize("content", [{}, [torch.zeros(3)], {"aweight": 1.0}])
def test_file_without_named_tensors_is_refused(path, content):
    with pytest.raises(ValueError, match=r"does not hold a dict of tensors|missing tensors aweight, bweight"):
        imported(written(path, content))


def test_network_of_one_layer_is_refused(path):
    with pytest.raises(ValueError, match=r"the layers of nnxc\.nnmodel are 0; expected 0, 2, 4"):
        imported(written(path, Reference(widths=()).state()))


def test_file_that_runs_code_is_refused_and_runs_none(tmp_path, path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    with pytest.raises(ValueError, match="runs code"):
        imported(written(path, {"aweight": Trap()}))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("xc", "activation", "message"),
    [
        (None, "softplus", "the file does not contain the conventional functional: state xc"),
        ("lda_x", None, "the file does not contain the activation of the last hidden layer"),
        ("lda_x", "relu", "unknown activation 'relu': expected one of softplus, expm1"),
        ("gga_x_pbe", "softplus", "expected names of LDAs in libxc"),
        ("lda_x,", "softplus", "expected names of LDAs in libxc"),
        ("lda_c_pv", "softplus", "libxc has no functional 'lda_c_pv'; did you mean 'lda_c_p"),
        ("lda_x,lda_x", "softplus", "exchange adds up to 2"),
        ("lda_k_tf", "softplus", "is a kinetic energy"),
        ("lda_x_2d", "softplus", "is made for fewer than three dimensions"),
    ],
)
def test_wrong_statements_about_the_file_are_refused(path, xc, activation, message):
    with pytest.raises(ValueError, match=message):
        imported(written(path, Reference().state()), xc, activation)


def test_several_files_are_refused(path):
    with pytest.raises(ValueError, match=r"hybridxc: expected one file, .*, got nothing"):
        import_weights("hybridxc", [], xc="lda_x", activation="softplus")
