"""``user("FILE": execution(SIG))``: functions of user programs, by the tables of symbols of their files.

What a program is made of the kernel does not know: parameters are those that its debug information tells, or, where
there is none, those of the signature in the aspect, taken on trust. Where each is passed follows from the types by the
calling convention.
"""

from __future__ import annotations

from klasy.diag import did_you_mean
from klasy.kernel.arch_x86_64 import ARGUMENT_REGISTERS, LONGEST_STRUCT_IN_REGISTERS, WORD
from klasy.kernel.model import Clone, Function, Refusal
from klasy.lang import ast
from klasy.match.execution import beyond_marks, takes_arguments
from klasy.match.glob import is_glob, matches, star
from klasy.match.mechanism import Context, Mechanism
from klasy.match.plan import Argument, Locator, MarkRole, MarkUse
from klasy.match.probes import Kind
from klasy.match.prototype import Named, explicit_params
from klasy.match.signature import Found, Resolved
from klasy.match.typeref import spelled
from klasy.plain import TYPE_CHECKING
from klasy.programs.files import NotAProgram, ProgramFile, find

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klasy.diag import DiagnosticBag
    from klasy.match.matched import Match
    from klasy.match.matcher import AdviceMatcher
    from klasy.match.planner import Planner
    from klasy.match.probes import ProbeSet
    from klasy.programs.debuginfo import DebugInfo, Prototype
    from klasy.programs.files import Symbol

MOST_FUNCTIONS = 500  # each is a link of its own
MOST_FILES = 1023  # the number of a file and an offset in it have 42 bits, see match/plan.py on marks
_FILE_SHIFT = 32
_FLOATS = frozenset(("float", "double", "long double"))
_SHOWN = 5


def check_side(matcher: AdviceMatcher) -> None:
    """An advice runs in programs or in the kernel: what its pointers lead to is the memory of one of them."""
    leaves = matcher.form.leaves
    user = next(leaf for leaf in leaves if isinstance(leaf, ast.User))
    kernel = next(
        (
            leaf
            for leaf in leaves
            if isinstance(leaf, ast.Call | ast.Execution | ast.Access) and not isinstance(leaf, ast.User)
        ),
        None,
    )
    if matcher.advice.kind is ast.AdviceKind.AROUND:
        matcher.bag.error(
            "around-in-program", "nothing of a user program can be decided by 'around' advice", matcher.advice.head,
            hints=["before and after see what it does"],
        )  # fmt: skip
    if kernel is not None:
        matcher.bag.error(
            "kernel-and-program",
            "one advice cannot run both in the kernel and in a user program: their pointers lead to different memory",
            user.span,
            hints=["write two advice; state is shared among them"],
            related=[(kernel.span, "this is in the kernel")],
        )


