// bpftrace's biolatency.bt: how long block I/O takes, as a histogram of microseconds.
//
// Differs: that tool counts on two functions of the kernel, one of which the compiler has put in place of its calls in 6.1: it
// finds nothing there. Here the kernel's own events are used: from the moment a request is queued, or handed to the
// driver where it is not queued, until it is done.
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
