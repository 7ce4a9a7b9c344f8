"""Measures a device's kernels and fits a cost model to them."""
