"""The format of DWARF debug information (4 and 5, 32-bit, x86-64), as far as klasy asks. It knows nothing of kernels.

pyelftools, which reads the files of user programs, makes an object of all that it comes by: with the 170 MB of a kernel
that takes minutes. Here a unit is found and read in a twentieth of a second. Tests hold the one against the other.
"""
