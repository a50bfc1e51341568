// bpftrace's statsnoop.bt: stat calls: by whom, of which path, with what outcome.
//
// Differs: advice after a system call has its arguments, so nothing is kept. Calls have the names of the manual pages, `stat`
// where the tracepoint says newstat. Like that tool it leaves out newfstatat(2), which today's C library prefers: it can be added.
aspect statsnoop {
    after(const char *pathname) returning (long result): syscall(statfs) {
        log("%-6d %-16s %3d %s", pid, comm, result >= 0 ? 0 : -result, str(pathname));
    }
    after(const char *filename) returning (long result): syscall(statx) || syscall(stat) || syscall(lstat) {
        log("%-6d %-16s %3d %s", pid, comm, result >= 0 ? 0 : -result, str(filename));
    }
}
