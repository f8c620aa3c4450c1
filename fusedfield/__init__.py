"""A hash-grid field in one operator: encoding, MLP, density blob and activations, forward and backward."""

from fusedfield.dispatch import serves
from fusedfield.field import field_query, field_query_rays

__all__ = ["field_query", "field_query_rays", "serves"]
