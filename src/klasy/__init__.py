"""klasy: an aspect-oriented logger for the running Linux kernel."""
