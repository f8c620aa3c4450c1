"""Optimizers, and the moving average of the weights.

A step whose gradients are not finite changes nothing: neither the weights nor what the optimizer remembers. Whether
that was so stays on the device, 1.0 or 0.0 in the optimizer's `found_inf`, as torch's own call it: nothing waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adan import adan_update

LR_SCALE = {"adan": 5.0, "adam": 1.0}  # by which --lr is multiplied


def get_optimizer(name: str, groups: list[dict[str, Any]]) -> Optimizer:
    """The optimizer called `name` (adan, adam) with the settings of stable-dreamfusion.

    Args:
        groups: Parameter groups with their learning rates, `LR_SCALE` already applied by the caller.

    Raises:
        ValueError: There is no optimizer of that name.
    """
    if name == "adan":
        return Adan(groups, eps=1e-8, weight_decay=2e-5, max_grad_norm=5.0)
    if name == "adam":
        return Adam(groups, betas=(0.9, 0.99), eps=1e-15, fused=True)
    raise ValueError(f"--optim needs one of {', '.join(LR_SCALE)}, got {name}")


def scale_lr(optimizer: Optimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` times the one it started with (kept in the group, so in its state)."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def resume(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Go on from a `state_dict`, with the learning rates that `optimizer` was made with: --lr may be typed anew."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["initial_lr"] = rate


def _found_inf(norm: Tensor) -> Tensor:
    """1.0 where a norm is not finite, else 0.0. 0-d"""
    return (_nothing(norm) != 0).float()


def _nothing(norm: Tensor) -> Tensor:
    """0, or NaN where a norm is not finite; isfinite() would be four launches. 0-d"""
    return norm - norm


def _gradient_norm(optimizer: Optimizer) -> Tensor:
    """Of all gradients together; not finite where one of them is not. 0-d"""
    return nn.utils.get_total_norm(
        [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    )


@contextmanager
def _whole_or_none(optimizer: Optimizer) -> Iterator[None]:
    """What a step began to remember of a parameter is forgotten where it fails: the step may be taken again.

    Memory that runs out for the second average would else leave the first, which is taken for all of them.
    """
    known = set(optimizer.state)
    try:
        yield
    except BaseException:
        for p in optimizer.state.keys() - known:
            del optimizer.state[p]
        raise


class Adam(torch.optim.Adam):
    """torch's, told what the fused one then skips."""

    def step(self) -> None:
        self.found_inf = _found_inf(_gradient_norm(self))
        with _whole_or_none(self):
            super().step()


class Adan(Optimizer):
    """Adaptive Nesterov momentum (arXiv:2208.06677, algorithm 1), with the bias corrections of its authors' code.

    A parameter's clock runs only in steps that bring it a gradient, finite or not. Bit-identical between runs, and
    between an unbroken run and one resumed from `state_dict`, which holds tensors and plain numbers only.

    Args:
        betas: What stays of the averages of the gradient, of its difference and of its square, per step.
        eps: Added to the root of the third average.
        weight_decay: Decoupled and proximal: weights are divided by 1 + lr * weight_decay.
        max_grad_norm: The gradient of all parameters together is scaled down to this norm; 0: never.

    Raises:
        ValueError: A setting is out of range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
    ):
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay), ("max_grad_norm", max_grad_norm)):
            if not value >= 0:
                raise ValueError(f"Adan needs {name} >= 0, got {value}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"Adan needs betas in [0, 1), got {betas}")
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        self.max_grad_norm = max_grad_norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        norm = _gradient_norm(self)
        self.found_inf, clip = _found_inf(norm), self._clip(norm)
        with _whole_or_none(self):
            for group in self.param_groups:
                settings = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
                for p in group["params"]:
                    if p.grad is not None:
                        averages = self._averages(p, clip)
                        adan_update(p, p.grad, *averages, step=self.state[p]["step"], clip=clip, **settings)
        return loss

    def _clip(self, norm: Tensor) -> Tensor:
        """By what all gradients are multiplied; a tensor, so that a GPU is not waited for. NaN: change nothing. 0-d"""
        limit = self.max_grad_norm or math.inf
        return (limit / (norm + 1e-12)).clamp(max=1.0) + _nothing(norm)

    def _averages(self, p: Tensor, clip: Tensor) -> tuple[Tensor, ...]:
        """The averages of the parameter, with its clock advanced."""
        state = self.state[p]
        if not state:
            state["step"] = 0
            for name in ("average", "difference", "square"):
                state[name] = torch.zeros_like(p)
            state["previous"] = (p.grad * clip).nan_to_num()  # the first difference is 0
        state["step"] += 1
        return tuple(state[name] for name in ("average", "difference", "square", "previous"))


class EMA:
    """Exponential moving average of a module's parameters (buffers are shared, not averaged).

    The average starts as a copy. Step k (from 0) keeps min(decay, (1 + k) / (10 + k)) of it, so that the weights a
    run started from are forgotten at once and not after 1 / (1 - decay) steps.

    Raises:
        ValueError: `decay` is not in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float = 0.95):
        if not 0 <= decay < 1:
            raise ValueError(f"--ema_decay needs a share in [0, 1), got {decay}")
        self.decay = decay
        self.steps = 0
        self._parameters = dict(module.named_parameters())
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now: once per step, after the optimizer."""
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self._average.values()), list(self._parameters.values()), 1 - keep)
        self.steps += 1

    @contextmanager
    def swap(self) -> Iterator[None]:
        """The module has the averaged weights inside the block, and its own, bit for bit, after it however it ends."""
        parameters = list(self._parameters.values())
        own = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            torch._foreach_copy_(parameters, list(self._average.values()))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(parameters, own)

    def state_dict(self) -> dict[str, Any]:
        """{steps: int, average: {parameter name: tensor}}; the tensors are the live ones."""
        return {"steps": self.steps, "average": dict(self._average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`'s value.

        Raises:
            ValueError: It belongs to a module with other parameters.
        """
        shapes = {name: tuple(average.shape) for name, average in state["average"].items()}
        mine = {name: tuple(average.shape) for name, average in self._average.items()}
        if shapes != mine:
            other = sorted({name for name, _ in shapes.items() ^ mine.items()})
            raise ValueError(f"the averaged weights belong to another model: {', '.join(other[:3])} differ")
        self.steps = state["steps"]
        for name, average in state["average"].items():
            self._average[name].copy_(average)
