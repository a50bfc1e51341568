// bpftrace's capable.bt: checks of capabilities, by whom and for which.
//
// Differs: that tool brings a table of names; they are macros, which the kernel's type information has not, so here it is the
// number (capability.h).
aspect capable {
    before(int cap, unsigned int opts): execution(cap_capable(*, *, int cap, unsigned int opts)) {
        log("%-6d %-6d %-16s %-4d %d", uid, pid, comm, cap, opts);
    }
}
