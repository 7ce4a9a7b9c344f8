"""What a decision must know (facts) and what was decided (plan)."""
