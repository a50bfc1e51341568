"""Passes over the IR: one a file, each a function that changes a program in place. ``pipeline`` has their order."""
