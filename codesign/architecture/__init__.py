"""Network families that codesign ships."""
