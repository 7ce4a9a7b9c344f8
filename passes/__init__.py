"""The passes that codesign ships, one a file; imported as `codesign.passes`."""

if __name__ != "codesign.passes":
    raise ImportError(f"import codesign.passes, not {__name__!r}: this folder is part of the package codesign")
