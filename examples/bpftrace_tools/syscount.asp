// bpftrace's syscount.bt: system calls, by number and by process name.
//
// Differs: that tool shows the ten largest of each at its end; here it is `klasy stat --top 10 syscount`, at any time.
aspect syscount {
    count by_number[long];
    count by_process[comm];
    before(long id): event(raw_syscalls:sys_enter) { by_number[id]++; by_process[comm]++; }
}
