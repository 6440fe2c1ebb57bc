"""What both ways of a training iteration share: what goes in, what comes out, and a clock for its stages."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

Losses = dict[str, float]


@dataclass(frozen=True)
class Batch:
    """One batch: real images `[B, C, H, W]` in [-1, 1], one-hot labels or None, and noise for both steps."""

    reals: Tensor
    labels: Tensor | None
    noise: Tensor
    fresh_noise: Tensor


@dataclass
class Stopwatch:
    """Adds up the seconds of each stage; a GPU is waited for at both ends.

    With `processor_time` the seconds are the processor's, for machines that others compute on too.
    """

    device: torch.device
    processor_time: bool = False
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._now()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.processor_time else time.perf_counter()


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Return the most bytes of tensors that `work` held at a time, beyond those there were before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    held, most = 0, 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
