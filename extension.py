"""Which operators of an extension folder serve: the compiled ones, or where they cannot be built its references.

`load("gridencoder")` makes `torch.ops.gridencoder.*` exist, of the library that is there or is built
(common/libraries.py). Without a compiler it prints one warning line and answers False: the caller then uses the
package's reference.py.

Environment: TADPOLE_CACHE (default ~/.cache/tadpole), TADPOLE_OPS (native or torch), CXX, CUDA_HOME, MAX_JOBS,
TORCH_CUDA_ARCH_LIST.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from common import libraries
from common.libraries import NAMES, build, build_all
from common.toolchain import ExtensionBuildError

MODES = ("native", "torch")


@dataclass(frozen=True)
class ExtensionStatus:
    """Where an extension stands in this process, for `main.py doctor`."""

    name: str
    mode: str  # native | torch
    native: bool  # torch.ops.<name> is loaded and in use
    library: Path | None  # the library that is or would be loaded, None: it has yet to be built
    error: str | None  # why the references serve although the mode is native


_mode = os.environ.get("TADPOLE_OPS", "native")
_loaded: dict[str, bool] = {}
_hooks: dict[str, Callable[[], None]] = {}
_lock = threading.RLock()


def set_mode(mode: str | None) -> None:
    """Choose the compiled operators ("native") or the torch references ("torch") for all calls from now on.

    None: TADPOLE_OPS decides, and without it the compiled operators serve.
    """
    global _mode
    source, mode = ("TADPOLE_OPS", os.environ.get("TADPOLE_OPS", "native")) if mode is None else ("--ops", mode)
    if mode not in MODES:
        raise ValueError(f"{source} must be one of {', '.join(MODES)}, got {mode!r}")
    _mode = mode


def load(name: str, *, progress: bool = True) -> bool:
    """Make torch.ops.<name> available; cheap after the first call.

    Args:
        name: The extension folder.
        progress: Print one line to stderr while building.

    Returns:
        True where the native operators are in use, False where the torch references serve: the mode is "torch", or
        the build failed. The first failure is one warning line; the others mostly have the same cause.

    Raises:
        ValueError: TADPOLE_OPS is neither native nor torch.
    """
    if _mode == "torch":
        return False
    known = _loaded.get(name)
    if known is not None:
        return known
    if _mode not in MODES:
        raise ValueError(f"TADPOLE_OPS must be one of {', '.join(MODES)}, got {_mode!r}")
    with _lock:
        if name in _loaded:
            return _loaded[name]
        try:
            build(name, progress=progress)
        except ExtensionBuildError as error:
            if False not in _loaded.values():
                print(f"warning: {error}; the slower torch operators serve meanwhile", file=sys.stderr, flush=True)
            _loaded[name] = False
            return False
        if name in _hooks:
            _hooks[name]()
        _loaded[name] = True
        return True


def load_all(names: Sequence[str] = NAMES) -> bool:
    """`load` several extensions, built side by side. Returns whether the native operators of all are in use."""
    if _mode == "native":
        with contextlib.suppress(ExtensionBuildError):  # `load` says why
            build_all(names)
    return all([load(name) for name in names])


def reject(name: str, why: str) -> None:
    """Leave an extension to its torch references from now on, and say so."""
    with _lock:
        _loaded[name], libraries.failures[name] = False, why
    print(f"warning: {name}: {why}; the slower torch operators serve instead", file=sys.stderr, flush=True)


def when_loaded(name: str, hook: Callable[[], None]) -> None:
    """Call `hook` as soon as the library is loaded: where a package calls register_fake and register_autograd."""
    with _lock:
        _hooks[name] = hook
        if _loaded.get(name):
            hook()


def differentiable_once(*gradients: str) -> None:
    """Let operators that are gradients themselves refuse another one, where torch would take it for zero."""
    for operator in gradients:

        def twice(ctx, *_, operator=operator):
            what = operator.split("::")[1].removesuffix("_backward")
            raise RuntimeError(f"{what} has one derivative, a second was asked for: extension.set_mode('torch') has it")

        torch.library.register_autograd(operator, twice)


def serves(name: str, tensor: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether the native operators of `name` take this tensor: they are float32 (and lower) on CPU and CUDA.

    Raises ValueError where one of the others is on another device, whose memory a kernel does not reach.
    """
    if elsewhere := {other.device for other in others} - {tensor.device}:
        raise ValueError(f"{name} needs all tensors on one device, got {tensor.device} and {elsewhere.pop()}")
    return tensor.device.type in ("cpu", "cuda") and tensor.dtype != torch.float64 and load(name)


def status(name: str) -> ExtensionStatus:
    """The state of one extension; builds and loads nothing."""
    found = (path for path in (libraries.beside(name), libraries.cached(name)) if path.exists())
    library = libraries.mapped.get(name) or next(found, None)
    native = _mode == "native" and _loaded.get(name, False)
    return ExtensionStatus(name, _mode, native, library, libraries.failures.get(name))
