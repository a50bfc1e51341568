// bpftrace's dcsnoop.bt: lookups in the cache of directory entries: R for one of a name, M for one that was not there at first.
//
// Differs: that tool keeps the name from d_lookup's entry to its return; advice after an execution has the arguments itself.
aspect dcsnoop {
    before(struct nameidata *nd): execution(lookup_fast(struct nameidata *nd)) {
        log("%-6d %-16s R %s", pid, comm, str(nd->last.name));
    }
    after(struct qstr *name): execution(d_lookup(*, struct qstr *name)) {
        log("%-6d %-16s M %s", pid, comm, str(name->name));
    }
}
