"""What a plan costs on a device, by formula."""
