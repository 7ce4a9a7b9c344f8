"""Exact optimisation of sums over discrete choices: one option a group, with prices of groups and of pairs."""