class Programs:
    """Resolves what ``user`` designators name. Errors go to the bag."""

    def __init__(self, bag: DiagnosticBag) -> None:
        self.bag = bag
        self._files: dict[str, ProgramFile] = {}
        self._numbers: dict[str, int] = {}
        self._debug: dict[str, DebugInfo | None] = {}

    def resolve(self, leaf: ast.User, advice: ast.Advice) -> Resolved:
        """The functions that a designator names, with what the signature or debug information binds."""
        signature = leaf.signature
        failed = Resolved(signature, failed=True)
        program = self._open(leaf)
        symbols = self._symbols(leaf, program) if program is not None else []
        if program is None or not symbols:
            return failed
        resolved = Resolved(signature)
        by_place: dict[int, list[Symbol]] = {}
        for symbol in symbols:
            by_place.setdefault(symbol.offset, []).append(symbol)
        before = len(self.bag.errors)
        for offset, names in by_place.items():
            first = names[0]
            address = (self._numbers[program.path] << _FILE_SHIFT) | offset
            function = Function(first.name, address, first.size, program.path, first.name, Clone.NONE, len(by_place))
            prototype = self._prototype(program, leaf, advice, names)
            named = self._named(leaf, advice, function, prototype)
            if named is not None:
                resolved.found[address] = Found(function, None, named)
                resolved.lies_in[address] = function
        if not resolved.found and len(self.bag.errors) == before:
            self.bag.error(
                "matches-nothing",
                f"no function '{signature.name}' of '{leaf.file}' has what the advice binds, as far as its debug "
                "information tells",
                leaf.span,
            )
        return failed if len(self.bag.errors) > before else resolved

    # --- the file and its functions

    def _open(self, leaf: ast.User) -> ProgramFile | None:
        try:
            path = find(leaf.file)
            if path not in self._files:
                program = ProgramFile(path, leaf.file)
                if len(self._numbers) >= MOST_FILES:
                    raise NotAProgram(f"more than {MOST_FILES} programs in one aspect")
                self._numbers[path] = len(self._numbers)
                self._files[path] = program
            return self._files[path]
        except NotAProgram as error:
            hints = [error.hint] if error.hint else []
            self.bag.error("no-program", error.message, leaf.span, hints=hints)
            return None

    def _symbols(self, leaf: ast.User, program: ProgramFile) -> list[Symbol]:
        pattern = leaf.signature.name
        everything = program.symbols()
        if not everything:
            self.bag.error(
                "no-symbols", f"'{leaf.file}' has no symbols: its functions have no names", leaf.span,
                hints=["programs are usually stripped of what other files do not need; a library has at least "
                       "the functions that it offers"],
            )  # fmt: skip
            return []
        glob = star(pattern)
        fitting = [s for s in everything if (matches(glob, s.name) if is_glob(pattern) else s.name == pattern)]
        found = [s for s in fitting if not s.chosen]
        if not fitting:
            from klasy.match.near import near

            close = near(pattern, list(dict.fromkeys(s.name for s in everything)))
            message = f"'{leaf.file}' has no function '{pattern}'"
            self.bag.error("unknown-function", message, leaf.span, hints=[did_you_mean(close)])
        elif not found:
            name = fitting[0].name
            self.bag.error(
                "chosen-at-start",
                f"which function '{name}' is, is chosen when a program starts, by what the processor can do",
                leaf.span,
                hints=[self._choices(everything, name)],
            )
        elif not is_glob(pattern) and len(found) < len(fitting):  # as the C library's memcpy
            self.bag.warning(
                "chosen-at-start",
                f"which function '{pattern}' is, is chosen when a program starts, by what the processor can do; only "
                "another of that name is seen, which the library keeps for programs that were made for an older one",
                leaf.span,
                hints=[self._choices(everything, pattern)],
            )
        elif len({s.offset for s in found}) > MOST_FUNCTIONS:
            self.bag.error(
                "too-many-shadows",
                f"this matches {len({s.offset for s in found})} functions; more than {MOST_FUNCTIONS} of programs are "
                "not woven",
                leaf.span,
                hints=["narrow it by a longer name"],
            )
            return []
        return found

    @staticmethod
    def _choices(everything: list[Symbol], name: str) -> str:
        """A hint: what to name in the place of a function that is chosen when a program starts."""
        names = [s.name for s in everything if s.name.lstrip("_").startswith(f"{name}_") and not s.chosen]
        if not names:
            return "name the function that is chosen; debug information, as of libc6-dbg, has the names"
        return f"name the function that is chosen; here, one of {', '.join(dict.fromkeys(names[:_SHOWN]))}"

    # --- parameters

    def _prototype(
        self, program: ProgramFile, leaf: ast.User, advice: ast.Advice, names: list[Symbol]
    ) -> Prototype | None:
        """What debug information tells of a function, where anybody asks."""
        signature = leaf.signature
        if not (advice.params or advice.returning or signature.params or signature.result):
            return None
        if program.path not in self._debug:
            path = program.debug_file()
            if path is not None:
                from klasy.programs.debuginfo import debug_info

                self._debug[program.path] = debug_info(path)
            else:
                self._debug[program.path] = None
        debug = self._debug[program.path]
        return debug.prototype(names[0].address, tuple(s.name for s in names)) if debug is not None else None

    def _named(
        self, leaf: ast.User, advice: ast.Advice, function: Function, prototype: Prototype | None
    ) -> dict[str, Named] | None:
        """Where the parameters are that have names; None where the function is left out, or an error was reported."""
        params = explicit_params(leaf.signature)
        selects = is_glob(leaf.signature.name)
        wanted = {param.name for param in advice.params}
        if prototype is not None:
            contradiction = _contradiction(leaf.signature, params, advice, prototype)
            if contradiction:
                if not selects:
                    self.bag.error(
                        "wrong-signature", f"{contradiction}", leaf.span, hints=[f"its prototype is '{prototype.text}'"]
                    )
                return None
            kinds = [(kind.kind, kind.size) for _, kind in prototype.params]
            names = [name for name, _ in prototype.params]
            types: list[ast.TypeRef | None] = [None] * len(names)
            for index, pattern in enumerate(_fixed(params or ())):
                names[index] = pattern.name or names[index]
                types[index] = pattern.type
            unknown = wanted - set(names)
            if unknown and params is None and not selects:
                self.bag.error(
                    "unbound-parameter", f"{function.name} has no parameter '{min(unknown)}'", leaf.span,
                    hints=[f"its prototype is '{prototype.text}'"],
                )  # fmt: skip
                return None
            if unknown and selects:
                return None
        else:
            if params is None and wanted:
                self.bag.error(
                    "no-debug-information",
                    f"'{leaf.file}' has no debug information that names the parameters of {function.name}",
                    leaf.span,
                    hints=[f"write its signature here: execution({function.name}({_written(advice)}))"],
                )
                return None
            patterns = _fixed(params or ())
            names = [pattern.name or "" for pattern in patterns]
            types = [pattern.type for pattern in patterns]
            kinds = [_passed(kind) for kind in types]
        places = _places(kinds)
        named: dict[str, Named] = {}
        for index, (name, place, kind) in enumerate(zip(names, places, kinds, strict=True)):
            if place is not None and name:
                named[name] = Named(Argument(index, -1, place), types[index])
            elif name in wanted and selects:
                return None
            elif name in wanted:
                where = {"float": "in a vector register", "struct": "as a whole struct"}.get(kind[0])
                where = where or "where klasy cannot tell"
                self.bag.error(
                    "not-in-a-register",
                    f"'{name}' (parameter {index + 1} of {function.name}) is passed {where}: it cannot be bound",
                    leaf.span,
                )
                return None
        if advice.returning is not None and _floating(advice.returning.type):
            self.bag.error(
                "not-in-a-register",
                f"'{advice.returning.name}' is returned in a vector register, which no probe sees",
                advice.returning.span,
            )
            return None
        return named


