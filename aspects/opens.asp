// System calls as a whole: every file that programs open, with the flags and what came of it.
//
//     klasy weave -f opens.asp
//
//     openat(AT_FDCWD, "/etc/hosts", O_RDONLY|O_CLOEXEC) = 3
//     openat(AT_FDCWD, "/etc/nothere", O_RDONLY) = -1 ENOENT (No such file or directory)
//     open("/etc/hosts", O_RDONLY) = 3
aspect opens {
    count failed[comm];

    after() returning (long result): syscall(openat) || syscall(openat2) || syscall(open) || syscall(creat) {
        log(joinpoint);
        if (result < 0) failed[comm]++;
    }
}
