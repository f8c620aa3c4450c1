"""Names of encodings -> modules that encode coordinates or directions."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class Identity(nn.Module):
    """Coordinates as they are. [N, D] -> [N, D]"""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _identity(input_dim: int = 3) -> tuple[nn.Module, int]:
    return Identity(), input_dim


def _frequency(input_dim: int = 3, degree: int = 6) -> tuple[nn.Module, int]:
    from freqencoder import FreqEncoder

    encoder = FreqEncoder(input_dim=input_dim, degree=degree)
    return encoder, encoder.output_dim


def _spherical_harmonics(input_dim: int = 3, degree: int = 4) -> tuple[nn.Module, int]:
    from shencoder import SHEncoder

    encoder = SHEncoder(input_dim=input_dim, degree=degree)
    return encoder, encoder.output_dim


def _grid(gridtype: str, **options: object) -> tuple[nn.Module, int]:
    from gridencoder import GridEncoder

    encoder = GridEncoder(gridtype=gridtype, **options)
    return encoder, encoder.output_dim


ENCODERS: dict[str, Callable[..., tuple[nn.Module, int]]] = {
    "identity": _identity,
    "frequency": _frequency,
    "spherical_harmonics": _spherical_harmonics,
    "hashgrid": lambda **options: _grid("hash", **options),
    "tiledgrid": lambda **options: _grid("tiled", **options),
}


def get_encoder(name: str, **options: object) -> tuple[nn.Module, int]:
    """Build the encoder called `name`.

    Args:
        name: identity, frequency, spherical_harmonics, hashgrid or tiledgrid.
        options: Passed to the encoder (input_dim, degree, num_levels, ...).

    Returns:
        The module, which maps [N, D] to [N, C], and C.

    Raises:
        ValueError: there is no encoder of that name.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoding '{name}': choose one of {', '.join(ENCODERS)}")
    return ENCODERS[name](**options)