def _fixed(params: Sequence[ast.ParamPattern]) -> list[ast.ParamPattern]:
    """The parameters in front of ``..`` or ``...``."""
    fixed: list[ast.ParamPattern] = []
    for pattern in params:
        if pattern.kind in (ast.ParamKind.ANY_REST, ast.ParamKind.VARIADIC):
            break
        fixed.append(pattern)
    return fixed


def _written(advice: ast.Advice) -> str:
    return ", ".join(f"{spelled(p.type)}{'' if p.type.pointers else ' '}{p.name}" for p in advice.params) + ", .."


def _floating(ref: ast.TypeRef | None) -> bool:
    return ref is not None and not ref.pointers and not ref.array and ref.name in _FLOATS


def _passed(ref: ast.TypeRef | None) -> tuple[str, int]:
    """What a type as written is to the calling convention. A type that is not told is taken for a whole number."""
    if ref is None:
        return "int", WORD
    if ref.pointers or ref.array:
        return "pointer", WORD
    if _floating(ref):
        return "float", 2 * WORD if ref.name == "long double" else WORD
    return ("struct", 0) if ref.tag in (ast.TagKind.STRUCT, ast.TagKind.UNION) else ("int", WORD)


def _places(kinds: Sequence[tuple[str, int]]) -> list[int | None]:
    """Where each parameter is: a register's number, 6 + k for a word of the stack (see plan.Argument), None: unknown.

    The psABI of x86-64, but for structs that may be spread over registers: behind such a one nothing is known.
    """
    places: list[int | None] = []
    registers = words = vectors = 0
    known = True
    for kind, size in kinds:
        place: int | None = None
        if kind == "float" and size > WORD:  # long double: in memory, aligned to 16
            words += words % 2 + 2
        elif kind == "float":
            vectors += 1
            words += vectors > 8
        elif kind == "struct" or size > WORD:
            known = known and size > LONGEST_STRUCT_IN_REGISTERS
            words += (size + WORD - 1) // WORD
        elif known and registers < len(ARGUMENT_REGISTERS):
            place, registers = registers, registers + 1
        elif known:
            place, words = len(ARGUMENT_REGISTERS) + words, words + 1
        places.append(place)
    return places


