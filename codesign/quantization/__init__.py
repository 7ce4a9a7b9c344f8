"""Uniform quantisers, activation ranges, and writing a choice of bit widths as QDQ nodes."""
