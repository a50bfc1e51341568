// Every program that is started and every process that ends: what, by whom, with what outcome and after how long.
//
//     klasy weave -f execs.asp
//
//     exec  bash[812] uid 0 runs /usr/bin/ls
//     exit  ls[812] uid 0: code 2 after 4.151 ms
aspect execs {
    u64 since[pid];                                     // of a process that began before the weave: nothing

    before(struct linux_binprm *bprm): execution(begin_new_exec(struct linux_binprm *bprm)) {
        since[pid] = now;
        log("exec  %s[%u] uid %u runs %s", comm, pid, uid, str(bprm->filename));
    }
    before(long code): execution(void do_exit(long code)) && if(tid == pid) {
        u64 us = since[pid] ? (now - since[pid]) / 1000 : 0;
        if (code & 0x7f)
            log("exit  %s[%u] uid %u: signal %u after %llu.%03llu ms", comm, pid, uid, code & 0x7f, us / 1000, us % 1000);
        else
            log("exit  %s[%u] uid %u: code %u after %llu.%03llu ms", comm, pid, uid, code >> 8 & 255, us / 1000, us % 1000);
        delete since[pid];
    }
}
