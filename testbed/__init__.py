"""An emulated testbed for split (device-edge) DNN inference."""

__version__ = "0.1.0"
