"""TF32's rounding as the benchmark emulates it: of what, to what, in every pass of a step."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import grad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gdd.experiments import Experiments
from gdd.probe.random_run import random_run, recipe_of
from gdd.probe.rates import r1_step
from gdd.training.world import World

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tf32(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tf32

    yield tf32
    sys.modules.pop("tf32")


def test_rounding_is_to_the_nearest_of_ten_bits_and_away_from_zero_between_two(tf32: ModuleType) -> None:
    ulp = 2.0**-10
    pairs = {
        1.0: 1.0,
        1 + ulp: 1 + ulp,
        1 + ulp / 2: 1 + ulp,  # to even, this would be 1
        1 + 3 * ulp / 2: 1 + 2 * ulp,
        1 + 0.499 * ulp: 1.0,
        1 + 0.501 * ulp: 1 + ulp,
        2 - ulp / 4: 2.0,  # carries into the exponent
        0.1: 1638 / 2**14,
        3e-40: 3e-40,  # below the normal numbers, steps are those of the smallest: 2^-136
        0.0: 0.0,
        float("inf"): float("inf"),
    }
    for sign in (1, -1):
        given, expected = (sign * torch.tensor([*values]) for values in (pairs, pairs.values()))
        torch.testing.assert_close(tf32.rounded(given), expected, rtol=0, atol=2**-137)
    assert tf32.rounded(torch.tensor([float("nan")])).isnan().all()
    precise = torch.tensor([0.1], dtype=torch.float64)
    assert tf32.rounded(precise) is precise


def test_forward_both_gradients_and_the_forward_mode_are_those_of_rounded_factors(tf32: ModuleType) -> None:
    torch.manual_seed(0)
    x, tangent = torch.randn(2, 3, 5, 5, requires_grad=True), torch.randn(2, 3, 5, 5)
    convolution, linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 6)
    by_y, by_z = torch.randn(2, 4, 5, 5), torch.randn(7, 6)
    rows = torch.randn(7, 4, requires_grad=True)
    with tf32.RoundedProducts():
        y, z = convolution(x), linear(rows)
        torch.autograd.backward([y, z], [by_y, by_z])
        with torch.no_grad(), forward_ad.dual_level():
            moved = forward_ad.unpack_dual(convolution(forward_ad.make_dual(x.detach(), tangent))).tangent

    def r(value: Tensor | None) -> Tensor:
        assert value is not None
        found: Tensor = tf32.rounded(value.detach())
        return found

    weight = r(convolution.weight)
    expected = {
        "convolution": (y, torch.conv2d(r(x), weight, convolution.bias, padding=1)),
        "by its input": (x.grad, grad.conv2d_input(x.shape, weight, r(by_y), padding=1)),
        "by its weight": (
            convolution.weight.grad,
            grad.conv2d_weight(r(x), weight.shape, r(by_y), padding=1),
        ),
        "by its bias": (getattr(convolution.bias, "grad", None), by_y.sum((0, 2, 3))),
        "in forward mode": (moved, torch.conv2d(r(tangent), weight, padding=1)),
        "linear": (z, r(rows) @ r(linear.weight).T + linear.bias),
        "by its rows": (rows.grad, r(by_z) @ r(linear.weight)),
        "by its matrix": (linear.weight.grad, r(by_z).T @ r(rows)),
        "by its shift": (linear.bias.grad, by_z.sum(0)),
    }
    for what, (found, wanted) in expected.items():
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, msg=lambda of, what=what: what + of)


class Products(TorchDispatchMode):
    """Counts products, by what they are and whether all factors have ten bits."""

    def __init__(self, factors: dict[Any, tuple[int, ...]]) -> None:
        super().__init__()
        self.factors, self.seen = factors, Counter[tuple[str, bool]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in flop_registry:
            given = [args[index].view(torch.int32) for index in self.factors[func.overloadpacket]]
            self.seen[str(func), not any((value & 0x1FFF).any() for value in given)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
def test_every_product_of_a_step_with_r1_is_rounded(
    tf32: ModuleType, papers: Experiments, tmp_path: Path
) -> None:
    arch = papers.config.teachers["digits"].architecture
    student = random_run(tmp_path, recipe_of(papers, "digits", "gdd"), arch).student(2, World())
    with Products(tf32.FACTORS) as after, tf32.RoundedProducts(), sdpa_kernel(SDPBackend.MATH):
        r1_step(student)
    assert all(of_ten_bits for _, of_ten_bits in after.seen)
    kinds = ("convolution", "convolution_backward", "mm", "addmm", "bmm")
    assert {name for name, _ in after.seen} == {f"aten.{kind}.default" for kind in kinds}
    with Products(tf32.FACTORS) as without, sdpa_kernel(SDPBackend.MATH):
        r1_step(student)
    exact = {name: count for (name, of_ten_bits), count in without.seen.items() if not of_ten_bits}
    assert set(exact) == {name for name, _ in after.seen}


def test_a_product_that_is_not_known_is_refused(tf32: ModuleType) -> None:
    one = torch.ones(1, 1, 2, 2)
    with tf32.RoundedProducts(), pytest.raises(NotImplementedError, match="attention"):
        nn.functional.scaled_dot_product_attention(one, one, one)


@pytest.mark.slow
def test_pairs_are_compared_seed_by_seed_until_the_time_is_over(
    tf32: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, recipes = iter(range(0, 1000, 10)), set()

    def fid(_: Any, run: Any, kind: str, __: Path) -> float:
        recipes.add((run.recipe.images, run.recipe.snapshot_every, run.recipe.teacher))
        return 1.0 + run.seed + (0.25 if kind == "tf32" else 0.0)

    monkeypatch.setattr(tf32, "fid", fid)
    monkeypatch.setattr(tf32.time, "perf_counter", lambda: next(clock))
    tf32.main(["--images", "640", "--seeds", "2", "--seconds", "60"])  # a look at the clock takes ten
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [
        "digits, seed 0, float32",
        "digits, seed 0, tf32",
        "digits-b, seed 0, float32",
    ]
    assert "| digits, seed 0 | 1.000 | 1.250 | +0.250 |" in lines
    assert not any(line.startswith("| digits-b") for line in lines)  # which has no pair
    assert recipes == {(640, 640, "digits"), (640, 640, "digits-b")}
    tf32.main(["--seeds", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert "| mean | 1.500 | 1.750 | +0.250 |" in lines
    assert lines[-1] == "TF32 changes the FID by +0.250, standard error 0.000."
