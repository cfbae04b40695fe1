"""Transforms of orbitals to and from the FFT box."""

from dataclasses import replace

import pytest
import torch
from kohn_sham import basis_of, crystal_of, rattled_silicon_carbide

from ase_nnxc.ks import transforms
from ase_nnxc.ks.basis import Sphere
from ase_nnxc.ks.transforms import from_box, to_box

SPHERES = basis_of(crystal_of(rattled_silicon_carbide()), 6.0, (2, 1, 3)).spheres


def by_fft(psi: torch.Tensor, sphere: Sphere, shape: tuple[int, int, int]) -> torch.Tensor:
    """Orbitals (n, npw) on the FFT box, by an FFT of the whole box."""
    box = torch.zeros(len(psi), *shape, dtype=psi.dtype)
    i, j, k = (sphere.miller[:, axis] % n for axis, n in enumerate(shape))
    box[:, i, j, k] = psi
    return torch.fft.ifftn(box, dim=(1, 2, 3), norm="forward")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("most", [0.0, 1e9], ids=["fft", "products"])
@pytest.mark.parametrize("shape", [(15, 16, 14), (20, 16, 30)])
def test_transforms_are_those_of_the_whole_box(
    dtype: torch.dtype, most: float, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "MOST_PRODUCTS", most)
    monkeypatch.setattr(transforms._scratch, "transforms", {}, raising=False)
    exact = {"rtol": 0, "atol": 2e-6 if dtype == torch.complex64 else 1e-14}
    generator = torch.Generator().manual_seed(0)
    potential = torch.randn(shape, dtype=dtype.to_real(), generator=generator)
    for sphere in (s.in_box(shape) for s in SPHERES):
        psi = torch.randn(3, sphere.npw, dtype=dtype, generator=generator) / sphere.npw**0.5
        box = to_box(psi, sphere, shape)
        torch.testing.assert_close(box, by_fft(psi, sphere, shape), **exact)
        torch.testing.assert_close(from_box(box, sphere), psi, **exact)
        product = torch.fft.fftn(by_fft(psi, sphere, shape) * potential, dim=(1, 2, 3), norm="forward")
        expected = product.flatten(1)[:, sphere.index]
        torch.testing.assert_close(from_box(to_box(psi, sphere, shape).mul_(potential), sphere), expected, **exact)


def test_memory_of_inference_mode_can_be_written_later() -> None:
    sphere, shape = SPHERES[0].in_box((18, 18, 18)), (18, 18, 18)
    psi = torch.ones(5, sphere.npw, dtype=torch.complex128)
    with torch.inference_mode():
        to_box(psi, sphere, shape)
    torch.testing.assert_close(from_box(to_box(psi, sphere, shape), sphere), psi)


def test_products_replace_ffts_unless_boxes_are_large() -> None:
    sphere = replace(SPHERES[0], miller=torch.tensor([[0, 0, 0], [20, 20, 20]]))
    assert transforms._pays(sphere, (82, 82, 82))
    assert not transforms._pays(replace(sphere, miller=3 * sphere.miller), (242, 242, 242))


def test_the_oldest_transform_makes_room_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (18, 18, 18)
    sphere = SPHERES[0].in_box(shape)
    to_box(torch.ones(4, sphere.npw, dtype=torch.complex128), sphere, shape)  # memory for all of them
    monkeypatch.setattr(transforms._scratch, "transforms", {})
    monkeypatch.setattr(transforms, "MOST_TRANSFORMS", 3)
    for count in (1, 2, 3, 4):
        to_box(torch.ones(count, sphere.npw, dtype=torch.complex128), sphere, shape)
    assert [count for count, *_ in transforms._scratch.transforms] == [2, 3, 4]
