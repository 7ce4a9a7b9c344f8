"""The flow: load -> lower -> annotate -> search -> apply -> compile -> measure -> report."""
