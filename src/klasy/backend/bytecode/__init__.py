"""From IR to BPF instructions: selection, registers, stack frame, peephole. Knows no kernel but through the plan."""
