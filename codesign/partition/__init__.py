"""Spreading a network over processors: placements, their costs, the planner and the execution of its plans."""
