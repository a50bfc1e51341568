// bpftrace's opensnoop.bt: files that are opened: by whom, which, with what outcome.
//
// Differs: advice after a system call has its arguments. Both read the name in the program's memory when the call returns.
aspect opensnoop {
    after(const char *filename) returning (long result): syscall(open) || syscall(openat) {
        log("%-6d %-16s %4d %3d %s", pid, comm, result >= 0 ? result : -1, result >= 0 ? 0 : -result, str(filename));
    }
}
