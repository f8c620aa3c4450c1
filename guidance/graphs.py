"""A frozen model as one launch: what it does for tensors of a shape is recorded once and played from then on.

A UNet is some thousand kernels, which Python starts one by one; a fast GPU is through with each before the next one
comes, and on a CPU a small model spends a quarter of its time in Python. A CUDA graph, or TorchScript, starts them all.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

log = logging.getLogger(__name__)
CLOSE = 0.01  # relative to its norm: what is played may be computed by other kernels, in half precision
WARM_UP = 2  # passes before the recording: libraries choose their kernels and take their memory in them
Function = Callable[..., Tensor]


class Recorder(Protocol):
    """Makes a function of tensors that does what another did for tensors of the same shapes."""

    name: str  # of what it makes
    after: int  # so many times a function is called before it is worth a recording
    keeps_memory: bool  # for what the function makes meanwhile

    def __call__(self, function: Function, inputs: tuple[Tensor, ...]) -> Function:
        """Record function(*inputs), which must neither wait for values nor draw random numbers."""


class CudaGraphs:
    """Records functions as CUDA graphs, which share their memory: no two of them are played at the same time."""

    name, after, keeps_memory = "CUDA graph", 1, True

    def __init__(self) -> None:
        self.stream: torch.cuda.Stream | None = None

    def __call__(self, function: Function, inputs: tuple[Tensor, ...]) -> Function:
        places = tuple(tensor.clone() for tensor in inputs)  # what is played reads these
        with torch.cuda.device(places[0].device):
            if self.stream is None:
                self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            current = torch.cuda.current_stream()
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):  # left whatever happens, as torch.cuda.graph leaves its own not
                for _ in range(WARM_UP):
                    function(*places)
                graph = torch.cuda.CUDAGraph()
                # What other threads do meanwhile, such as writing a checkpoint, is no part of it and no error.
                with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                    result = function(*places)
            current.wait_stream(self.stream)
        return in_places(graph.replay, places, result)


def in_places(play: Callable[[], None], places: tuple[Tensor, ...], result: Tensor) -> Function:
    """The function that `play` computes from what lies in `places`, leaving it in `result`."""

    def played(*tensors: Tensor) -> Tensor:
        for place, tensor in zip(places, tensors, strict=True):
            place.copy_(tensor)
        play()
        return result.clone()  # the next time overwrites it

    return played


class TorchScript:
    """Traces functions, for a CPU: the same kernels on the same numbers, started from C++.

    What follows from weights alone is computed once and kept. Toybox's UNet is traced in 2 s on two Zen 3 cores, and a
    pass takes 69 ms instead of 96. PyTorch means to replace TorchScript; but torch.compile took 119 s there for a pass
    of 83 ms, and the same calls written down and played from Python (torch.fx) took 81.
    """

    name, after, keeps_memory = "TorchScript", 8, False

    def __call__(self, function: Function, inputs: tuple[Tensor, ...]) -> Function:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript's age, and about each shape that Python looks at
            return torch.jit.trace(function, inputs, check_trace=False)  # Recorded compares


@dataclass
class Recording:
    """What a function did for tensors of a shape."""

    play: Function
    played: int = 0  # times


class Recorded:
    """A function of tensors, without gradient; what it does for each shape is recorded when that comes again and again.

    Once, with other values than those of the recording, the function is called as well, and has to agree. Where it does
    not, or a recording fails, one line says so, and the function is called as it is from then on. What it reads beside
    its arguments, weights for one, must stay where and as it is: `forget` when it has changed.

    Args:
        function: Its result depends on its arguments' values alone, and is a tensor of its own.
        make_recorder: `CudaGraphs`, `TorchScript` or another in their place.
    """

    def __init__(self, function: Function, make_recorder: Callable[[], Recorder]):
        self.function, self.make_recorder = function, make_recorder
        self.forget()

    def forget(self) -> None:
        """Give the recordings up, and their memory."""
        self.recordings: dict[tuple, Recording] = {}
        self.seen: Counter[tuple] = Counter()
        self.recorder = self.make_recorder() if self.make_recorder else None

    def stop(self) -> None:
        """`forget`, for good."""
        self.make_recorder = None
        self.forget()

    def save_memory(self) -> str | None:
        """`stop`, where recordings keep memory. Returns what was given up; None: nothing."""
        if self.recorder is None or not self.recorder.keeps_memory:
            return None
        given_up = f"no {self.recorder.name}" if self.recordings else None
        self.stop()
        return given_up

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Tensor:
        if self.recorder is None:
            return self.function(*tensors)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if self.seen[shapes] == self.recorder.after:
            self._record(shapes, tensors)
        self.seen[shapes] += 1
        if shapes not in self.recordings:
            return self.function(*tensors)
        recording = self.recordings[shapes]
        result = recording.play(*tensors)
        recording.played += 1
        return self._checked(result, tensors) if recording.played == 2 else result

    def _record(self, shapes: tuple, tensors: tuple[Tensor, ...]) -> None:
        try:
            self.recordings[shapes] = Recording(self.recorder(self.function, tensors))
        except Exception as error:  # a lack of memory, too: without a recording it may last
            self._give_up(f"{type(error).__name__}: {error}".splitlines()[0])

    def _checked(self, result: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        """What was played, or what the function gives where that is something else."""
        expected = self.function(*tensors)
        off = (result.float() - expected.float()).norm() / expected.float().norm()
        if off <= CLOSE or not expected.isfinite().all():
            return result
        self._give_up("one was recorded, and plays something else")
        return expected

    def _give_up(self, reason: str) -> None:
        log.warning("no %s, kernels are started one by one as with --eager (%s)", self.recorder.name, reason)
        self.stop()
