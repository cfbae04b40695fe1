"""Sums and hybrids of functionals: what they add up to, what they refuse, what they say they are."""

import pytest
import torch

from ase_nnxc.xc import LDA, PBE, Functional, HybridXC, Sum, UnknownArchitecture, build, describe, pbesol

POINTS = {
    "density": torch.tensor([[0.03, 0.2, 1.0], [0.01, 0.2, 0.5]], dtype=torch.float64),
    "gradient": torch.tensor([[[0.01, 0.1, 0.5]] * 3, [[0.02, 0.0, 0.3]] * 3], dtype=torch.float64),
}


class Constant(Functional):
    """A correction: the same energy density everywhere, trained."""

    kind = "correction"

    def __init__(self, value=0.25):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def forward(self, features):
        return self.value.expand(features["density"].shape[1])


def test_mixture_is_the_weighted_energy():
    energy = Sum([(0.25, PBE()), (0.75, pbesol())])(POINTS)
    assert torch.allclose(energy, 0.25 * PBE()(POINTS) + 0.75 * pbesol()(POINTS), rtol=1e-14, atol=0)


def test_parts_add_up_to_the_whole():
    whole = Sum([(1.0, PBE(part="x")), (1.0, PBE(part="c"))])
    assert torch.allclose(whole(POINTS), PBE()(POINTS), rtol=1e-14, atol=0)
    assert whole.kind == "xc"


@pytest.mark.parametrize(
    ("terms", "kind"),
    [
        ([(0.1, LDA()), (0.2, PBE()), (0.7, pbesol())], "xc"),
        ([(1, PBE(part="x")), (0.3, LDA(part="c")), (0.7, PBE(part="c"))], "xc"),
        ([(0.5, PBE()), (0.5, PBE(part="x")), (0.5, LDA(part="c"))], "xc"),
        ([(2, PBE()), (-1, LDA())], "xc"),
        ([(0.5, LDA(part="x")), (0.5, PBE(part="x"))], "x"),
        ([(1, PBE(part="c")), (3.5, Constant())], "c"),
        ([(1, PBE()), (0.5, Constant())], "xc"),
        ([(0.5, Constant()), (7, Constant())], "correction"),
    ],
)
def test_kind_follows_from_the_terms(terms, kind):
    assert Sum(terms).kind == kind


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (
            [(1, PBE()), (1, PBE())],
            "exchange adds up to 2, correlation to 2: expected exchange and correlation to",
        ),
        ([(0.5, PBE())], "exchange adds up to 0.5, correlation to 0.5"),
        ([(1, PBE()), (1, PBE(part="c"))], "exchange adds up to 1, correlation to 2"),
        ([(1, PBE(part="x")), (0.5, LDA(part="c"))], "exchange adds up to 1, correlation to 0.5"),
        ([(0.5, PBE(part="x"))], "exchange adds up to 0.5, correlation to 0: expected exchange to one"),
        ([(1, PBE()), (-1, LDA())], "exchange adds up to 0, correlation to 0"),
        ([(1 + 1e-11, PBE())], "exchange adds up to 1.00000000001"),
        ([(float("nan"), Constant())], "finite numbers"),
        ([], "at least one term"),
    ],
)
def test_sum_that_is_not_one_is_refused_with_its_totals(terms, message):
    with pytest.raises(ValueError, match=message):
        Sum(terms)


def test_features_are_those_of_all_parts():
    assert Sum([(0.5, LDA()), (0.5, PBE())]).features == ("density", "gradient")
    assert HybridXC(LDA(), PBE()).features == ("density", "gradient")
    assert HybridXC(LDA(), LDA()).features == ("density",)


def test_hybrid_begins_as_its_conventional_functional():
    assert torch.equal(HybridXC(LDA(), PBE())(POINTS), PBE()(POINTS))


def test_hybrid_weights_need_not_add_up_to_one():
    energy = HybridXC(LDA(), PBE(), a=0.7, b=0.9)(POINTS)
    assert torch.allclose(energy, 0.7 * LDA()(POINTS) + 0.9 * PBE()(POINTS), rtol=1e-14, atol=0)


@pytest.mark.parametrize("trainable", [True, False])
def test_hybrid_weights_are_trained_only_if_trainable(trainable):
    hybrid = HybridXC(Constant(), PBE(), a=0.5, trainable=trainable)
    assert {name for name, _ in hybrid.named_parameters()} == {"neural.value"} | ({"a", "b"} if trainable else set())
    assert hybrid.state_dict().keys() == {"a", "b", "neural.value"}


def test_hybrid_of_a_part_and_a_whole_is_refused():
    with pytest.raises(ValueError, match="neural is of kind 'x', conventional of kind 'xc': expected the same kind"):
        HybridXC(PBE(part="x"), PBE())


def test_network_of_both_may_stand_beside_one():
    hybrid = HybridXC(LDA(), PBE(part="x"), a=0.5, b=0.9)
    assert hybrid.kind == "xc"
    assert torch.allclose(hybrid(POINTS), 0.5 * LDA()(POINTS) + 0.9 * PBE(part="x")(POINTS), rtol=1e-14, atol=0)
    assert HybridXC(Constant(), PBE(part="x")).kind == "x"


def test_hybrid_of_correlations_completes_an_exchange():
    assert Sum([(1, PBE(part="x")), (1, HybridXC(LDA(part="c"), PBE(part="c")))]).kind == "xc"


def test_nested_composition_is_made_again_from_its_description():
    parts = Sum([(1, PBE(part="x")), (1, HybridXC(LDA(part="c"), PBE(part="c"), a=0.2, b=0.5, trainable=False))])
    twin = build(describe(Sum([(0.5, parts), (0.5, pbesol())])))
    twin.load_state_dict(Sum([(0.5, parts), (0.5, pbesol())]).state_dict())
    assert torch.equal(twin(POINTS), Sum([(0.5, parts), (0.5, pbesol())])(POINTS))
    assert describe(twin) == describe(Sum([(0.5, parts), (0.5, pbesol())]))


def test_description_needs_registered_parts():
    with pytest.raises(UnknownArchitecture, match="Constant is not registered"):
        describe(Sum([(1, PBE()), (1, Constant())]))
