"""Descriptions of targets: how a device is reached and what is promised there."""
