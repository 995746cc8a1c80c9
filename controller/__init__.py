"""Decisions: policies, the system model and its solvers. Pure - never imports ``testbed``; I/O lives in ``service``."""
