// Connections that programs ask for: to which address, and what came of it, of Internet and of local (Unix) sockets.
//
//     klasy weave -f connects.asp
//
// A socket that does not wait gives -115 (EINPROGRESS) at once, whatever comes of it later; tcp_life tells how connections end. `klasy
// stat connects` counts the attempts that failed by the program and the errno.
//
//     curl[812] to 203.0.113.7:443 = -115, in 41 us
//     curl[812] to /run/systemd/resolve/io.systemd.Resolve = -2, in 12 us
aspect connects {
    count failed[comm, int];
    u64 began[tid];

    pointcut connecting(struct sockaddr *uservaddr): syscall(connect);

    before(): connecting(*) { began[tid] = now; }

    after(struct sockaddr *to) returning (long result): connecting(to) {
        u64 took = began[tid] ? (now - began[tid]) / 1000 : 0;
        delete began[tid];
        if (result < 0) failed[comm, -result]++;
        if (to->sa_family == 2) {  // AF_INET
            struct sockaddr_in *inet = (struct sockaddr_in *)to;
            log("%s[%u] to %s:%u = %d, in %u us", comm, pid, ip4(inet->sin_addr), ntohs(inet->sin_port), result, took);
        } else if (to->sa_family == 10) {  // AF_INET6
            struct sockaddr_in6 *inet6 = (struct sockaddr_in6 *)to;
            log("%s[%u] to [%s]:%u = %d, in %u us", comm, pid, ip6(&inet6->sin6_addr), ntohs(inet6->sin6_port), result, took);
        } else if (to->sa_family == 1) {  // AF_UNIX
            struct sockaddr_un *local = (struct sockaddr_un *)to;
            if (local->sun_path[0]) log("%s[%u] to %s = %d, in %u us", comm, pid, str(local->sun_path), result, took);
            else log("%s[%u] to @%s = %d, in %u us", comm, pid, str(&local->sun_path[1]), result, took);
        }
    }
}
