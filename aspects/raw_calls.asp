// System calls that a program makes by itself, without the function of the C library that normally makes them: what tools that watch
// the library do not see. It correlates the library's functions with the system calls of the same task, and warns of each that stands alone.
//
//     klasy weave -f raw_calls.asp
//
//     warning: hidden[812] without the C library: connect(3, 0x7ffd0d0e1a40, 16) = -1 ECONNREFUSED (Connection refused)
//
// It asks of calls that do harm if they are not seen. Programs that have a C library of their own (static ones, those of Go, those in a
// container) are warned of, rightly: of those too nothing is seen by who watches this one. So is a thread that is in such a function when the
// aspect is woven. The dynamic loader makes no such calls.
aspect raw_calls {
    count warnings[comm];

    after(): syscall(connect) && !cflow(user("libc.so.6": execution(connect))) {
        log("warning: %s[%u] without the C library: %s", comm, pid, joinpoint);
        warnings[comm]++;
    }
    after(): syscall(unlink*) && !cflow(user("libc.so.6": execution(unlink*))) {
        log("warning: %s[%u] without the C library: %s", comm, pid, joinpoint);
        warnings[comm]++;
    }
    after(): syscall(kill) && !cflow(user("libc.so.6": execution(kill))) {
        log("warning: %s[%u] without the C library: %s", comm, pid, joinpoint);
        warnings[comm]++;
    }
}
