"""Our kernels of group norm and SiLU against PyTorch's formulas; on the CPU by Triton's interpreter.

As a script it runs the kernels, in a process of its own because Triton has to be told before it is imported:

    python test_group_norm.py DEVICE FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from gdd.networks.group_norm import GroupNorm, fused_group_norms

pytest.importorskip("triton")

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")],
)
# (channels, groups, height, width): few channels; as in DDPM++; groups of no power of two, in programs that do
# not share them evenly; one group wider than a tile; more pixels than a tile, and no whole number of tiles.
SHAPES = [(8, 2, 5, 7), (128, 32, 4, 4), (384, 32, 3, 3), (144, 2, 3, 5), (24, 6, 9, 15)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}


def cases(device: str) -> list[Any]:
    """Return shape, dtype, and whether there is a SiLU; fewer where each has to be compiled."""
    dtypes = list(TOLERANCE) if device == "cpu" else [torch.bfloat16]
    found = [(shape, dtype, True) for shape in SHAPES for dtype in dtypes]
    return found + [(SHAPES[1], dtype, False) for dtype in dict.fromkeys([*dtypes, torch.float32])]


def inputs(case: Any, device: str) -> tuple[list[Tensor], Tensor]:
    """Return x, of a mean that is no zero, with weight and bias, and a gradient by the result."""
    (channels, _, height, width), dtype, _ = case
    source = torch.Generator().manual_seed(0)
    shape = (2, channels, height, width)
    x, by_y = (torch.randn(shape, generator=source) for _ in range(2))
    weight, bias = (torch.randn(channels, generator=source) for _ in range(2))
    tensors = [value.to(device, dtype) for value in (3 + 2 * x, weight, bias)]
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    return [value.requires_grad_(True) for value in tensors], by_y.to(device, dtype)


def run_kernels(device: str) -> list[list[Tensor]]:
    """Return what the kernels make of every case: the result, and the gradients by x, weight and bias."""
    from gdd.networks.group_norm_kernels import FusedGroupNorm

    results = []
    for case in cases(device):
        tensors, by_y = inputs(case, device)
        y = FusedGroupNorm.apply(*tensors, case[0][1], 1e-5, case[2])
        assert y.is_contiguous(memory_format=torch.channels_last)
        results.append([y.detach().cpu(), *(of.cpu() for of in torch.autograd.grad(y, tensors, by_y))])
    return results


def compile_kernels(folder: Path) -> None:
    """Compile the kernels for a GPU, which takes none: they have to be more than what an interpreter takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gdd.networks import group_norm_kernels

    fixed = {"size": 12, "used": 60, "block": 64, "rows": group_norm_kernels.ROWS, "silu": True}
    numbers = {"pixels": "i32", "channels": "i32", "eps": "fp32"}
    statistics = dict.fromkeys(["mean", "scale", "by_weight", "by_bias"], "*fp32")
    known = {**dict.fromkeys(fixed, "constexpr"), **numbers, **statistics}
    for kernel in (group_norm_kernels._forward, group_norm_kernels._backward):
        kinds = {name: known.get(name, "*bf16") for name in kernel.arg_names}
        built = triton.compile(ASTSource(kernel, kinds, fixed), target=GPUTarget("cuda", 90, 32))
        (folder / kernel.__name__).write_bytes(built.asm["cubin"])


def start(folder: Path, what: str, **environment: str) -> None:
    words = [sys.executable, __file__, what, str(folder)]
    search = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    caches = {"TRITON_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": search}
    subprocess.run(words, check=True, env=os.environ | caches | environment)


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), CUDA])
def test_kernels_compute_the_formulas(device: str, tmp_path: Path) -> None:
    start(tmp_path, device, **({"TRITON_INTERPRET": "1"} if device == "cpu" else {}))
    results = torch.load(tmp_path / "results.pt")
    for case, found in zip(cases(device), results, strict=True):
        (_, groups, *_), dtype, silu = case
        tensors, by_y = inputs(case, "cpu")
        exact = [value.detach().double().requires_grad_(True) for value in tensors]
        y = functional.group_norm(exact[0], groups, *exact[1:], 1e-5)
        y = functional.silu(y) if silu else y
        expected = [y.detach(), *torch.autograd.grad(y, exact, by_y.double())]
        for own, formula in zip(found, expected, strict=True):
            assert own.dtype == dtype
            assert (own.double() - formula).abs().max() <= TOLERANCE[dtype] * formula.abs().max(), case


@pytest.mark.slow
@pytest.mark.thorough
def test_kernels_compile_for_a_gpu_where_there_is_none(tmp_path: Path) -> None:
    start(tmp_path, "compile")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("_forward", "_backward"))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_forward_mode_is_pytorchs(device: str) -> None:
    norm = GroupNorm(8, 1e-6, silu=True).to(device)
    x, direction = torch.randn(2, 2, 8, 3, 3, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    found = []
    for fused in (True, False):
        with fused_group_norms(fused), torch.no_grad(), forward_ad.dual_level():
            found.append(forward_ad.unpack_dual(norm(forward_ad.make_dual(x, direction))).tangent)
    assert found[0] is not None
    torch.testing.assert_close(*found)


def test_a_cpu_computes_pytorchs_formulas_in_any_case() -> None:
    norm, x = GroupNorm(8, 1e-6, silu=True), torch.randn(2, 8, 3, 3)
    with fused_group_norms(True):
        expected = functional.silu(functional.group_norm(x, 2, norm.weight, norm.bias, 1e-6))
        assert torch.equal(norm(x), expected)
    assert not GroupNorm.fused


if __name__ == "__main__":
    place, target = sys.argv[1], Path(sys.argv[2])
    if place == "compile":
        compile_kernels(target)
    else:
        torch.save(run_kernels(place), target / "results.pt")
