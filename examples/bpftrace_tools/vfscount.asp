// bpftrace's vfscount.bt: calls of the kernel's file functions, vfs_*, by name.
//
// Differs: klasy counts the hits of each join point by itself, so nothing is to be said: `klasy joinpoints vfscount`.
aspect vfscount {
    before(): execution(vfs_*) { }
}
