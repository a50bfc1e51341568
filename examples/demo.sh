#!/bin/bash
# The main job, for real: weave an aspect into a running kernel, make traffic, see what it logged, take it out again.
# Runs as root in the lab's guest: `make demo`, or `klasy lab -- bash examples/demo.sh`.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

say "the kernel: $(uname -r)"
run cat examples/log_dequeue.asp

say "weave it into the running kernel"
run klasy weave examples/log_dequeue.asp

say "make network traffic"
run python3 examples/traffic.py

say "where it is woven, and how often each join point was passed"
run klasy joinpoints log_dequeue

say "what it logged"
run klasy log log_dequeue

say "what is woven"
run klasy status

say "unweave"
run klasy unweave log_dequeue

say "nothing is left"
left=0
empty() { # TITLE COMMAND..: the command must print nothing
    printf '%-44s' "$1"
    shift
    local output
    output=$("$@" 2>/dev/null || true)
    if [ -n "$output" ]; then printf 'LEFT:\n%s\n' "$output"; left=1; else echo none; fi
}
empty "aspects under /sys/fs/bpf/klasy" find /sys/fs/bpf/klasy -mindepth 1
empty "BPF links (bpftool link)" bpftool link list
empty "BPF programs of klasy (bpftool prog)" sh -c 'bpftool prog list | grep -i klasy'
empty "kprobes (/sys/kernel/debug/kprobes/list)" cat /sys/kernel/debug/kprobes/list
empty "probe events (tracefs kprobe_events)" cat /sys/kernel/tracing/kprobe_events
exit $left
