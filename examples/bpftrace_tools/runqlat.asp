// bpftrace's runqlat.bt: how long tasks that could run waited for a processor, as a histogram of microseconds.
//
// Differs: that tool keeps a slot for the idle tasks too (their pid is 0, which several processors share), so it counts as
// waits, too, when a processor had something to do; here they are left out.
aspect runqlat {
    u64 qtime[u32];
    hist usecs;

    before(struct task_struct *p): event(sched:sched_wakeup) || event(sched:sched_wakeup_new) { qtime[p->pid] = now; }
    before(struct task_struct *prev, struct task_struct *next): event(sched:sched_switch) {
        if (prev->pid && prev->__state == TASK_RUNNING) qtime[prev->pid] = now;
        if (qtime[next->pid]) { usecs.add((now - qtime[next->pid]) / 1000); delete qtime[next->pid]; }
    }
}
