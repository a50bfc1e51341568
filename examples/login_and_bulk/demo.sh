#!/bin/sh
# An interactive session and a bulk transfer over one slow link: where do the session's packets wait? Through a queue that serves
# who came first, one that serves each flow in turn, and one that lets the session go first. As root, for example:
#     klasy lab -- sh examples/login_and_bulk/demo.sh
# With arguments: for how many seconds each (5), where to leave the logs and picture.svg (nowhere). output.txt is what it printed once.
set -e
cd "$(dirname "$0")"
seconds=${1:-5}
out=${2:-$(mktemp -d)}
mkdir -p "$out"
modprobe veth
for discipline in fifo fair prio; do
    klasy weave --quiet --buffer 16M path.asp
    python3 traffic.py $discipline "$seconds" | sed "s/^/$discipline: /"
    klasy log --json path > "$out/$discipline"
    klasy unweave path > /dev/null
done
echo
python3 picture.py fifo="$out/fifo" fair="$out/fair" prio="$out/prio" -o "$out/picture.svg"
test -n "$2" || rm -r "$out"
