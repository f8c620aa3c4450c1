"""Score distillation from diffusion models: knows pictures, view angles and text; never rays, fields or meshes.

Letters in shapes: B views, H W pixels, C channels, h w latent pixels, L tokens, D embedding channels,
K negatives, T training timesteps. Channels come first. Nothing is imported here, so that
`guidance.weights` answers without loading torch.
"""
