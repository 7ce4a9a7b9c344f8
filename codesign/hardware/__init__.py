"""What a device is (profiles) and how it is reached (targets)."""
