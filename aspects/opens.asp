// System calls with their strings: every file that programs open, with the flags and what came of it.
//
//     klasy weave -f opens.asp
//
//     cat[812] openat(-100, /etc/hosts, 0x0) = 3
//     cat[812] openat(-100, /etc/nothere, 0x0) = -2
aspect opens {
    count failed[comm];

    after(int dfd, const char *filename, int flags) returning (long result): syscall(openat) {
        log("%s[%u] openat(%d, %s, %#x) = %d", comm, pid, dfd, filename, flags, result);
        if (result < 0) failed[comm]++;
    }
}
