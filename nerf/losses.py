"""The losses on what was rendered: one line of `LOSSES` each, and its --lambda_* option comes from that line.

Nothing here imports torch, so that the options can be listed without it. Weights are not applied here: the terms
and the ramped weights of a step (`nerf.schedule`) meet in the training loop.

Letters: B views, H W pixels, M samples. Sums over samples are divided by what does not depend on the renderer
(pixels, or the samples' own weight), so that a weight means the same for packed and for stratified samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module

    from nerf.types import RenderOutput


def constant(fraction: float) -> float:
    """The full weight from the first step."""
    return 1.0


def first_half(fraction: float) -> float:
    """From nothing to the full weight over the first half of the run."""
    return min(1.0, 2 * fraction)


@dataclass(frozen=True)
class Loss:
    """A loss on pictures and samples, differentiable by autograd."""

    function: Callable[[RenderOutput], Tensor]
    default: float  # of --lambda_{name}
    help: str
    ramp: Callable[[float], float] = constant  # share of the run in [0, 1] -> share of the weight
    needs: tuple[str, ...] = ()  # fields or samples of RenderOutput that not every shading brings


@dataclass(frozen=True)
class FieldLoss:
    """A loss on the encoder's parameters whose gradient is added directly, after backward (no graph, no value)."""

    method: str  # of the field's encoder; called with the weight, adds to the gradient
    default: float
    help: str
    ramp: Callable[[float], float] = constant
    sampled: bool = False  # the method draws points: it takes the bound of the scene and a generator


def entropy(out: RenderOutput) -> Tensor:
    """Mean binary entropy of the opacity, in bits: 0 where every pixel is decided, 1 where each is half there."""
    p = out.opacity.clamp(1e-5, 1 - 1e-5)  # no gradient at the very ends, where it is infinite
    return -(p * p.log2() + (1 - p) * (1 - p).log2()).mean()


def opacity(out: RenderOutput) -> Tensor:
    """Mean square opacity: the smaller, the emptier the picture."""
    return out.opacity.square().mean()


def orient(out: RenderOutput) -> Tensor:
    """Sum of w * max(0, n.d)^2 over a ray, mean over rays (Ref-NeRF, arXiv:2112.03907, eq. 11).

    `d` points away from the camera, so that visible normals that face away are punished. The weights hold no
    gradient: the loss turns normals, it does not make surfaces vanish.
    """
    facing_away = (out.samples["normals"] * out.samples["directions"]).sum(-1).clamp(min=0)
    return (out.samples["weights"].detach() * facing_away.square()).sum() / max(out.opacity.numel(), 1)


def normal_smooth_2d(out: RenderOutput) -> Tensor:
    """Mean square difference of the normal map between neighbouring pixels, rows plus columns."""
    rows, columns = out.normal.diff(dim=1), out.normal.diff(dim=2)
    # A picture of one row has no differences: 0, not 0 / 0.
    return rows.square().sum() / max(rows.numel(), 1) + columns.square().sum() / max(columns.numel(), 1)


def normal_smooth_3d(out: RenderOutput) -> Tensor:
    """Mean absolute difference of the normals of samples and of points beside them, weighted as the samples are.

    The weights hold no gradient. `samples["normals_perturbed"]` [M, 3] are the normals at the moved points.
    """
    difference = (out.samples["normals"] - out.samples["normals_perturbed"]).abs().mean(-1)
    weights = out.samples["weights"].detach()
    return (weights * difference).sum() / weights.sum().clamp(min=1e-6)


LOSSES: dict[str, Loss | FieldLoss] = {
    "entropy": Loss(entropy, 1e-3, "opacity should be 0 or 1", first_half),
    "opacity": Loss(opacity, 0.0, "opacity should be small"),
    "orient": Loss(orient, 1e-2, "visible normals should face the camera", needs=("normals", "directions", "weights")),
    "tv": FieldLoss("grad_total_variation", 0.0, "neighbouring grid features should agree", first_half, sampled=True),
    "wd": FieldLoss("grad_weight_decay", 0.0, "grid features should be small"),
    "2d_normal_smooth": Loss(normal_smooth_2d, 0.0, "neighbouring pixels should share a normal", needs=("normal",)),
    "3d_normal_smooth": Loss(
        normal_smooth_3d,
        0.0,
        "neighbouring points should share a normal",
        needs=("normals", "normals_perturbed", "weights"),
    ),
}


def evaluate(out: RenderOutput, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The losses whose weight is not 0, unweighted scalars.

    Names that are not in `LOSSES` (those of the guidance) are passed over, and so are losses on normals where the
    renderer made none (albedo needs none). Finite for a picture without samples.
    """
    return {
        name: loss.function(out)
        for name, loss in LOSSES.items()
        if isinstance(loss, Loss) and weights.get(name, 0.0) != 0 and all(_has(out, need) for need in loss.needs)
    }


def add_field_gradients(field: Module, weights: Mapping[str, float], *, generator: Generator) -> None:
    """Add the gradients of the losses on the encoder (tv, wd) whose weight is not 0 to its parameters.

    To be called between backward and the optimizer's step, after gradients scaled for mixed precision are unscaled.

    Raises:
        ValueError: The field's encoder cannot do it (only the grid can).
    """
    for name, loss in LOSSES.items():
        weight = weights.get(name, 0.0)
        if not isinstance(loss, FieldLoss) or weight == 0:
            continue
        method = getattr(getattr(field, "encoder", None), loss.method, None)
        if method is None:
            raise ValueError(f"--lambda_{name} needs --backbone grid, {type(field).__name__} has no grid")
        method(weight, **({"bound": field.bound, "generator": generator} if loss.sampled else {}))


def _has(out: RenderOutput, need: str) -> bool:
    return need in out.samples or getattr(out, need, None) is not None
