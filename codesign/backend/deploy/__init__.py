"""Sources that go into an artefact or are built for an emulator: runners in Python and C++, a plugin for qemu."""
