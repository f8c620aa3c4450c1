"""How what was drawn or decided on the host reaches a GPU without the host waiting for it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. To a GPU it goes from pinned memory, behind the work that is queued there.

    torch keeps that memory until the copy is over.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


Record = TypeVar("Record")


def all_sent(record: Record, device: torch.device) -> Record:
    """A dataclass with its tensors on a device."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return replace(record, **{name: sent(tensor, device) for name, tensor in tensors.items()})
