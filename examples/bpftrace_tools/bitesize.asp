// bpftrace's bitesize.bt: sizes of block I/O as a histogram for each process name.
//
// Does not differ: the name is that of the task which hands the request to the driver, in both often a worker of the kernel's.
aspect bitesize {
    hist sizes[comm];
    before(unsigned int bytes): event(block:block_rq_issue) { sizes[comm].add(bytes); }
}
