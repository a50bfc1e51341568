"""Pointcuts against a kernel: the join point shadows they select, and the plan of how to reach them. Emits no bytes."""
