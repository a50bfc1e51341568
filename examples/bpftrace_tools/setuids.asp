// bpftrace's setuids.bt: changes of user ids by setuid(2), setfsuid(2) and setresuid(2).
//
// Differs: advice after a system call has its arguments; only the user id is kept from before, as the call may change it.
aspect setuids {
    pointcut one(uid_t uid): syscall(setuid);
    pointcut fs(uid_t uid): syscall(setfsuid);
    u32 was[tid];

    before(): syscall(setuid) || syscall(setfsuid) || syscall(setresuid) { was[tid] = uid; }
    after(uid_t to) returning (long result): one(to) {
        log("%-6d %-16s %-6d setuid    uid=%d (%d)", pid, comm, was[tid], to, result);
        delete was[tid];
    }
    after(uid_t to) returning (long result): fs(to) {
        log("%-6d %-16s %-6d setfsuid  uid=%d (prevuid=%d)", pid, comm, was[tid], to, result);
        delete was[tid];
    }
    after(uid_t ruid, uid_t euid, uid_t suid) returning (long result): syscall(setresuid) {
        log("%-6d %-16s %-6d setresuid ruid=%d euid=%d suid=%d (%d)", pid, comm, was[tid], ruid, euid, suid, result);
        delete was[tid];
    }
}
