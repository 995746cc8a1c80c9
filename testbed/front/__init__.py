"""The front door: what ``import testbed`` offers to scripts and notebooks. See docs/python.md."""
