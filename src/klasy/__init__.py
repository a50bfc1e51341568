"""klasy: an aspect-oriented logger for the running Linux kernel."""

__version__ = "0.1.0"
