// bpftrace's bashreadline.bt: every line that is typed into a bash, system-wide.
//
// Differs: the time is in the log by itself, and the process's name is, too.
aspect bashreadline {
    after() returning (char *line): user("/bin/bash": execution("char *readline(char *prompt)")) {
        log("%-6d %s", pid, line);
    }
}
