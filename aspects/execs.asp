// Every program that is started and every process that ends: what, by whom, with what outcome and after how long.
//
//     klasy weave -f execs.asp
//
// A process ends with the last of its threads, and its outcome is what its parent is told. The time is that of its last program, or
// where that began before the weave, or it never started one, of the process since its fork.
//
//     exec  bash[812] uid 0 runs /usr/bin/ls
//     exit  ls[812] uid 0: code 2 after 4.151 ms
//     exit  worker[815] uid 33: signal 11, core dumped, after 90.870 ms
aspect execs {
    u64 since[pid];

    before(struct linux_binprm *bprm): execution(begin_new_exec(struct linux_binprm *bprm)) {
        since[pid] = now;
        log("exec  %s[%u] uid %u runs %s", comm, pid, uid, str(bprm->filename));
    }
    before(struct task_struct *last, int group_dead):
            execution(taskstats_exit(struct task_struct *last, int group_dead)) && if(group_dead) {
        struct task_struct *process = last->group_leader;
        u64 us = (now - (since[pid] ? since[pid] : process->start_time)) / 1000;
        u32 code = last->signal->flags & 4 ? last->signal->group_exit_code : process->exit_code;    // 4: SIGNAL_GROUP_EXIT
        if (!(code & 0x7f))
            log("exit  %s[%u] uid %u: code %u after %llu.%03llu ms", process->comm, pid, uid, code >> 8 & 255, us / 1000, us % 1000);
        else if (code & 0x80)
            log("exit  %s[%u] uid %u: signal %u, core dumped, after %llu.%03llu ms", process->comm, pid, uid, code & 0x7f, us / 1000, us % 1000);
        else
            log("exit  %s[%u] uid %u: signal %u after %llu.%03llu ms", process->comm, pid, uid, code & 0x7f, us / 1000, us % 1000);
        delete since[pid];
    }
}
