"""From artifacts to a running weave: load, attach, pin, and the way back."""
