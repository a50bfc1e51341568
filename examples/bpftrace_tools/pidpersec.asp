// bpftrace's pidpersec.bt: new processes and threads.
//
// Differs: that tool prints and clears its count each second. klasy has no timer; `klasy stat -f pidpersec` shows each second how
// many there have been.
aspect pidpersec {
    count forks;
    before(): event(sched:sched_process_fork) { forks++; }
}
