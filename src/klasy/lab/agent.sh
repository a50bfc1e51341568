# The lab's agent: init.sh opens its ports, and then it is PID 1 and runs one command after another for the host.
#
# Virtio-serial ports, by name: klasy.ctl (requests and answers, lines of text), klasy.kill (a signal's name a line, for
# the running command), klasy.in, klasy.out, klasy.err (the command's streams, raw bytes).
#
#   guest: loaded                        once, and the host answers TIME 9p OPTIONS MODULES, or TIME tar
#   guest: ready                         once
#   host:  run MARK SIZE null|port       and SIZE bytes: the shell script to run
#   guest: exit MARK STATUS              when the command ended; a shell's status, 128+N for signal N
#
# The command's output passes through a FIFO of which the agent holds the writing end too: when the command has ended, the
# agent writes MARK into it, behind everything the command wrote, so the host knows when it has all; and a process that
# the command left behind cannot hold the host up.

here=/run/klasy
export PATH=$here/applets

port() {
    for name in /sys/class/virtio-ports/*/name; do
        read -r found < "$name"
        [ "$found" = "$1" ] && { name=${name%/name}; echo "/dev/${name##*/}"; return; }
    done
    echo "klasy-lab: agent: no port $1" >&2
}

# Descriptors that serve inherits: 3 klasy.ctl, 4 and 5 the writing ends of the FIFOs. A port can be opened only once.
open_ports() {
    mkfifo $here/out $here/err $here/in
    exec 3<> "$(port klasy.ctl)" 4<> $here/out 5<> $here/err
    cat $here/out > "$(port klasy.out)" 3>&- 4>&- 5>&- &
    cat $here/err > "$(port klasy.err)" 3>&- 4>&- 5>&- &
}

kill_on_request() {
    while read -r signal; do
        kill -s "$signal" -- "-$(cat $here/pid)"
    done
}

serve() {
    kill_on_request < "$(port klasy.kill)" 3>&- 4>&- 5>&- &
    echo ready >&3
    while read -r verb mark size input <&3; do
        [ "$verb" = run ] || { echo "klasy-lab: agent: unknown request $verb"; continue; }
        dd bs="$size" count=1 iflag=fullblock of=$here/script <&3 2> /dev/null
        source=/dev/null
        if [ "$input" = port ]; then
            source=$here/in
            # The host's first line says that it is connected: a port without a host reads as ended.
            { read -r _ && exec cat > $here/in; } < "$(port klasy.in)" 3>&- 4>&- 5>&- &
        fi
        # Not in the background: a shell has what it puts there ignore SIGINT and SIGQUIT, and all that is begun by it.
        (
            read -r own _ < /proc/self/stat
            echo "$own" > $here/pid
            exec setsid /bin/sh $here/script
        ) < $source >&4 2>&5 3>&- 4>&- 5>&-
        status=$?
        printf %s "$mark" >&4
        printf %s "$mark" >&5
        echo "exit $mark $status" >&3
    done
    reboot -f # the host is gone: so are we
}
