// Which locks of the kernel tasks had to wait for, how often and how long, by process and by the code that wanted the lock.
//
//     klasy weave lock_waits.asp; sleep 10; klasy stat lock_waits
//
// Sees mutexes, semaphores, reader-writer locks and spin locks on their slow path alone: a lock that is free costs nothing here
// and is not counted.
//
//     lock_waits.waited_us, hist by comm
//       tar
//         [64, 128)     |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|     41
aspect lock_waits {
    u64 began[u64, void *];
    count waits[comm, void *];
    hist waited_us[comm];

    // Who waits: a task, or in the interrupts of an idle processor (all of them are thread 0) that processor.
    u64 waiter() { return tid ? tid : (1ul << 32) + cpu; }

    // A mutex (flag 32) says that it begins to wait each time that it goes over from spinning to sleeping, or back: it is one wait.
    before(void *lock, unsigned int flags): event(lock:contention_begin) {
        if (!(flags & 32) || !began[waiter(), lock]) {
            began[waiter(), lock] = now;
            waits[comm, lock]++;
        }
    }
    before(void *lock, int ret): event(lock:contention_end) {
        if (began[waiter(), lock]) {
            waited_us[comm].add((now - began[waiter(), lock]) / 1000);
            delete began[waiter(), lock];
        }
    }
}
