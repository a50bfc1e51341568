// bpftrace's syncsnoop.bt: who has data written to disks.
//
// Differs: the call is named by its own name (fsync), not by its tracepoint (tracepoint:syscalls:sys_enter_fsync).
aspect syncsnoop {
    before(): syscall(sync) || syscall(syncfs) || syscall(fsync) || syscall(fdatasync) || syscall(sync_file_range) || syscall(msync) {
        log("%-6d %-16s %s", pid, comm, joinpoint.function);
    }
}
