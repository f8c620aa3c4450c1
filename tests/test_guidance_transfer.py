"""guidance/transfer.py: what goes to a GPU is not waited for."""

from __future__ import annotations

import pytest
import torch

from guidance.transfer import sent


def test_what_is_sent_arrives(device):
    rows = torch.arange(6.0).reshape(2, 3)
    arrived = sent(rows, device)
    assert arrived.device.type == device.type and torch.equal(arrived.cpu(), rows)


class Seen:
    """A tensor that notes what is asked of it, for machines without a GPU."""

    def __init__(self, is_cuda=False):
        self.is_cuda, self.asked = is_cuda, []

    def pin_memory(self):
        self.asked.append("pinned")
        return self

    def to(self, device, non_blocking=False):
        self.asked.append("not waited for" if non_blocking else "waited for")
        return self


@pytest.mark.parametrize(
    "target, there, asked",
    [
        ("cuda", False, ["pinned", "not waited for"]),
        ("cuda", True, ["waited for"]),  # from a GPU to itself nothing is copied
        ("cpu", False, ["waited for"]),
    ],
)
def test_what_goes_to_a_gpu_is_pinned_and_not_waited_for(target, there, asked):
    assert sent(Seen(there), torch.device(target)).asked == asked
