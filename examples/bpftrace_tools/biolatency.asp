// bpftrace's biolatency.bt: how long block I/O takes, as a histogram of microseconds.
//
// Differs: that tool probes functions of the kernel's accounting, of which the compiler has put one in place of its calls in
// Debian's 6.1: it finds nothing there. Here the kernel's own events are used: from the moment a request is queued, or handed to the
// driver where it is not queued, until it is done. As many requests, but the time is taken at other places.
aspect biolatency {
    u64 start[struct request *];
    hist usecs;

    before(struct request *rq): event(block:block_rq_insert) || event(block:block_rq_issue) {
        if (!start[rq]) start[rq] = now;
    }
    before(struct request *rq): event(block:block_rq_complete) {
        if (start[rq]) { usecs.add((now - start[rq]) / 1000); delete start[rq]; }
    }
}
