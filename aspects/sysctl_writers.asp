// Who changes a sysctl: every write to a file under /proc/sys, by whom, and what came of it.
//
//     klasy weave -f sysctl_writers.asp
//
// Logged is the attempt with its result, which is a number of bytes, or the negative number of an error. What a variable
// held before and after is seen at the variable itself: see ttl_writers.
//
//     sysctl[731] uid 0: net/ipv4/ip_default_ttl, result 3
aspect sysctl_writers {
    struct dentry *file[tid];

    before(struct kiocb *iocb, int write): execution(proc_sys_call_handler(struct kiocb *iocb, *, int write)) && if(write) {
        file[tid] = iocb->ki_filp->f_path.dentry;
    }
    after(int write) returning (ssize_t result): execution(ssize_t proc_sys_call_handler(*, *, int write)) && if(write) {
        if (file[tid]) {
            struct dentry *d = file[tid];
            log("%s[%u] uid %u: %s/%s/%s, result %lld", comm, pid, uid, str(d->d_parent->d_parent->d_name.name),
                str(d->d_parent->d_name.name), str(d->d_name.name), result);
        }
        delete file[tid];
    }
}
