"""Random aspects over the running kernel's functions and types: what an author might write, all of it well-typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klasy.btf.types import Func, Ptr, Struct
from support.exprgen import CASTS, Generator, leaves_of

if TYPE_CHECKING:
    import random

    from klasy.kernel.image import KernelImage

_LARGEST = 1 << 14  # bytes of a struct
_BUILTINS = ("now", "pid", "tid", "comm", "uid", "gid", "cpu", "joinpoint.function", "joinpoint.kind")


class AspectGenerator:
    """Writes aspects: ``text()`` is one. The functions are drawn from those whose first parameter is a struct's."""

    def __init__(self, rng: random.Random, kernel: KernelImage, functions: int = 200) -> None:
        self._rng = rng
        self._btf = btf = kernel.btf
        names = sorted({name for name, _ in btf.names(Func) if name.isidentifier()})
        self._functions: list[tuple[str, str, list]] = []
        while len(self._functions) < functions:
            name = rng.choice(names)
            number = btf.find_func(name)
            params = btf.proto(number).params if number is not None else ()
            pointer = btf.resolved(params[0].type_id) if params else None
            struct = btf.resolved(pointer.type_id) if isinstance(pointer, Ptr) else None
            if not isinstance(struct, Struct) or not struct.name or not 0 < struct.size <= _LARGEST:
                continue
            found = btf.find(struct.name, Struct)
            leaves = leaves_of(btf, found[0], "p") if len(found) == 1 else []
            if leaves and kernel.functions(name):
                self._functions.append((name, struct.name, leaves))

    def text(self) -> str:
        """The text of one aspect."""
        rng = self._rng
        advice = "\n".join(self._advice() for _ in range(rng.choice((1, 1, 1, 2, 3))))
        state = "u64 slot[tid]; u64 cell; count c; hist h[comm]; sum s[pid]; max m; avg a[u64];"
        return f"aspect random {{\n    {state}\n{advice}\n}}\n"

    def _advice(self) -> str:
        rng = self._rng
        name, struct, leaves = rng.choice(self._functions)
        self._expressions = Generator(rng, leaves)
        kind = rng.choice(("before", "before", "after"))
        where = rng.choice(("execution", "execution", "execution", "call"))
        pointcut = f"{where}({name}(struct {struct} *p, ..))"
        if rng.random() < 0.3:
            pointcut += f" && if({self._value()})"
        body = "\n".join(f"        {self._statement(2)}" for _ in range(rng.randint(1, 5)))
        user = "__user " * (rng.random() < 0.15)
        return f"    {kind}(struct {struct} {user}*p): {pointcut} {{\n{body}\n    }}"

    def _value(self) -> str:
        return self._expressions.expression(self._rng.choice((1, 2, 3, 3, 4))).text

    def _statement(self, depth: int) -> str:
        rng = self._rng
        make = rng.choice(self._SIMPLE if depth == 0 else (*self._SIMPLE, *self._NESTED))
        return make(self, depth)

    def _log(self, _: int) -> str:
        values = [self._value() if self._rng.random() < 0.8 else self._rng.choice(_BUILTINS) for _ in range(3)]
        return f"log({', '.join(values[: self._rng.randint(1, 3)])});"

    def _printf(self, _: int) -> str:
        return f'log("%d of %llx, %s", (int)({self._value()}), (unsigned long long)({self._value()}), comm);'

    def _variable(self, _: int) -> str:
        kind = self._rng.choice(CASTS).name
        op = self._rng.choice(("+=", "-=", "*=", "^=", "|=", "&=", "<<=", ">>=", "/=", "%=", "="))
        return f"{{ {kind} v = {self._value()}; v {op} {self._value()}; log(v); }}"

    def _state(self, _: int) -> str:
        value = self._value()
        return self._rng.choice(
            (
                f"slot[tid] = {value}; log(slot[tid]);",
                "if (slot[tid]) { delete slot[tid]; }",
                f"cell = {value};",
                "c++;",
                f"h[comm].add({value});",
                f"s[pid].add({value});",
                f"m.add({value});",
                f"a[{value}].add({self._value()});",
            )
        )

    def _restraint(self, _: int) -> str:
        return self._rng.choice(("sample(1/10);", "limit(100/s);"))

    def _memory(self, _: int) -> str:
        return self._rng.choice(("log(buf(p, 24));", "log(stack());", "log(str((char *)p));", "log((unsigned long)p);"))

    def _if(self, depth: int) -> str:
        then, other = self._statement(depth - 1), self._statement(depth - 1)
        return f"if ({self._value()}) {{ {then} }} else {{ {other} }}"

    def _loop(self, depth: int) -> str:
        turns = self._rng.choice((2, 3, 4, 8))
        return f"for (int i{depth} = 0; i{depth} < {turns}; i{depth}++) {{ {self._statement(depth - 1)} }}"

    def _return(self, _: int) -> str:
        return f"if ({self._value()}) {{ return; }}"

    _SIMPLE = (_log, _log, _log, _printf, _variable, _variable, _state, _state, _restraint, _memory)
    _NESTED = (_if, _if, _loop, _return)
