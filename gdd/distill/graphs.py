"""The passes of a step as CUDA graphs, which a GPU runs without waiting for the CPU to launch every kernel.

A graph is thousands of kernels of one pass over a process's share of a batch, forward and backward, recorded
once with the memory they work on. Whatever differs between two batches is therefore copied into that memory
before the graph runs, and what it computes is found where it was the last time. Optimizers, sums over
processes and averages stay outside: they are few operators.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gdd.distill.shares import Part

log = logging.getLogger(__name__)

Passes = Callable[[list[Part]], Any]
Key = tuple[Any, ...]


class _Recorded(NamedTuple):
    parts: list[Part]  # in the memory that the graph reads
    replay: Callable[[], object]
    result: Any  # in the memory that it writes
    gradients: list[Tensor | None]  # there too
    parameters: Sequence[nn.Parameter]  # that have these


class Graphs:
    """Runs passes that leave gradients: each as it is at first, and as a graph once all `names` have run.

    Libraries load and plan when something runs for the first time, which cannot be recorded. And what the
    graphs work on, one after the other in the same memory, would be missing where a pass runs without one.

    A pass that cannot be recorded ends it: from then on all run as they are. The numbers are the same.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)
        self.recorded: dict[Key, _Recorded] = {}
        self.failed = False
        self._ran: set[Key] = set()
        self._stream: Any = None
        self._pool: Any = None

    def run(
        self, name: str, passes: Passes, parts: list[Part], parameters: Sequence[nn.Parameter], choice: int
    ) -> Any:
        """Return what `passes` return for the parts, and leave the gradients of `parameters` that they leave.

        The result and the gradients are overwritten by the next call. Passes compute on the device alone and
        begin without gradients; what they do depends on nothing but the parts' tensors, their number and
        shapes, `choice`, and tensors that stay where they are.
        """
        key = (name, choice, *(tuple(part.images.shape) for part in parts))
        if key not in self.recorded and not self.failed:
            if key not in self._ran or self.names > {name for name, *_ in self._ran}:
                self._ran.add(key)
                with self._aside():
                    return passes(parts)
            try:
                self.recorded[key] = self._record(passes, parts, parameters)
            except RuntimeError as error:
                reason = str(error).partition("\n")[0]
                log.warning("CUDA graphs are not to be had here, the step goes on without: %s", reason)
                self.failed = True
                self.release()
        if self.failed:
            return passes(parts)
        recorded = self.recorded[key]
        for own, given in zip(recorded.parts, parts, strict=True):
            for memory, tensor in zip(own.tensors().values(), given.tensors().values(), strict=True):
                memory.copy_(tensor)
        recorded.replay()
        for parameter, gradient in zip(parameters, recorded.gradients, strict=True):
            parameter.grad = gradient
        return recorded.result

    def release(self) -> None:
        """Give back their memory for something else; they are recorded anew when they are next to run."""
        for recorded in self.recorded.values():
            for parameter in recorded.parameters:
                parameter.grad = None
        self.recorded.clear()
        self._pool = None

    def _record(self, passes: Passes, parts: list[Part], parameters: Sequence[nn.Parameter]) -> _Recorded:
        own = []
        for part in parts:
            copies: dict[str, Any] = {name: tensor.clone() for name, tensor in part.tensors().items()}
            own.append(replace(part, **copies))
        replay, result = self._capture(partial(passes, own))
        return _Recorded(own, replay, result, [parameter.grad for parameter in parameters], parameters)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Enter the stream that graphs are recorded in, where the libraries then have what they need."""
        self._stream = self._stream or torch.cuda.Stream()
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def _capture(self, work: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
        """Record what `work` launches, none of which runs; return what launches it all, and its result."""
        gc.collect()  # of what is left of other passes nothing may end meanwhile
        graph = torch.cuda.CUDAGraph()
        # Other threads draw noise into page-locked memory meanwhile, and watch over sums between processes.
        recording = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with torch.cuda.stream(torch.cuda.current_stream()), recording:  # back here after an error, too
            result = work()
        self._pool = graph.pool()
        return graph.replay, result
