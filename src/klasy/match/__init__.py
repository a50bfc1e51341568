"""Pointcuts against a kernel: which join point shadows they select, and the plan of how to reach them. Emits no bytes."""
