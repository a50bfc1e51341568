// bpftrace's writeback.bt: how long the kernel's background writing takes, and why it is done.
//
// Differs: the reason is the kernel's number, and that tool's table of names is left out (enum wb_reason has other names than
// it, and lacks some of them).
aspect writeback {
    u64 start[dev_t];

    before(dev_t sb_dev): event(writeback:writeback_start) { start[sb_dev] = now; }
    before(char *name, dev_t sb_dev, long nr_pages, int reason): event(writeback:writeback_written) {
        u64 us = start[sb_dev] ? (now - start[sb_dev]) / 1000 : 0;
        log("%-8s %-8d %-16d %d.%03d", name, nr_pages & 0xffff, reason, us / 1000, us % 1000);
        delete start[sb_dev];
    }
}
