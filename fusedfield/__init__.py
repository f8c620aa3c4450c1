"""A hash-grid field in one operator: encoding, MLP, density blob and activations, forward and backward."""

from fusedfield.field import field_query, serves

__all__ = ["field_query", "serves"]
