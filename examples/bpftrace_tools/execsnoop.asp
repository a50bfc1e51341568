// bpftrace's execsnoop.bt: programs that are started, failed attempts among them.
//
// Differs: that tool shows the arguments. Here it is the file's name: klasy cannot follow a pointer in a program's memory (argv) from
// advice in the kernel yet. The ready aspect execs shows the ends of processes, too.
aspect execsnoop {
    before(const char *filename): syscall(execve) { log("%-5d %s", pid, str(filename)); }
}
