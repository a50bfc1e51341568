// bpftrace's gethostlatency.bt: how long looking up a host's name takes, and which.
//
// Differs: in user programs, as in the kernel, advice after an execution has the arguments: only the start is kept.
aspect gethostlatency {
    pointcut lookup(char *name):
        user("libc.so.6": execution("int getaddrinfo(char *name, ..)"))
        || user("libc.so.6": execution("void *gethostbyname(char *name)"))
        || user("libc.so.6": execution("void *gethostbyname2(char *name, int family)"));
    u64 start[tid];

    before(char *name): lookup(name) { start[tid] = now; }
    after(char *name): lookup(name) {
        if (start[tid]) { log("%-6d %-16s %6d %s", pid, comm, (now - start[tid]) / NSEC_PER_MSEC, str(name)); delete start[tid]; }
    }
}
