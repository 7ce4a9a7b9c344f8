"""Curvature of a loss in the weights of layers: torch maths that knows no graph."""
