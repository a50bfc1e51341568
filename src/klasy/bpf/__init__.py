"""eBPF the machine: instructions, assembler, interpreter, system calls, live objects. Knows nothing of aspects."""
