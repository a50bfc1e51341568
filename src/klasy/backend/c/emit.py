"""The C text of all advice in C of an aspect: declarations, what the advice can call, and a function for each advice.

A function gets the address of words on the stack of klasy's own program: the join point's id, then the values of the
advice's parameters. bcc makes each read through a pointer that comes from there one of the kernel's memory that cannot
fault; for that the struct's name must begin as it does.

The maps of the aspect are named by numbers in the place of descriptors: see ``Unit.maps``.
"""

from __future__ import annotations

from klasy.backend.artifact import MAP_COUNTERS, MAP_EVENTS
from klasy.backend.c.types import Declarations
from klasy.bpf.uapi import BPF_ANY, BPF_NOEXIST, BPF_PSEUDO_MAP_FD, helper_number
from klasy.compiler.cbody import STRING_SIZE, CCode
from klasy.compiler.types import Types
from klasy.plain import TYPE_CHECKING, dataclass
from klasy.record import COUNTER_LOST, COUNTERS, HEADER_SIZE
from klasy.state import LOST_BUSY, LOST_FULL, MAP_LOST, MAP_ZEROS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from klasy.backend.artifact import Rows
    from klasy.compiler import tree
    from klasy.kernel.model import Kernel
    from klasy.record import Field, Format
    from klasy.state import State

MAGIC = 0x4B4C0000  # a map's number in the place of its descriptor; no process has so many

_TYPEDEFS = {
    "u8": "unsigned char", "u16": "unsigned short", "u32": "unsigned int", "u64": "unsigned long long",
    "s8": "signed char", "s16": "short", "s32": "int", "s64": "long long",
    "__u8": "unsigned char", "__u16": "unsigned short", "__u32": "unsigned int", "__u64": "unsigned long long",
    "__s8": "signed char", "__s16": "short", "__s32": "int", "__s64": "long long",
    "bool": "_Bool", "size_t": "unsigned long", "pid_t": "int",
}  # fmt: skip
# The helpers that C advice can call, and how.
_HELPERS = {
    "map_lookup_elem": "void *(*{})(void *, const void *)",
    "map_update_elem": "long (*{})(void *, const void *, const void *, u64)",
    "map_delete_elem": "long (*{})(void *, const void *)",
    "ktime_get_ns": "u64 (*{})(void)",
    "get_current_pid_tgid": "u64 (*{})(void)",
    "get_current_uid_gid": "u64 (*{})(void)",
    "get_current_comm": "long (*{})(void *, u32)",
    "get_smp_processor_id": "u32 (*{})(void)",
    "get_prandom_u32": "u32 (*{})(void)",
    "get_current_cgroup_id": "u64 (*{})(void)",
    "probe_read_kernel": "long (*{})(void *, u32, const void *)",
    "probe_read_kernel_str": "long (*{})(void *, u32, const void *)",
    "probe_read_user": "long (*{})(void *, u32, const void *)",
    "probe_read_user_str": "long (*{})(void *, u32, const void *)",
    "ringbuf_reserve": "void *(*{})(void *, u64, u64)",
    "ringbuf_submit": "void (*{})(void *, u64)",
}
_MACROS = """\
#define NULL ((void *)0)
#define true 1
#define false 0
#define container_of(pointer, type, member) ((type *)((char *)(pointer) - __builtin_offsetof(type, member)))
#define offsetof(type, member) __builtin_offsetof(type, member)
#define ntohs __builtin_bswap16
#define ntohl __builtin_bswap32
#define htons __builtin_bswap16
#define htonl __builtin_bswap32
"""  # without parameters: in a macro's arguments bcc does not find the members of which it has to make safe reads
_INLINE = "static inline __attribute__((always_inline))"


@dataclass(frozen=True, slots=True)
class Function:
    """The C function of one advice. ``shifts``: where text was put into a line of the aspect: line, column there, by
    how much what follows is moved."""

    advice: int
    name: str
    code: CCode
    shifts: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """What a C compiler is given. ``maps``: the aspect's maps, MAGIC + index is the descriptor of each.

    ``bit_fields``: members that the text may mean and that C advice cannot read, with what they are in.
    ``unsigned_char``: what a plain ``char`` of the kernel's is.
    """

    source_name: str
    text: str
    functions: tuple[Function, ...]
    maps: tuple[str, ...]
    bit_fields: dict[str, str]
    unsigned_char: bool = False


