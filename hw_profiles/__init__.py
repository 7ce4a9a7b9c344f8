"""Hardware profiles: what a device is, every number with its source."""
