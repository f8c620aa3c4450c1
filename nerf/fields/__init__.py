"""Fields: density and albedo at a point. A renderer has one."""

from nerf.fields.background import BackgroundNetwork
from nerf.fields.base import Field
from nerf.fields.hashgrid import HashGridField
from nerf.fields.tcnn import TcnnField
from nerf.fields.vanilla import VanillaField

__all__ = ["BackgroundNetwork", "Field", "HashGridField", "TcnnField", "VanillaField"]
