"""A frozen model as one launch: what it does for tensors of a shape is recorded once and played from then on.

A UNet is some thousand kernels, which Python starts one by one; a fast GPU is through with each before the next one
comes. A CUDA graph starts them all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

log = logging.getLogger(__name__)
CLOSE = 0.01  # relative to its norm: what is played may be computed by other kernels, in half precision
WARM_UP = 2  # passes before the recording: libraries choose their kernels and take their memory in them
Function = Callable[..., Tensor]
Recorder = Callable[[Function, tuple[Tensor, ...]], tuple[Callable[[], None], Tensor]]


class CudaGraphs:
    """Records functions as CUDA graphs, which share their memory: no two of them are played at the same time."""

    def __init__(self) -> None:
        self.stream: torch.cuda.Stream | None = None

    def __call__(self, function: Function, inputs: tuple[Tensor, ...]) -> tuple[Callable[[], None], Tensor]:
        """Record function(*inputs), which must neither wait for the GPU nor draw random numbers.

        Returns: what plays it again on what `inputs` hold by then, and the tensor that it leaves the result in.
        """
        with torch.cuda.device(inputs[0].device):
            if self.stream is None:
                self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            current = torch.cuda.current_stream()
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):  # left whatever happens, as torch.cuda.graph leaves its own not
                for _ in range(WARM_UP):
                    function(*inputs)
                graph = torch.cuda.CUDAGraph()
                # What other threads do meanwhile, such as writing a checkpoint, is no part of it and no error.
                with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                    result = function(*inputs)
            current.wait_stream(self.stream)
        return graph.replay, result


@dataclass
class Recording:
    """What a function did for tensors of a shape."""

    inputs: tuple[Tensor, ...]  # what is played reads these
    play: Callable[[], None]
    result: Tensor  # and leaves this
    played: int = 0  # times


class Recorded:
    """A function of tensors, without gradient; what it does for each shape is recorded when that comes again.

    Once, with other values than those of the recording, the function is called as well, and has to agree. Where it does
    not, or a recording fails, one line says so, and the function is called as it is from then on. What it reads beside
    its arguments, weights for one, must stay where it is: `forget` when it has moved.

    Args:
        function: Its result depends on its arguments' values alone, and is a tensor of its own.
        make_recorder: `CudaGraphs`, or another in its place; None: nothing is recorded.
    """

    def __init__(self, function: Function, make_recorder: Callable[[], Recorder] | None):
        self.function, self.make_recorder = function, make_recorder
        self.forget()

    def forget(self) -> None:
        """Give the recordings up, and their memory."""
        self.recordings: dict[tuple, Recording] = {}
        self.seen: set[tuple] = set()
        self.recorder = self.make_recorder() if self.make_recorder else None

    def stop(self) -> bool:
        """`forget`, for good. Returns whether there was something to give up."""
        recorded = bool(self.recordings)
        self.make_recorder = None
        self.forget()
        return recorded

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Tensor:
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if shapes in self.seen and shapes not in self.recordings and self.recorder is not None:
            self._record(shapes, tensors)
        self.seen.add(shapes)
        if shapes not in self.recordings:
            return self.function(*tensors)
        recording = self.recordings[shapes]
        for place, tensor in zip(recording.inputs, tensors, strict=True):
            place.copy_(tensor)
        recording.play()
        recording.played += 1
        result = recording.result.clone()  # the next time overwrites it
        return self._checked(result, tensors) if recording.played == 2 else result

    def _record(self, shapes: tuple, tensors: tuple[Tensor, ...]) -> None:
        inputs = tuple(tensor.clone() for tensor in tensors)
        try:
            self.recordings[shapes] = Recording(inputs, *self.recorder(self.function, inputs))
        except RuntimeError as error:  # a lack of memory, too: without a graph it may last
            self._give_up(str(error).splitlines()[0])

    def _checked(self, result: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        """What was played, or what the function gives where that is something else."""
        expected = self.function(*tensors)
        off = (result.float() - expected.float()).norm() / expected.float().norm()
        if off <= CLOSE or not expected.isfinite().all():
            return result
        self._give_up("one was recorded, and plays something else")
        return expected

    def _give_up(self, reason: str) -> None:
        log.warning("no CUDA graph, kernels are started one by one as with --eager (%s)", reason)
        self.stop()
