"""Compilers and runners behind one interface."""
