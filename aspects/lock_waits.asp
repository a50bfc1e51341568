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

    // A spinning processor is known by its number, a sleeping task by its own.
    before(void *lock, unsigned int flags): event(lock:contention_begin) {
        began[tid, lock] = now;
        waits[comm, lock]++;
    }
    before(void *lock, int ret): event(lock:contention_end) {
        if (began[tid, lock]) {
            waited_us[comm].add((now - began[tid, lock]) / 1000);
            delete began[tid, lock];
        }
    }
}