def _contradiction(
    signature: ast.Signature, params: tuple[ast.ParamPattern, ...] | None, advice: ast.Advice, prototype: Prototype
) -> str | None:
    """How a signature contradicts what debug information tells, in as far as it matters to what is read."""
    name = prototype.name
    count = len(prototype.params)
    if params is not None:
        fixed = _fixed(params)
        open_ended = len(fixed) < len(params)
        if len(fixed) > count or (len(fixed) < count and not open_ended):
            return f"{name} has {count} parameter{'' if count == 1 else 's'}, not {len(fixed)}"
        for index, pattern in enumerate(fixed):
            is_pointer = prototype.params[index][1].kind == "pointer"
            if pattern.type is not None and is_pointer != bool(pattern.type.pointers or pattern.type.array):
                what = prototype.params[index][1].text
                return f"parameter {index + 1} of {name} is '{what}', not '{spelled(pattern.type)}'"
    by_name = dict(prototype.params)
    for index, pattern in enumerate(_fixed(params or ())):
        by_name[pattern.name or ""] = prototype.params[index][1]
    for param in advice.params:
        kind = by_name.get(param.name)
        pointer = bool(param.type.pointers or param.type.array)
        if kind is not None and pointer != (kind.kind == "pointer"):
            return f"'{param.name}' of {name} is '{kind.text}', not '{spelled(param.type)}'"
    if advice.returning is not None:
        kind, pointer = prototype.result, bool(advice.returning.type.pointers)
        if kind.kind == "void":
            return f"{name} returns nothing"
        if kind.kind in ("float", "struct"):
            return f"{name} returns '{kind.text}', which is in no register that a probe sees"
        if pointer != (kind.kind == "pointer"):
            return f"{name} returns '{kind.text}', not '{spelled(advice.returning.type)}'"
    return None


# --- how they are reached


def plan_executions(probes: ProbeSet, todo: Sequence[tuple[ast.Advice, Match]], planner: Planner) -> None:
    """Plan the executions in user programs: a breakpoint each, and one program for those of a file."""
    writers: set[int] = set()
    own = {match.shadow.address for advice, match in todo if not advice.keeps}
    # What only keeps flows has a program of its own, which no filter is in.
    apart = {match.shadow.address for advice, match in todo if advice.keeps} - own
    for advice, match in todo:
        function = match.shadow.function
        assert function is not None
        if advice.kind is not ast.AdviceKind.AFTER:
            continue
        beyond = beyond_marks(match.outcome)
        if beyond is not None:
            planner.unreached(advice, match.shadow, Refusal(beyond.code, beyond.reason))
            continue
        marked = takes_arguments(match.outcome)
        use = MarkUse.TAKE if marked else MarkUse.NONE
        _add(probes, _kind(Mechanism.URETPROBE, Context.RETURN, use, function, apart), advice, match)
        if marked:
            writers.add(function.address)
            kind = _kind(Mechanism.UPROBE, Context.ENTRY, MarkUse.WRITE, function, apart)
            probes.point(kind, function.address, function)
    for advice, match in todo:
        function = match.shadow.function
        assert function is not None
        if advice.kind is ast.AdviceKind.BEFORE:
            use = MarkUse.WRITE if function.address in writers else MarkUse.NONE
            _add(probes, _kind(Mechanism.UPROBE, Context.ENTRY, use, function, apart), advice, match)


def _kind(mechanism: Mechanism, context: Context, use: MarkUse, function: Function, apart: set[int]) -> Kind:
    group = (function.address >> _FILE_SHIFT) + 1
    if function.address in apart:
        group += MOST_FILES + 1
    return Kind(mechanism, context, Locator.ADDRESS, use, MarkRole.ENTRY, group=group)


def _add(probes: ProbeSet, kind: Kind, advice: ast.Advice, match: Match) -> None:
    function = match.shadow.function
    assert function is not None
    draft = probes.point(kind, function.address, function)
    arm = probes.arm(draft, advice, match.outcome)
    why = "a breakpoint in the program's text: each hit traps"
    arm.by_address[function.address] = probes.joinpoint(advice, match.shadow, kind.mechanism.value, why)
