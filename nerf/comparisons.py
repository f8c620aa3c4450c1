"""Every compiled operator at work on some points, forward and backward, beside its reference in plain torch.

For `main.py doctor`, and for first_use.py: there `main` runs in a process of its own, which a kernel may end.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import extension

POINTS = {"cpu": 257, "cuda": 40_009}  # by type of device: a GPU's blocks shall have more than one turn
# Root mean square of the difference, as a share of the reference's own.
TOLERANCE = 1e-4
TOLERANCE_SPLIT = 1e-3  # on tensor cores, where the sum of two bf16 is what is float32 elsewhere
TOLERANCE_LOOSE = 3e-2  # of LOOSE: what is rounded to 16 bits, and counts, for a sample may lie on the border of a cell
LOOSE = ("in bf16", "float16 table", "samples of rays")
# Exit statuses: torch's own operators do not run there, or have no memory; one of ours failed.
NO_DEVICE, STOPPED = 3, 4

Values = dict[str, Tensor]


class Difference(NamedTuple):
    what: str
    share: float  # infinite where one of them is no number
    tolerance: float

    @property
    def agrees(self) -> bool:
        return self.share <= self.tolerance


class Verdict(NamedTuple):
    name: str  # of the extension
    problem: str  # "" for none
    share: float = math.inf  # that of its worst difference


def judge(name: str, device: str) -> Verdict:
    """The worst of the `differences`."""
    worst = differences(name, device)[0]
    far = "has no number" if math.isinf(worst.share) else f"is {worst.share:.2%} off"
    return Verdict(name, "" if worst.agrees else f"{worst.what} {far}, beside its reference", worst.share)


def differences(name: str, device: str) -> list[Difference]:
    """How far the compiled operators of an extension are from their references, worst first.

    Raises what an operator raises, and RuntimeError where the references serve in place of the compiled ones.
    """
    try:
        extension.set_mode("native")
        if not extension.load(name):
            raise RuntimeError(extension.status(name).error)
        native = COMPARISONS[name](device)
        extension.set_mode("torch")
        expected = COMPARISONS[name](device)
    finally:
        extension.set_mode("native")
    split = name == "fusedfield" and torch.device(device).type == "cuda"
    usual = TOLERANCE_SPLIT if split else TOLERANCE
    found = [
        Difference(what, _share(native[what], value), TOLERANCE_LOOSE if any(map(what.count, LOOSE)) else usual)
        for what, value in expected.items()
    ]
    return sorted(found, key=lambda one: one.share / one.tolerance, reverse=True)


def _share(ours: Tensor, expected: Tensor) -> float:
    ours, expected = ours.detach().double(), expected.detach().double()
    share = float((ours - expected).norm() / expected.norm()) if ours.shape == expected.shape else math.inf
    return math.inf if math.isnan(share) else share


def _points(device: str, columns: int, low: float = 0.0, high: float = 1.0, rows: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = rows or POINTS[torch.device(device).type]
    return (torch.rand(rows, columns, generator=generator) * (high - low) + low).to(device)


def _with_gradients(results: Values, inputs: Values, prefix: str = "") -> Values:
    """The results and the gradients for some cotangent of them."""
    weights = [torch.arange(value.numel(), device=value.device).cos().view_as(value) for value in results.values()]
    gradients = torch.autograd.grad(list(results.values()), list(inputs.values()), weights)
    named = {f"gradient of {name}": gradient for name, gradient in zip(inputs, gradients, strict=True)}
    return {prefix + name: value for name, value in (results | named).items()}


def compare_gridencoder(device: str) -> Values:
    from gridencoder import grid_encode, grid_total_variation_, grid_weight_decay_

    offsets, found = [0, 64, 576, 1600], {}  # a dense level of 4^3 nodes, one of 8^3, and a hashed one
    rows, x = _points(device, 2, -1.0, rows=offsets[-1]), _points(device, 3).requires_grad_()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        table = rows.to(dtype, copy=True).requires_grad_()
        encoded = grid_encode(x, table, offsets, 2.0, 4, interpolation="smoothstep")
        found |= _with_gradients({"encoding": encoded}, {"points": x, "table": table}, f"{str(dtype)[6:]} table: ")
    found["gradient of variation"], found["gradient of decay"] = torch.zeros_like(rows), torch.zeros_like(rows)
    grid_total_variation_(found["gradient of variation"], x.detach(), rows, 1.0, offsets, [4, 8, 16])
    grid_weight_decay_(found["gradient of decay"], rows, 1.0, offsets)
    return found


def compare_fusedfield(device: str) -> Values:
    from fusedfield import field_query

    found, x = {}, _points(device, 3, -1.0)
    for levels, mixed in itertools.product((8, 16), (False, True)):
        resolutions = [4 + 4 * level for level in range(levels)]
        offsets = [0, *itertools.accumulate(min(nodes**3, 1024) for nodes in resolutions)]
        table = _points(device, 2, -1.0, rows=offsets[-1]).requires_grad_()
        rows = [2 * levels + 1, 64 + 1, 4 + 1]  # of both hidden layers: a row for each input; of the last, each output
        weights = _points(device, 64, -0.2, 0.2, rows=sum(rows)).requires_grad_()
        first, second, last = weights.split(rows)
        layers = [*((part[:-1].T.contiguous(), part[-1]) for part in (first, second)), (last[:-1], last[-1, :4])]
        sigma, albedo = field_query(x, table, layers, offsets, resolutions, mixed=mixed)
        results, inputs = {"density": sigma, "albedo": albedo}, {"table": table, "layers": weights}
        found |= _with_gradients(results, inputs, f"{levels} levels{' in bf16' * mixed}: ")
    return found


def compare_shencoder(device: str) -> Values:
    from shencoder import sh_encode

    x = torch.nn.functional.normalize(_points(device, 3, -1.0), dim=-1).requires_grad_()
    return _with_gradients({"harmonics": sh_encode(x, 4)}, {"directions": x})


def compare_freqencoder(device: str) -> Values:
    from freqencoder import freq_encode

    x = _points(device, 3, -1.0).requires_grad_()
    return _with_gradients({"frequencies": freq_encode(x, 6)}, {"points": x})


def compare_raymarching(device: str) -> Values:
    from raymarching import composite_rays_train, march_rays_train, near_far_from_aabb, packbits

    origins = 3 * torch.nn.functional.normalize(_points(device, 3, -1.0), dim=-1)
    rays = torch.nn.functional.normalize(_points(device, 3, -0.7, 0.7).flip(0) - origins, dim=-1)
    box = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], device=device)
    nears, fars = near_far_from_aabb(origins, rays, box)
    bits = packbits(_points(device, 1, rows=2 * 16**3).view(2, -1), 0.5)
    places, _, ts, packed = march_rays_train(origins, rays, 1.0, bits, 2, 16, nears, fars, max_steps=64)
    found = {"nears": nears, "fars": fars, "bits": bits, "samples of rays": packed[:, 1]}
    found["places"], found["distances"] = places.abs().mean(0), ts.mean(0)
    density, colour = (3 * _points(device, 1)[:, 0]).requires_grad_(), _points(device, 3).requires_grad_()
    first = torch.arange(0, len(density), 100, device=device)  # rays of 100 samples, and one of what is left
    packed = torch.stack([first, (len(density) - first).clamp(max=100)], dim=-1).int()
    ts = torch.stack([torch.linspace(1, 2, len(density), device=device), torch.full_like(density, 0.1)], dim=-1)
    made = composite_rays_train(density, colour, ts, packed)
    results = dict(zip(("weights", "opacity", "depth", "picture"), made, strict=True))
    return found | _with_gradients(results, {"density": density, "colour": colour})


def compare_adan(device: str) -> Values:
    from adan import adan_update

    names = ("parameters", "gradient", "average", "difference", "square", "previous")
    state = _points(device, 6).T.contiguous()
    adan_update(*state, step=5, lr=0.01)
    return dict(zip(names, state, strict=True))


COMPARISONS: dict[str, Callable[[str], Values]] = {
    "raymarching": compare_raymarching,
    "gridencoder": compare_gridencoder,
    "fusedfield": compare_fusedfield,
    "shencoder": compare_shencoder,
    "freqencoder": compare_freqencoder,
    "adan": compare_adan,
}


def main(device: str, *names: str) -> int:
    """Print the Verdict of each extension, a line of JSON. Returns an exit status."""
    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError:
        return NO_DEVICE
    for name in names:
        try:
            print(json.dumps(judge(name, device)), flush=True)
        except torch.OutOfMemoryError:
            return NO_DEVICE
        except Exception as error:  # after which the device may be of no more use
            print(json.dumps([name, " ".join(str(error).split())[:200] or type(error).__name__]), flush=True)
            return STOPPED
    return 0
