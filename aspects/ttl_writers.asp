// Who changes a variable of the kernel, from what to what: here the default TTL of the IPv4 packets this machine sends.
//
//     klasy weave -f ttl_writers.asp
//
// A debug register watches the variable itself: it sees every write to it, from whatever code, and costs nothing until there is
// one. Put the variable you care for into the pointcut (`klasy search 'NAME'` finds it).
//
//     sysctl[731] set the TTL from 64 to 33, in proc_dou8vec_minmax
aspect ttl_writers {
    before(): set(init_net.ipv4.sysctl_ip_default_ttl) && if(new != old) {
        log("%s[%u] set the TTL from %u to %u, in %s", comm, pid, old, new, joinpoint.function);
    }
}
