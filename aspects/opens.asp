// System calls with their strings: every file that programs open, with the flags and what came of it.
//
//     klasy weave -f opens.asp
//
//     cat[812] openat(-100, /etc/hosts, 0x0) = 3
//     cat[812] openat(-100, /etc/nothere, 0x0) = -2
//     old[813] open(/etc/hosts, 0x0) = 3
aspect opens {
    count failed[comm];

    after(int dfd, const char *filename, int flags) returning (long result): syscall(openat) {
        log("%s[%u] openat(%d, %s, %#x) = %d", comm, pid, dfd, filename, flags, result);
        if (result < 0) failed[comm]++;
    }

    after(int dfd, const char *filename, struct open_how *how) returning (long result): syscall(openat2) {
        log("%s[%u] openat2(%d, %s, %#x) = %d", comm, pid, dfd, filename, how->flags, result);
        if (result < 0) failed[comm]++;
    }

    after(const char *filename, int flags) returning (long result): syscall(open) {
        log("%s[%u] open(%s, %#x) = %d", comm, pid, filename, flags, result);
        if (result < 0) failed[comm]++;
    }

    after(const char *pathname) returning (long result): syscall(creat) {
        log("%s[%u] creat(%s) = %d", comm, pid, pathname, result);
        if (result < 0) failed[comm]++;
    }
}
