"""Renderers: cameras and a field -> pictures."""

from nerf.renderers.base import Renderer
from nerf.renderers.raymarch import RaymarchRenderer
from nerf.renderers.stratified import StratifiedRenderer

__all__ = ["RaymarchRenderer", "Renderer", "StratifiedRenderer"]
