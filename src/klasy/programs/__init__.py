"""Files of user programs: the functions in them, and what their debug information tells. No kernel, no BPF."""
