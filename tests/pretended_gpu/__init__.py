"""Tensors that say they lie on a GPU, and lie on the CPU: the code around the kernels runs as on a GPU, without one.

An operator whose tensors lie on both devices is an error, as it is there, and what makes the host wait is counted.
Needs device.cpp, loaded before torch.
"""

from __future__ import annotations

import subprocess
import traceback
from collections import Counter
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from host_waits import is_read

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
# Take tensors of both devices: copies, and indices on the host, which are sent.
BOTH = ("copy_", "_to_copy", "index", "index_put_", "_index_put_impl_")

# Number of tensors, the first ones, that have to be contiguous: torch's CPU kernels take channels_last, too.
CONTIGUOUS = {"native_group_norm": 1, "native_group_norm_backward": 2}


def compile_device(target: Path, compiler: str) -> Path:
    torch_folder = Path(torch.__file__).parent
    flags = ["-shared", "-fPIC", "-std=c++20", "-O1", "-w", f"-I{torch_folder / 'include'}"]
    libraries = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch_folder / 'lib'}"]
    source = str(Path(__file__).with_name("device.cpp"))
    subprocess.run([compiler, *flags, source, *libraries, "-o", str(target)], check=True, capture_output=True)
    return target


class OnGpu(torch.Tensor):
    """`held`: where it really is."""

    @staticmethod
    def __new__(cls, held):
        place = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=GPU, **place)
        made.held = held
        return made

    def __repr__(self):
        return f"OnGpu({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {}, Counter())  # outside of Gpu, by autograd for one


class Gpu(TorchDispatchMode):
    """waits: how often the host waited for the GPU, by operator and place in the project."""

    def __init__(self):
        super().__init__()
        self.waits: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {}, self.waits)


class Generator(torch.Generator):
    """Says it is of a GPU, and draws what one of the CPU would."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls, "cpu")
        made.place = GPU if torch.device(device).type == "cuda" else CPU
        return made

    def __init__(self, device="cpu"):
        pass

    @property
    def device(self):
        return self.place


def _call(func, args, kwargs, waits):
    wrappers, plain = {}, []

    def held(x):
        if isinstance(x, OnGpu):
            wrappers[id(x.held)] = x
            return x.held
        if isinstance(x, torch.Tensor):
            plain.append(x)
        return x

    name = func.__name__.split(".")[0]
    inner_args, inner_kwargs = tree_map(held, args), tree_map(held, kwargs)
    asked = kwargs.get("device")
    if asked is not None:
        inner_kwargs["device"] = CPU
    on_gpu = torch.device(asked).type == "cuda" if asked is not None else bool(wrappers)
    if name == "_pin_memory":
        return inner_args[0].clone()
    if wrappers and name not in BOTH and any(tensor.dim() for tensor in plain):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, {_place()}")
    if wrappers:
        refuse_layouts(name, inner_args)
    if _waits(name, args, kwargs, on_gpu, wrappers):
        waits[f"{name} {_place()}"] += 1
    result = func(*inner_args, **inner_kwargs)

    def wrap(x):
        if not isinstance(x, torch.Tensor) or isinstance(x, OnGpu) or any(x is tensor for tensor in plain):
            return x
        if id(x) in wrappers:  # changed in place
            return wrappers[id(x)]
        return OnGpu(x) if on_gpu else x

    return tree_map(wrap, result)


def refuse_layouts(name, args):
    """Raise RuntimeError where CUDA's kernel of this operator does not take a tensor as it lies in memory."""
    if not all(tensor.is_contiguous() for tensor in args[: CONTIGUOUS.get(name, 0)]):
        raise RuntimeError(f"{name}: expected X.is_contiguous(memory_format) to be true, {_place()}")


def _waits(name, args, kwargs, on_gpu, wrappers):
    if name == "_to_copy":  # between the two, unless from pinned memory
        return isinstance(args[0], OnGpu) != on_gpu and not kwargs.get("non_blocking")
    if name == "copy_":
        return isinstance(args[0], OnGpu) != isinstance(args[1], OnGpu) and not (len(args) > 2 and args[2])
    return bool(wrappers) and is_read(name, args)


def _place():
    files = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_stack()]
    own = [f"{path.relative_to(ROOT)}" for path, _ in files if ROOT in path.parents and "tests" not in path.parts]
    return own[-1] if own else "tests"


def pretend() -> None:
    """Let torch.cuda answer as where there is one H100. For the whole process."""
    answers = {
        "_lazy_init": None,
        "is_available": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (9, 0),
        "get_device_name": "pretended",
        "get_arch_list": ["sm_90"],
        "mem_get_info": (70 * 10**9, 80 * 10**9),
        "memory_allocated": 0,
        "max_memory_allocated": 0,
        "reset_peak_memory_stats": None,
        "synchronize": None,
        "empty_cache": None,
        "current_stream": None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    torch.cuda.Event = mock.Mock  # nothing is ever waited for
    torch.Generator = Generator
    torch.autograd.set_multithreading_enabled(False)  # threads would not know the mode
    torch.__future__.set_swap_module_params_on_conversion(True)  # or a parameter would lose what it holds
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes them on the CPU, and sends them
