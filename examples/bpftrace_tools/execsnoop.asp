// bpftrace's execsnoop.bt: programs that are started with their arguments, failed attempts among them.
//
// Differs: that tool shows all words in a line. Here each has its own, with its number. The ready aspect execs shows the ends of
// processes, too.
aspect execsnoop {
    before(const char *const *argv): syscall(execve) {
        for (int i = 0; i < 16 && argv[i] != 0; i++) log("%-5d %d %s", pid, i, argv[i]);
    }
}
