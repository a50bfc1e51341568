"""BTF, the kernel's compact type format: reading, writing, walking. The format alone."""