def emit(advice: Sequence[tree.Advice], states: Sequence[State], kernel: Kernel, counters: Rows) -> Unit:
    """The text for the advice in C of one aspect. ``counters``: how these lie in their map."""
    bodies = [(each, each.body) for each in advice if isinstance(each.body, CCode)]
    words = frozenset().union(*(body.words for _, body in bodies))
    declarations = Declarations(kernel, words, (*_TYPEDEFS, "container_of", "offsetof"))
    for kind in dict.fromkeys(kind for _, body in bodies for kind in body.types):
        declarations.declare(kind, "x")
    maps = _Maps()
    functions, texts = [], []
    for each, body in bodies:
        function, text = _function(each, body, declarations)
        functions.append(function)
        texts.append(text)
    used = {state.name for _, body in bodies for state in body.states}
    parts = ['#line 1 "klasy"', *(f"typedef {of} {name};" for name, of in _TYPEDEFS.items())]
    parts.append('extern u64 klasy_pseudo(u64, u64) __asm__("llvm.bpf.pseudo");')
    for name, form in _HELPERS.items():
        parts.append(f"static {form.format(f'bpf_{name}')} = (void *){helper_number(name)};")
    parts.append("#define bpf_probe_read bpf_probe_read_kernel")
    parts.append(f"#define COUNTERS_ROW {counters.row}\n#define COUNTERS_END {counters.size - 8}")
    parts += [_MACROS, declarations.text()]
    parts += [_log(log.format, log.bits, maps) for _, body in bodies for log in body.logs]
    parts += [_state(state, maps, words) for state in states if state.name in used]
    source = bodies[0][1].span.file
    text = "\n".join([*parts, *texts])
    unsigned_char = not Types(kernel).char().signed
    return Unit(source.name, text, tuple(functions), tuple(maps.names), declarations.bit_fields, unsigned_char)


