"""Modules come out of the pack exactly when their sources are what was packed."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import klasy
from klasy import pack, startup

SOURCES = Path(klasy.__file__).parent
WRITE = "from klasy import pack\nprint(pack.write_pack(), pack.is_current())"


@pytest.fixture
def copy(tmp_path):
    """A copy of klasy's sources with a pack of their own."""
    target = tmp_path / "klasy"
    target.mkdir()
    for name in ("__init__", "startup", "pack", "plain", "source", "errors"):
        shutil.copy(SOURCES / f"{name}.py", target)
    (target / "lang").mkdir()
    (target / "lang" / "__init__.py").write_text("NAME = 'lang'\n")
    (target / "lang" / "inner.py").write_text("from klasy import lang\nVALUE = (lang.NAME, 1)\n")
    assert run(tmp_path, WRITE) == "True True"
    return tmp_path


def run(folder: Path, statement: str) -> str:
    """What a statement prints in a fresh interpreter that imports klasy from a folder."""
    code = f"import sys\nfrom klasy import startup\n{statement}"
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SHOW = (
    "f = startup.install()\nimport klasy.lang.inner as m\n"
    "print(m.VALUE, type(m.__spec__.loader).__name__, m.__file__.endswith('lang/inner.py'), f.stale)"
)


def test_modules_come_from_the_pack(copy):
    """An unchanged module is loaded by the pack's finder, with its file and its package as usual."""
    assert run(copy, SHOW) == "('lang', 1) PackFinder True False"


def test_a_changed_source_counts(copy):
    """A module whose source was edited is imported from the source, and the pack is known to be stale."""
    source = copy / "klasy" / "lang" / "inner.py"
    source.write_text("VALUE = 'edited'\n")
    assert run(copy, SHOW) == "edited SourceFileLoader True True"
    assert run(copy, "from klasy import pack\nprint(pack.is_current())") == "False"


def test_a_pack_of_another_place_is_none(copy):
    """Sources that were moved are imported as they are: the pack names files of the old place."""
    (copy / "klasy").rename(copy / "moved")
    (copy / "other").mkdir()
    (copy / "moved").rename(copy / "other" / "klasy")
    assert run(copy / "other", SHOW) == "('lang', 1) SourceFileLoader True True"


def test_a_new_module_counts(copy):
    """A module that is not in the pack is imported from its source."""
    (copy / "klasy" / "fresh.py").write_text("VALUE = 3\n")
    assert run(copy, "f = startup.install()\nimport klasy.fresh as m\nprint(m.VALUE, f.stale)") == "3 True"


@pytest.mark.parametrize("content", [b"", b"klasypk2", b"klasypk2\xe3", b"something else", b"klasypk2" + bytes(40)])
def test_a_damaged_pack_is_as_good_as_none(copy, content):
    """Whatever lies where the pack should be, imports work."""
    (pack,) = (copy / "klasy" / "__pycache__").glob("*.pack")
    pack.write_bytes(content)
    assert run(copy, SHOW) == "('lang', 1) SourceFileLoader True True"


def test_a_pack_cut_short_is_as_good_as_none(copy):
    """A pack that ends within its index, or within the code that is wanted: the source counts."""
    (pack,) = (copy / "klasy" / "__pycache__").glob("*.pack")
    whole = pack.read_bytes()
    find = "f = startup.PackFinder(startup.pack_path())\nprint(f._bundles[f._entries['klasy.lang.inner'][-1]][0])"
    place = int(run(copy, find))
    for size in (10, 12, 50, place, place + 20):
        pack.write_bytes(whole[:size])
        assert run(copy, SHOW) == "('lang', 1) SourceFileLoader True True", size


# --- bundles: klasy.cli.main stands for the first ---


@pytest.fixture
def bundle(copy):
    """A copy with a bundle: klasy.cli.main imports two modules, one of which imports the other."""
    (copy / "klasy" / "cli").mkdir()
    (copy / "klasy" / "cli" / "__init__.py").touch()
    (copy / "klasy" / "cli" / "main.py").write_text(
        "from klasy.cli import first, second\nfrom klasy.errors import InputError\nVALUE = first.ORDER\n"
    )
    (copy / "klasy" / "cli" / "first.py").write_text("from klasy.cli.second import ORDER\nORDER.append('first')\n")
    (copy / "klasy" / "cli" / "second.py").write_text("ORDER = ['second']\n")
    assert run(copy, WRITE) == "True True"
    return copy


SHOW_BUNDLE = (
    "f = startup.install()\nimport klasy.cli.main as m\nimport klasy.cli.first as n\n"
    "print(m.VALUE, type(n.__spec__.loader).__name__, n.__package__, klasy.cli.first is n, f.stale)"
)


