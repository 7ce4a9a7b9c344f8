"""Conformance suites for those who write their own passes, cost models and runners."""
