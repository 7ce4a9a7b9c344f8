"""What a pass is, and what runs passes in order and holds each to its declaration."""
