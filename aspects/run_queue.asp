// How long tasks that could run waited for a processor, by process.
//
//     klasy weave run_queue.asp; sleep 10; klasy stat run_queue
//
// The clock starts when a task is woken, created, or loses its processor while it still wants it, and stops when it runs. A wait
// of many milliseconds means more work than processors, or tasks bound to few of them.
//
//     run_queue.waited_us, hist by comm
//       make
//         [4, 8)      |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|    812
//         [8, 16)     |@@@@@@@@                        |    203
aspect run_queue {
    u64 since[u32];
    hist waited_us[next->comm];
    max longest_us[next->comm];

    before(struct task_struct *p): event(sched:sched_wakeup) || event(sched:sched_wakeup_new) {
        since[p->pid] = now;
    }
    // A task that is preempted on its way to sleep still wants the processor.
    before(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state): event(sched:sched_switch) {
        if (prev->pid && (preempt || prev_state == 0)) since[prev->pid] = now;
        if (next->pid && since[next->pid]) {
            u64 us = (now - since[next->pid]) / 1000;
            waited_us[next->comm].add(us);
            longest_us[next->comm].add(us);
            delete since[next->pid];
        }
    }
}
