"""From a plan and its advice to checked IR. Pure: no system calls, no BPF."""
