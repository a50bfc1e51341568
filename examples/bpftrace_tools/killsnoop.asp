// bpftrace's killsnoop.bt: signals sent by kill(2): by whom, which, to whom, and what came of it.
//
// Differs: advice after a system call has its arguments, so nothing is to be kept from its beginning. The pointcut's name for
// the receiver, `pid`, is the kernel's; the advice calls it `to`, as `pid` is the sender there.
aspect killsnoop {
    pointcut kill(pid_t pid, int sig): syscall(kill);
    after(pid_t to, int sig) returning (long result): kill(to, sig) {
        log("%-6d %-16s %-4d %-6d %d", pid, comm, sig, to, result);
    }
}
