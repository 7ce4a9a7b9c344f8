"""The HTML page and the JSON file that a run ends with."""
