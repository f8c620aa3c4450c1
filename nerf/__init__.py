"""Fields, renderers, losses, the trainer and its results."""
