"""Functions of user programs: hits and values beside the program's own account, and beside uprobe events of tracefs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from elftools.elf.elffile import ELFFile
from support.livekernel import leftovers
from support.weaving import TRACING, woven

from klasy.api import states
from klasy.kernel.live import LiveKernel
from klasy.weaver.states import read_states

LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
JOBS = Path(__file__).parents[1] / "data" / "programs" / "jobs"
SHAPES = Path(__file__).parents[1] / "data" / "programs" / "shapes.so"

# Four processes, whose stacks are alike, at the same time; what each calls it also tells.
CALLS = """
import ctypes, os, sys
libc = ctypes.CDLL("libc.so.6")
libc.labs.restype = ctypes.c_long
libc.labs.argtypes = (ctypes.c_long,)
children = []
for number in range(4):
    pid = os.fork()
    if not pid:
        for n in range(50):
            libc.labs(-(1000 * number + n) if n % 2 else 1000 * number + n)
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
libc.a64l(b"zz")
libc.a64l.restype = ctypes.c_long
print(libc.a64l(b"klasy"))
"""


def define_uprobe(line: str) -> None:
    """A line for the kernel's uprobe events. (Opened for writing anew, the file forgets all events.)"""
    descriptor = os.open(TRACING / "uprobe_events", os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def uprobe_hits(events: Path) -> dict[str, int]:
    """What the kernel's own uprobe events have counted."""
    lines = (events / "uprobe_profile").read_text().splitlines()
    return {line.split()[1]: int(line.split()[2]) for line in lines}


def test_libc_beside_uprobe_events():
    """Arguments, results and hits of four processes at once are those of the calls made, and the kernel's own count."""
    with open(LIBC, "rb") as file:
        elf = ELFFile(file)
        value = elf.get_section_by_name(".dynsym").get_symbol_by_name("labs")[0]["st_value"]
        (offset,) = elf.address_offsets(value)
    define_uprobe(f"p:account/labs {LIBC}:{offset:#x}")
    try:
        (TRACING / "events/account/labs/enable").write_text("1")
        text = f"""aspect u {{
            pointcut labs(long n): user("{LIBC}": execution("long labs(long n)"));
            before(long n): labs(n) {{ log(n); }}
            after(long n) returning (long r): labs(n) {{ log("%d %d", n, r); }}
            after(char *text) returning (long r): user("libc.so.6": execution(a64l(char *text))) {{ log(text, r); }}
        }}"""
        with woven(text) as aspect:
            done = subprocess.run([sys.executable, "-c", CALLS], check=True, capture_output=True, text=True)
            counted = uprobe_hits(TRACING)["labs"]
            hits = [aspect.total(advice) for advice in range(3)]
            points = aspect.aspect.joinpoints
            events = [aspect.as_json(event) for event in aspect.events()]
    finally:
        (TRACING / "events/account/labs/enable").write_text("0")
        define_uprobe("-:account/labs")
    assert hits == [counted, counted, 2]
    assert counted == 200
    made = sorted((1000 * p + n) * (-1 if n % 2 else 1) for p in range(4) for n in range(50))
    assert sorted(e["values"]["n"] for e in events if e["advice"] == "before#0") == made
    pairs = [tuple(map(int, e["message"].split())) for e in events if e["advice"] == "after#1"]
    assert sorted(n for n, _ in pairs) == made
    assert all(result == abs(n) for n, result in pairs)
    (_, last) = (e["values"] for e in events if e["advice"] == "after#2")
    assert last == {"text": "klasy", "r": int(done.stdout)}
    assert [(p.function, p.module, p.address) for p in points[:2]] == [("labs", os.path.realpath(LIBC), offset)] * 2
    assert leftovers() == {}


def test_parameters_by_debug_information():
    """Names and places of parameters from DWARF; members of the program's memory; a static function; the stack."""
    calls = f"""
import ctypes
class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_long), ("y", ctypes.c_long)]
shapes = ctypes.CDLL("{SHAPES}")
shapes.area.restype = ctypes.c_long
print(shapes.area(ctypes.byref(Point(6, 7)), 3, b"label"))
shapes.many(1, 2, 3, 4, 5, 6, ctypes.c_long(-7 << 40), ctypes.c_short(-8))
"""
    text = f"""aspect d {{
        u64 labels[str(label)];
        before(long *corner, int scale, char *label): user("{SHAPES}": execution(area)) && if(scale == 3) {{
            log(corner[0], corner[1], scale, label, *label, str(label), buf(corner, 16));
            labels[str(label)]++;
            if (str(label) == "label") log("equal");
        }}
        after(long value) returning (long r): user("{SHAPES}": execution(hidden)) {{ log(value, r); }}
        before(long g, short h): user("{SHAPES}": execution(many)) {{ log(g, h); }}
        before(): user("{SHAPES}": execution(*a*)) {{ log(joinpoint.function); }}
    }}"""
    with woven(text) as aspect:
        done = subprocess.run([sys.executable, "-c", calls], check=True, capture_output=True, text=True)
        events = [aspect.as_json(event) for event in aspect.events()]
    first = next(e["values"] for e in events if "values" in e)
    assert (first["corner[0]"], first["corner[1]"], first["scale"], first["label"]) == (6, 7, 3, "label")
    assert first["str(label)"] == "label"
    assert any(e.get("message") == "equal" for e in events)
    (hidden,) = [e["values"] for e in events if e["advice"] == "after#1"]
    assert hidden == {"value": 126, "r": 127} == {"value": int(done.stdout) - 1, "r": int(done.stdout)}
    (many,) = [e["values"] for e in events if e["advice"] == "before#2"]
    assert many == {"g": -7 << 40, "h": -8}
    names = [e["values"]["joinpoint.function"] for e in events if e["advice"] == "before#3"]
    assert names == ["area", "many"]
    assert leftovers() == {}


def test_a_kernel_address_is_not_followed():
    """What is no memory of the process is a bad address, never the kernel's memory."""
    banner = next(f"{symbol.address:x}" for symbol in LiveKernel().data_symbols("linux_banner"))
    assert int(banner, 16) >> 63
    calls = f"import ctypes; ctypes.CDLL('{SHAPES}').nothing(ctypes.c_void_p(0x{banner}))"
    text = f"""aspect k {{
        before(): user("{SHAPES}": execution(nothing)) {{ log(*(char *)0x{banner}, str((char *)0x{banner})); }}
    }}"""
    with woven(text) as aspect:
        subprocess.run([sys.executable, "-c", calls], check=True)
        (event,) = [aspect.as_json(event) for event in aspect.events()]
    assert len(event["faults"]) == 2
    assert "Linux" not in str(event["values"])
    assert leftovers() == {}


JOBS_ASPECT = f"""aspect jobs {{
    count kinds[job->kind];
    u64 levels(struct job *of) {{ return of->level + of->owner.uid; }}
    before(struct job *job, enum kind least): user("{JOBS}": execution(done)) && if(job->size.pages > 0) {{
        log(*job, least);
        log("%s %s %d %s", str(job->title), str(job->owner.name), job->change, job->kind);
        owner_t *payer = job->payer;
        if (job->next) log(job->next->title, job->next->level, job->kind == PRINT, payer->name);
        log(levels(job), job->urgent, sizeof(*job), (u64)&job->size - (u64)job, job->next->next->title);
        kinds[job->kind]++;
    }}
    after(struct job *job) returning (struct job *rest): user("{JOBS}": execution(done)) {{ log(rest->level); }}
}}"""


def test_types_of_the_program():
    """Members, bit-fields, enumerations, typedefs and whole structs of the program are what its source makes them;
    what leads nowhere is said to be so."""
    with woven(JOBS_ASPECT) as aspect:
        done = subprocess.run([JOBS, "3"], check=True, capture_output=True, text=True)
        events = [aspect.as_json(event) for event in aspect.events()]
        (kinds,) = read_states(aspect.aspect)
        with_names = [slot.key[0].name for slot in states("jobs")["kinds"]]
    printed = [line.split() for line in done.stdout.splitlines()]
    addresses = [int(line[0], 16) for line in printed]
    wholes = [e["values"] for e in events if "*job" in e.get("values", {})]
    assert [v["least"] for v in wholes] == ["PRINT", "PRINT"]
    for n, whole in enumerate((v["*job"] for v in wholes), start=1):
        shown = {name: value for name, value in whole.items() if name not in ("title", "payer")}
        assert shown == {
            "next": f"{addresses[n - 1]:#x}",
            "kind": "PRINT" if n % 2 else "COPY",
            "urgent": int(n == 2),
            "level": 9 + n,
            "change": -n,
            "owner": {"uid": 1000 + n, "name": "bob" if n % 2 else "alice"},
            "share": n / 4,
            "size": {"pages": 100 * n, "raw": shown["size"]["raw"]},
        }
    assert [e["message"] for e in events if "message" in e] == ["job 1 bob -1 PRINT", "job 2 alice -2 COPY"]
    others = [e for e in events if "job->next->title" in e.get("values", {})]
    assert [[*e["values"].values()] for e in others] == [["job 0", 9, 1, "alice"], ["job 1", 10, 0, "bob"]]
    last = [e for e in events if "levels(job)" in e.get("values", {})]
    assert [[*e["values"].values()][:2] for e in last] == [[10 + 1001, 0], [11 + 1002, 1]]
    assert [e["values"]["sizeof(*job)"] for e in last] == [64, 64]
    assert [[*e["values"].values()][3] for e in last] == [48, 48]
    assert [e.get("faults") for e in last] == [["job->next->next->title"], None]
    assert last[1]["values"]["job->next->next->title"] == "job 0"
    after = [e for e in events if e["advice"] == "after#1"]
    assert [(e["values"]["rest->level"], "faults" in e) for e in after] == [(None, True), (9, False), (None, True)]
    assert {int.from_bytes(key, "little"): value for key, value in kinds.elements} == {6: (1,), 5: (1,)}
    assert sorted(with_names) == ["COPY", "PRINT"]
    assert leftovers() == {}


def test_a_program_in_a_container(tmp_path):
    """By way of /proc/PID/root it is the container's file that is woven into, not that of the same name outside."""
    program = tmp_path / "program"
    program.write_bytes(Path("/bin/true").read_bytes())
    inside = (
        f"mount --make-rprivate /; mount -t tmpfs x {tmp_path}; cp {JOBS} {program}; echo; read go; exec {program} 3"
    )
    container = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert container.stdout.readline() == "\n"
    path = f"/proc/{container.pid}/root{program}"
    with woven(f'aspect a {{ before(): user("{path}": execution(done)) {{ log(comm); }} }}') as aspect:
        container.communicate("go\n")
        events = aspect.events()
    assert [(event.pid, event.comm) for event in events] == [(container.pid, "program")] * 3
