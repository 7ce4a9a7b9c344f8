"""Data, training and evaluation."""
