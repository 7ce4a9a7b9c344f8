"""Finds faster loops for kernels by measurement, and remembers them."""
