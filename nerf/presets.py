"""Presets replace defaults of nerf/config.py; later ones win over earlier ones, the command line over all."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "O": dict(fp16=True, cuda_ray=True),
    "O2": dict(fp16=True, cuda_ray=False, backbone="vanilla", progressive_level=True),
    "IF": dict(guidance=("IF",), latent_iter_ratio=0.0),
    "taichi_ray": dict(cuda_ray=True),
    # The small objects of toybox/shapes/ on two cores; scripts/evaluate.py measures what a change is worth.
    "toybox": dict(
        iters=600,
        batch_size=2,
        optim="adam",
        lr=4e-3,
        lr_decay=0.1,  # the last steps settle what the first have found
        distill_space="pixels",  # smoother surfaces than through the latents
        lambda_guidance=0.3,  # with 1, edges are mist: entropy and opacity are weak beside it
        guidance_scale=8.0,
        guidance_anneal=2.0,  # strong guidance finds the shape, weak guidance the true colours
        t_schedule="anneal",  # small noise comes last: it draws what is small, eyes first of all
        latent_iter_ratio=0.0,
        albedo_iter_ratio=1.0,
        background="grey_or_color",
        bg_radius=-1.0,
        num_levels=8,
        log2_hashmap_size=15,
        base_resolution=8,
        desired_resolution=96,
        blob_radius=0.4,  # as large as the objects: from a smaller start a house stays a lump in the colour of its roof
        hidden_dim=32,
        max_steps=128,
        occupancy_resolution=64,
        # No wider than the cameras of the prior's pictures (toybox/pictures.py), which would give objects another size.
        radius_range=(3.1, 3.3),
        fovy_range=(18.0, 21.0),
        angle_front=90.0,
        normal_step=0.03,  # a cell and a half of this coarse grid, whose normals show its cells otherwise
        lambda_opacity=10.0,
        lambda_entropy=50.0,  # sharp edges and a closed surface: with a weight of 1 both are mist
        video_size=160,
        save_mesh=True,
        mcubes_resolution=128,
        decimate_target=20000,
    ),
}
