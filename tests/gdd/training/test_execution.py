from __future__ import annotations

import pytest
import torch

from gdd.training.execution import Execution
from gdd.training.world import World

GPU = torch.device("cuda", 0)


def test_a_cpu_is_left_as_it_is() -> None:
    world = World()
    before = torch.backends.cudnn.allow_tf32
    Execution().set_up(world.device)
    assert torch.backends.cudnn.allow_tf32 == before
    assert Execution().memory_format(world.device) == torch.contiguous_format
    assert Execution(channels_last=True).memory_format(world.device) == torch.channels_last
    assert Execution().describe(world) == {"processes": 1}


@pytest.mark.parametrize("tf32", [False, True])
def test_a_gpu_rounds_as_it_is_told_and_says_so(monkeypatch: pytest.MonkeyPatch, tf32: bool) -> None:
    places = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    execution = Execution(tf32=tf32)
    try:
        execution.set_up(GPU)
        assert [place.allow_tf32 for place in places] == [tf32, tf32]
        assert not torch.backends.cudnn.benchmark  # minutes before the first step, and no step faster
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed
    assert execution.memory_format(GPU) == torch.channels_last
    assert execution.describe(World(0, 4, GPU)) == {
        "processes": 4,
        "device": "A GPU",
        "tf32": tf32,
        "channels_last": True,
    }
