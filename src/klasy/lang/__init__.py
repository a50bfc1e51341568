"""From the text of an aspect to its resolved tree. Knows no kernel and no BPF; lark stays in here."""
