"""The throw-away virtual machine in which everything is woven and tested."""
