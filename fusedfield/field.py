"""Density and albedo of a hash-grid field, at points and along rays, by one operator each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fusedfield.dispatch import Layers, dispatch


def field_query(
    positions: Tensor,
    embeddings: Tensor,
    layers: Layers,
    offsets: Sequence[int],
    resolutions: Sequence[int],
    *,
    gridtype: str = "hash",
    align_corners: bool = False,
    interpolation: str = "linear",
    max_level: float | None = None,
    bound: float = 1.0,
    activation: str = "exp",
    blob_density: float = 0.0,
    blob_radius: float = 1.0,
    mixed: bool = False,
    outputs: int = 4,
) -> tuple[Tensor, Tensor]:
    """Encode points on a grid (Instant-NGP, arXiv:2201.05989), take them through an MLP, and activate its channels.

    sigma = activation(channel 0 + blob), albedo = sigmoid(channels 1..3), where the blob (DreamFusion,
    arXiv:2209.14988) is `blob_density` at the origin and falls linearly to 0 at distance `blob_radius`. Differentiable
    once in `embeddings` and `layers`; where the operator does not serve (see `serves`), the reference does, which is
    differentiable in all tensors and any number of times. Results do not depend on the number of threads.

    Args:
        positions: Points in [-bound, bound]; others encode to zeros. [N, 3]
        embeddings, gridtype, align_corners, interpolation, max_level: As for `gridencoder.grid_encode`. [P, C]
        layers: Weight [outputs, inputs] and bias [outputs] of linear layers, from L * C channels to 4; ReLU between.
        offsets: First row of each level, and P. [L + 1]
        resolutions: Nodes along an axis of each level. [L]
        bound: Half the edge of the box.
        activation: none; exp, of 15 at most, with the gradient of exp(15) beyond; or softplus.
        mixed: Weights, activations and their gradients in bf16, sums and everything else in float32. Without it all is
            float32; on CUDA those are sums of two bf16, 2^-16 off at most.
        outputs: 4, or 1: density alone, at its cost.

    Returns:
        sigma [N], albedo [N, outputs - 1].

    Raises:
        ValueError: an argument is out of its range, or shapes disagree.
    """
    sigma, albedo, *_ = dispatch(
        "field_query",
        (positions,),
        embeddings,
        layers,
        offsets,
        resolutions,
        gridtype,
        align_corners,
        interpolation,
        max_level,
        bound,
        activation,
        blob_density,
        blob_radius,
        mixed,
        outputs,
    )
    return sigma, albedo


def field_query_rays(
    positions: Tensor,
    lengths: Tensor,
    packed_info: Tensor,
    limit: float,
    embeddings: Tensor,
    layers: Layers,
    offsets: Sequence[int],
    resolutions: Sequence[int],
    *,
    gridtype: str = "hash",
    align_corners: bool = False,
    interpolation: str = "linear",
    max_level: float | None = None,
    bound: float = 1.0,
    activation: str = "exp",
    blob_density: float = 0.0,
    blob_radius: float = 1.0,
    mixed: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`field_query` of the samples of rays, up to where each has ended: nothing behind that is kept, or costs much.

    A ray ends behind the sample with which its optical depth, the sum of sigma times length, passes `limit`. Sigma and
    albedo of a sample are those of `field_query`, bit for bit, and differentiable in the same tensors.

    Args:
        positions: Samples of all rays, one ray after the other. [M, 3]
        lengths: Of the samples, scene units. [M]
        packed_info: First sample and sample count of each ray, in the order of the samples, int32. [N, 2]
        limit: Optical depth at which a ray ends.
        The others: As for `field_query`.

    Returns:
        sigma [K], albedo [K, 3], kept [K]: the samples that were reached, ascending, int64; counts [N]: how many each
        ray has, int32.

    Raises:
        ValueError: an argument is out of its range, or shapes disagree.
    """
    if lengths.shape != positions.shape[:1] or packed_info.ndim != 2 or packed_info.shape[1] != 2:
        raise ValueError(
            f"field_query_rays needs a length for each of its {positions.shape[0]} samples and packed_info [N, 2], got "
            f"{list(lengths.shape)} and {list(packed_info.shape)}"
        )
    sigma, albedo, kept, counts, *_ = dispatch(
        "field_query_rays",
        (positions, lengths.detach().to(positions.dtype), packed_info.int(), limit),
        embeddings,
        layers,
        offsets,
        resolutions,
        gridtype,
        align_corners,
        interpolation,
        max_level,
        bound,
        activation,
        blob_density,
        blob_radius,
        mixed,
        4,
    )
    return sigma, albedo, kept, counts