class _Maps:
    """The maps that are named in the text."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> str:
        """A map as an expression."""
        if name not in self.names:
            self.names.append(name)
        return f"((void *)klasy_pseudo({BPF_PSEUDO_MAP_FD}, {MAGIC + self.names.index(name)}))"


# --- an advice ------------------------------------------------------------------------------------------------------


def _function(advice: tree.Advice, body: CCode, declarations: Declarations) -> tuple[Function, str]:
    name = f"klasy_{advice.index}"
    words = f"struct tracepoint__{name}"
    members, locals_ = ["u32 joinpoint __attribute__((aligned(8)));"], []
    for parameter in advice.parameters.values():
        declared = declarations.declare(parameter.type, parameter.name)
        members.append(f"{declared} __attribute__((aligned(8)));")
        locals_.append(f"{declared} = klasy->{parameter.name};")
    line, column = body.span.file.position(body.start)
    shifts: list[tuple[int, int, int]] = []
    text, at = "", 0
    for log in body.logs:
        called = f"klasy_log_{log.format.index}(klasy->joinpoint" + (", " if log.format.fields else "")
        template_end = _behind_template(body.text, log.end)
        text += body.text[at : log.start] + called
        where, place = body.span.file.position(body.start + template_end)
        first, _ = body.span.file.position(body.start + log.start)
        # The lines of a template of several lines stay, as blanks.
        text += "\n" * (where - first)
        moved = len(called) - (template_end - log.start) if where == first else len(called)
        shifts.append((where, place, moved))
        at = template_end
    text += body.text[at:]
    file = body.span.file.name.replace("\\", "\\\\").replace('"', '\\"')
    return Function(advice.index, name, body, tuple(shifts)), "\n".join(
        [
            '#line 1 "klasy"',
            f"{words} {{ {' '.join(members)} }};",
            f"int {name}({words} *klasy)",
            "{",
            *locals_,
            f'#line {line} "{file}"',
            " " * (column - 1) + text,
            '#line 1 "klasy"',
            "return 0;",
            "}",
        ]
    )


def _behind_template(text: str, start: int) -> int:
    """Where the values of a log begin: behind its template, and the comma there."""
    at = start
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif text.startswith("//", at):
            at = text.find("\n", at)
        elif text.startswith("/*", at):
            at = text.find("*/", at) + 2
        elif text[at] == '"':
            at += 1
            while text[at] != '"':
                at += 2 if text[at] == "\\" else 1
            at += 1
        else:
            return at + 1 if text[at] == "," else at
    return at


# --- what advice can call -------------------------------------------------------------------------------------------


def _log(form: Format, bits: Sequence[int], maps: _Maps) -> str:
    """The function that writes the record of one ``log``; see klasy.record for its layout."""
    params, members, work = ["u32 joinpoint"], [], []
    for number, (field, bit) in enumerate(zip(form.fields, bits, strict=True)):
        value = f"v{number}"
        if field.kind == "string":
            params.append(f"const char *{value}")
            members.append(f"char {value}[{STRING_SIZE}];")
            work.append(f"__builtin_memset(r->{value}, 0, {STRING_SIZE});")
            work.append(
                f"if (bpf_probe_read_kernel_str(r->{value}, {STRING_SIZE}, {value}) < 0) faults |= 1ULL << {bit};"
            )
        elif field.kind == "int":
            params.append(f"{'s64' if field.signed else 'u64'} {value}")
            members.append(f"u64 {value};")
            work.append(f"r->{value} = {value};")
        else:
            params.append(f"const void *{value}")
            members.append(f"const void *{value};")
            work.append(f"r->{value} = {value};")
    record = f"struct klasy_record_{form.index}"
    return f"""{record} {{
    u64 time_ns; u32 joinpoint; u16 format; u16 cpu; u32 pid; u32 tid; char comm[16]; u64 faults; {" ".join(members)}
}};
_Static_assert(sizeof({record}) == {form.size} && {HEADER_SIZE} == 48, "layout of a record");
{_INLINE} void klasy_log_{form.index}({", ".join(params)})
{{
    u64 faults = 0;
    {record} *r = bpf_ringbuf_reserve({maps(MAP_EVENTS)}, {form.size}, 0);
    if (!r) {{
        u32 only = 0;
        char *rows = bpf_map_lookup_elem({maps(MAP_COUNTERS)}, &only);
        u64 at = (u64)bpf_get_smp_processor_id() * COUNTERS_ROW + joinpoint * {COUNTERS.size} + {COUNTER_LOST};
        __asm__("" : "+r"(at)); /* or what is compared is not what is added */
        if (rows && at <= COUNTERS_END) __sync_fetch_and_add((u64 *)(rows + at), 1);
        return;
    }}
    r->time_ns = bpf_ktime_get_ns();
    r->joinpoint = joinpoint;
    r->format = {form.index};
    r->cpu = bpf_get_smp_processor_id();
    u64 task = bpf_get_current_pid_tgid();
    r->pid = task >> 32;
    r->tid = task;
    bpf_get_current_comm(r->comm, 16);
    {" ".join(work)}
    r->faults = faults;
    bpf_ringbuf_submit(r, 0);
}}"""


def _state(state: State, maps: _Maps, words: Collection[str]) -> str:
    """The functions by which C advice uses a state, of those that ``words`` names; see klasy.state for its layout."""
    params, fill = _key(state)
    key = f"u64 key[{max(1, (max(state.key_size, 4) + 7) // 8)}]; __builtin_memset(key, 0, sizeof(key)); {fill}"
    bpf_map = maps(state.map_name)
    separate = ", " if params else ""
    find = f"{key} u64 *element = bpf_map_lookup_elem({bpf_map}, key);"
    lost = f"""{{ u32 number = {state.index}; u64 *lost = bpf_map_lookup_elem({maps(MAP_LOST)}, &number);
     if (lost) __sync_fetch_and_add(lost + (error == -7 || error == -12 ? {LOST_FULL} : {LOST_BUSY}), 1); }}"""
    parts = []
    if state.kind in ("scalar", "count", "sum"):
        kind = "s64" if state.kind == "sum" or (state.value and state.value.signed) else "u64"
        parts.append(f"""{_INLINE} {kind} {state.name}_get({params or "void"})
{{ {find} return element ? *element : 0; }}""")
    if state.kind == "scalar":
        parts.append(f"""{_INLINE} void {state.name}_set({params}{separate}u64 value)
{{ {key} int error = bpf_map_update_elem({bpf_map}, key, &value, {BPF_ANY});
   if (error) {lost} }}""")
    if state.key_size:
        parts.append(f"""{_INLINE} void {state.name}_delete({params})
{{ {key} bpf_map_delete_elem({bpf_map}, key); }}""")
    else:
        clear = " ".join(f"element[{word}] = 0;" for word in range(state.words))
        parts.append(f"{_INLINE} void {state.name}_delete(void)\n{{ {find} if (element) {{ {clear} }} }}")
    if state.key_size:
        zeros = f"u32 zero = 0; void *zeros = bpf_map_lookup_elem({maps(MAP_ZEROS)}, &zero); if (!zeros) return;"
        make = f"""if (!element) {{ {zeros}
      int error = bpf_map_update_elem({bpf_map}, key, zeros, {BPF_NOEXIST});
      element = bpf_map_lookup_elem({bpf_map}, key);
      if (!element) {{ {lost} return; }} }}"""
    else:
        make = "if (!element) return;"
    parts.append(f"""{_INLINE} void {state.name}_add({params}{separate}s64 value)
{{ {find} {make}
   {_change(state)} }}""")
    actions = ("_get", "_set", "_delete", "_add")
    wanted = [f" {state.name}{action}(" for action in actions if f"{state.name}{action}" in words]
    return "\n".join(part for part in parts if any(name in part for name in wanted))


def _change(state: State) -> str:
    """What adding does to an element."""
    if state.kind == "avg":
        return "__sync_fetch_and_add(element, 1); __sync_fetch_and_add(element + 1, value);"
    if state.kind == "lhist":
        assert state.bounds is not None
        low, high, step = state.bounds
        bucket = f"value < {low}LL ? 0 : value >= {high}LL ? {state.words - 1} : 1 + (u64)(value - {low}LL) / {step}"
        return f"u64 bucket = {bucket}; if (bucket < {state.words}) __sync_fetch_and_add(element + bucket, 1);"
    if state.kind == "hist":
        steps = " ".join(
            f"if (rest >> {bits}) {{ bucket += {bits}; rest >>= {bits}; }}" for bits in (32, 16, 8, 4, 2, 1)
        )
        return f"""u64 bucket = 0; if (value == 0) bucket = 1;
   else if (value > 0) {{ u64 rest = value; bucket = 2; {steps} }}
   if (bucket < {state.words}) __sync_fetch_and_add(element + bucket, 1);"""
    return "__sync_fetch_and_add(element, value);"


def _key(state: State) -> tuple[str, str]:
    """The parameters that stand for a state's keys, and the text that puts them into ``key``."""
    params, fill = [], []
    for number, field in enumerate(state.keys):
        name = f"key{number}"
        place = f"(char *)key + {field.offset}"
        if field.kind == "string":
            params.append(f"const char *{name}")
            fill.append(f"bpf_probe_read_kernel_str({place}, {field.size}, {name});")
        elif field.kind in ("ip6", "mac"):
            params.append(f"const void *{name}")
            fill.append(f"bpf_probe_read_kernel({place}, {field.size}, {name});")
        elif field.kind in ("pointer", "symbol"):
            params.append(f"const void *{name}")
            fill.append(f"*(const void **)({place}) = {name};")
        else:
            params.append(f"u64 {name}")
            fill.append(f"*({_word(field)} *)({place}) = {name};")
    return ", ".join(params), " ".join(fill)


def _word(field: Field) -> str:
    return {1: "u8", 2: "u16", 4: "u32", 8: "u64"}[field.size]
