"""Choosing a plan: exact integer programme, Pareto sweep, local search on measured values."""