def test_a_bundle_is_run_in_order(bundle):
    """Each module is run once, after those that it imports, and is known to importlib and its package as usual."""
    assert run(bundle, "import klasy\n" + SHOW_BUNDLE) == "['second', 'first'] PackFinder klasy.cli True False"


def test_an_edited_module_of_a_bundle(bundle):
    """The edited source counts, for itself and for those that import it."""
    (bundle / "klasy" / "cli" / "second.py").write_text("ORDER = ['edited']\n")
    assert run(bundle, "import klasy\n" + SHOW_BUNDLE) == "['edited', 'first'] PackFinder klasy.cli True True"


def test_an_error_in_a_bundle(bundle):
    """What a module of a bundle raises gets to the importer, the module is not there then, and can be tried again."""
    (bundle / "klasy" / "cli" / "second.py").write_text("import sys\nORDER = sys.klasy_order\n")
    assert run(bundle, WRITE) == "True True"
    statement = (
        "import klasy\nstartup.install()\n"
        "try:\n    import klasy.cli.main\nexcept AttributeError as e:\n"
        "    print('klasy.cli.second' in sys.modules, e.__traceback__.tb_next is None)\n"
        "sys.klasy_order = ['late']\nimport klasy.cli.main\nprint(klasy.cli.main.VALUE)"
    )
    assert run(bundle, statement).splitlines() == ["False False", "['late', 'first']"]


def test_the_bundles_exist():
    """What BUNDLES names are modules."""
    for names in pack.BUNDLES:
        for name in names:
            assert Path(startup.HERE, *name.split(".")[1:]).with_suffix(".py").is_file(), name


def test_tracebacks_show_the_source(copy):
    """A traceback through a packed module shows its lines."""
    statement = (
        "startup.install()\nimport klasy.errors, traceback\n"
        "try:\n    klasy.errors.KernelRefused('x', 'no number')\nexcept Exception:\n"
        "    print(traceback.format_exc().count('os.strerror(errno)'))"
    )
    assert int(run(copy, statement)) >= 1


LEAN = '''"""Docs."""
from __future__ import annotations
import sys
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

class C:
    """Docs."""
    x: int = 3

def f(a: Any, *b: Any, c: Any = 4, **d: Any) -> Any:
    """Docs."""
    assert a, "stays"
    return sys._getframe().f_lineno
'''


def run_lean(text: str) -> dict:
    """The names of a module that was compiled as for the pack."""
    names: dict = {"__name__": "lean"}
    exec(pack.compile_lean(pack.lean(text.encode(), "lean.py"), "lean.py"), names)
    return names


def test_what_is_left_out():
    """Docstrings and the annotations of functions go; a class's annotations, assertions and lines stay."""
    names = run_lean(LEAN)
    assert names.get("__doc__") is names["C"].__doc__ is names["f"].__doc__ is None
    assert names["C"].__annotations__ == {"x": "int"}
    assert names["f"].__annotations__ == {}
    assert "annotations" not in names
    assert names["f"](1) == LEAN.splitlines().index("    return sys._getframe().f_lineno") + 1
    with pytest.raises(AssertionError):
        names["f"](0)


CLASSES = """
from __future__ import annotations
from klasy.plain import dataclass, field

@dataclass(frozen=True)
class Base:
    place: int = field(compare=False, repr=False)

@dataclass(frozen=True)
class Node(Base):
    name: str
    items: tuple = ()
    extra: list = field(default_factory=list, compare=False)

    def __repr__(self):
        return f"<{self.name}>"

@dataclass(frozen=True, slots=True)
class Slotted:
    x: int
    y: int = 2

    def sum(self):
        return self.x + self.y

@dataclass(frozen=True, slots=True)
class Derived(Slotted):
    z: str = "z"

    def sum(self):
        return Slotted.sum(self) + 100

@dataclass(eq=False)
class Identity:
    x: int
    def __post_init__(self):
        self.twice = 2 * self.x

@dataclass()
class Mutable:
    x: int
    seen: list = field(default_factory=list)

@dataclass(frozen=True, slots=True)
class Own:
    x: int
    def __eq__(self, other):
        return True
    def __hash__(self):
        return 7

def attempt(action):
    try:
        return action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

a, d = Slotted(1), Derived(1, 5)
match d:
    case Derived(x, y, z):
        parts = x, y, z
RESULT = [
    Node(1, "n"), Node(1, "n") == Node(2, "n"), Node(1, "n", (2,)) == Node(1, "n"),
    hash(Node(1, "n")) == hash(Node(3, "n")),
    Node(3, name="k").items, Node(3, "k").extra is Node(3, "k").extra, Base(4), Node.__match_args__, Base.__bases__,
    a, a.sum(), a == Slotted(1, 2), hash(a) == hash(Slotted(1)), Slotted.__slots__, hasattr(a, "__dict__"), len({a, d}),
    d, d.sum() == 106, Derived.__slots__, Derived.__mro__[1] is Slotted, parts,
    Derived.__qualname__, Derived.__module__,
    attempt(lambda: setattr(a, "x", 3)), attempt(lambda: delattr(d, "z")), attempt(lambda: Slotted()),
    attempt(lambda: a.__reduce__() == (Slotted, (1, 2))),
    Identity(3).twice, Identity(3) == Identity(3), attempt(lambda: isinstance(hash(Identity(1)), int)),
    Mutable(3), Mutable(3) == Mutable(3), attempt(lambda: hash(Mutable(3))), Mutable(1, [2]).seen,
    Own(1) == Own(2), hash(Own(3)), type(Own), Own.__annotations__,
]
"""


