"""Settings of every test."""

import os

# Tests run in several processes at once: one thread each, and threads that wait must not spin. Read when torch starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
