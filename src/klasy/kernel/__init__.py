"""Facts about a kernel, read-only: symbols, types, live text, what can be probed."""
