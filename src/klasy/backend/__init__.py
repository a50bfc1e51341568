"""From IR to what the kernel loads. Pure."""
