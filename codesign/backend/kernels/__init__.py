"""Schedule templates for TVM, one kind of kernel a file."""
