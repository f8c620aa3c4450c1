"""Shapes and derivatives of the compiled operators.

`grid_encode(x, e, v)` is the encoding, or with a direction v its derivative along v. It is linear in e and, where
given, in v, so three operators are closed under differentiation: the encoding, its gradient in e and its gradient in x.
Only the gradient in x of a derivative along v (a second derivative) ends the chain.
"""

from __future__ import annotations

import torch

LAYOUT = (None,) * 6  # offsets, resolutions, hashed, align_corners, smoothstep, active: no gradients


def register() -> None:
    """Call once, when the library has been loaded."""
    ops = torch.ops.gridencoder

    @torch.library.register_fake("gridencoder::grid_encode")
    def _(inputs, embeddings, direction, offsets, resolutions, hashed, align_corners, smoothstep, active):
        return inputs.new_empty(inputs.shape[0], len(resolutions) * embeddings.shape[1])

    @torch.library.register_fake("gridencoder::grid_embedding_gradient")
    def _(gradient, inputs, direction, offsets, resolutions, hashed, align_corners, smoothstep, active):
        return gradient.new_empty(offsets[-1], gradient.shape[1] // len(resolutions))

    @torch.library.register_fake("gridencoder::grid_input_gradient")
    def _(gradient, inputs, embeddings, direction, offsets, resolutions, hashed, align_corners, smoothstep, active):
        return torch.empty_like(inputs, memory_format=torch.contiguous_format)

    @torch.library.register_fake("gridencoder::grid_total_variation_gradient_")
    def _(gradient, inputs, embeddings, weight, offsets, resolutions, hashed):
        return None

    @torch.library.register_fake("gridencoder::grid_weight_decay_gradient_")
    def _(gradient, embeddings, weight, offsets):
        return None

    def save_encode(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.layout = inputs[3:]

    def encode_backward(ctx, gradient):
        x, e, v = ctx.saved_tensors
        need_x, need_e, need_v = ctx.needs_input_grad[:3]
        return (
            ops.grid_input_gradient(gradient, x, e, v, *ctx.layout) if need_x else None,
            ops.grid_embedding_gradient(gradient, x, v, *ctx.layout).to(e.dtype) if need_e else None,
            ops.grid_input_gradient(gradient, x, e, None, *ctx.layout) if need_v else None,
            *LAYOUT,
        )

    def embedding_gradient_backward(ctx, cotangent):
        gradient, x, v = ctx.saved_tensors
        need_gradient, need_x, need_v = ctx.needs_input_grad[:3]
        return (
            ops.grid_encode(x, cotangent, v, *ctx.layout) if need_gradient else None,
            ops.grid_input_gradient(gradient, x, cotangent, v, *ctx.layout) if need_x else None,
            ops.grid_input_gradient(gradient, x, cotangent, None, *ctx.layout) if need_v else None,
            *LAYOUT,
        )

    def save_input_gradient(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:3])
        ctx.second_order = inputs[3] is not None
        ctx.layout = inputs[4:]

    def input_gradient_backward(ctx, cotangent):
        if ctx.second_order:
            raise RuntimeError(
                "grid_encode has two derivatives, a third was asked for: extension.set_mode('torch') has them all"
            )
        gradient, x, e = ctx.saved_tensors
        need_gradient, need_x, need_e = ctx.needs_input_grad[:3]
        return (
            ops.grid_encode(x, e, cotangent, *ctx.layout) if need_gradient else None,
            ops.grid_input_gradient(gradient, x, e, cotangent, *ctx.layout) if need_x else None,
            ops.grid_embedding_gradient(gradient, x, cotangent, *ctx.layout).to(e.dtype) if need_e else None,
            None,
            *LAYOUT,
        )

    torch.library.register_autograd("gridencoder::grid_encode", encode_backward, setup_context=save_encode)
    torch.library.register_autograd(
        "gridencoder::grid_embedding_gradient", embedding_gradient_backward, setup_context=save_encode
    )
    torch.library.register_autograd(
        "gridencoder::grid_input_gradient", input_gradient_backward, setup_context=save_input_gradient
    )