def test_dataclasses_are_the_same():
    """A class that its decorator completes while it is made is as one that is decorated afterwards."""
    usual: dict = {"__name__": "lean"}
    exec(CLASSES, usual)
    assert "metaclass=dataclass" in ast.unparse(pack.lean(CLASSES.encode(), "p.py"))
    assert "@dataclass" not in ast.unparse(pack.lean(CLASSES.encode(), "p.py"))
    assert repr(run_lean(CLASSES)["RESULT"]) == repr(usual["RESULT"])


def test_packages_are_found_when_needed():
    """Started without site, klasy is there at once, installed packages from the first that is imported, others not."""
    code = (
        f"import sys\nsys.path.append({str(SOURCES.parent)!r})\nfrom klasy import startup\nstartup.install()\n"
        "import klasy.cli.main\nprint('site' in sys.modules)\n"
        "import hypothesis\nprint('site' in sys.modules, hypothesis.__name__)\n"
        "try:\n    import klasy_has_no_such_friend\nexcept ImportError as error:\n    print(error.name)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False", "True hypothesis", "klasy_has_no_such_friend"]


PATTERNS = """
from klasy.plain import ASCII, DOTALL, MULTILINE, pattern
A = pattern(r"(?P<word>[a-z_]\\w*)(\\s+(?P<number>\\d+))?", ASCII)
B = pattern(rb"^(x|.)\\n", MULTILINE)
C = pattern("(?i)no.flags")
D = pattern("not " + "constant", DOTALL)
"""


def test_regular_expressions_come_compiled():
    """What the pack's compiler adds to a call of pattern() makes the same expression, and re is not imported."""
    compiled = run_lean(PATTERNS)
    usual: dict = {}
    exec(PATTERNS, usual)
    assert "compiled=" in ast.unparse(pack.lean(PATTERNS.encode(), "p.py"))
    for name in "ABCD":
        one, other = compiled[name], usual[name]
        assert (one.pattern, one.flags, one.groups, one.groupindex) == (
            other.pattern, other.flags, other.groups, other.groupindex
        )  # fmt: skip
    for text in ("ab 12", "ab", "ä1 2", "_x\t7"):
        assert str(compiled["A"].match(text)) == str(usual["A"].match(text))
        assert [m.groupdict() for m in compiled["A"].finditer(text)] == [
            m.groupdict() for m in usual["A"].finditer(text)
        ]
        assert [m.lastgroup for m in compiled["A"].finditer(text)] == [m.lastgroup for m in usual["A"].finditer(text)]
    assert compiled["B"].findall(b"x\ny\n\n") == usual["B"].findall(b"x\ny\n\n") == [b"x", b"y"]
    assert compiled["C"].match("NO-FLAGS")


TOLD_MANY_TIMES = """
import os, signal
from klasy import __main__ as klasy
from klasy.cli import main
def run():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        print("in order")
        raise
main.entry_point = run
klasy.entry_point()
"""


def test_the_first_of_many_counts():
    """Who presses Ctrl-C more than once does not disturb how a command ends, and gets no traceback."""
    ended = subprocess.run([sys.executable, "-c", TOLD_MANY_TIMES], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "in order\n", "")


LOST = """
import os, signal, sys, time, weakref

import klasy.__main__
import klasy.cli.main


def run():
    class Lock:
        pass

    lock = Lock()
    kept = weakref.ref(lock, lambda _: os.kill(os.getpid(), signal.SIGINT) or sum(range(10)))
    del lock
    os.write(1, b"dropped")
    time.sleep(60)


klasy.cli.main.entry_point = run
signal.signal(signal.SIGINT, signal.default_int_handler)
klasy.__main__.entry_point()
"""


def test_an_interrupt_that_python_drops_comes_again() -> None:
    """What a handler raises in a weak reference's callback is lost: the command ends all the same, quietly."""
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, check=False, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"dropped", b"")
