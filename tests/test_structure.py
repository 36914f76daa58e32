"""The design's rules that can be read off the source: which way imports point, sizes, and words that do not occur."""

import ast
import re
from pathlib import Path

import pytest

import minisae

ROOT = Path(minisae.__file__).parent.parent
LAYERS = (
    ("minisae.errors", "minisae.version", "minisae.backend", "minisae.streams"),
    ("minisae.ops",),
    ("minisae.losses", "minisae.optim", "minisae.schedules"),
    ("minisae.sae", "minisae.conventions", "minisae.dead", "minisae.recipe", "minisae.presets", "minisae.synthetic"),
    ("minisae.cache", "minisae.checkpoint", "minisae.models", "minisae.interop"),
    ("minisae.metrics",),
    ("minisae.train", "minisae.runs", "minisae.end_to_end", "minisae.console", "minisae.progress", "minisae"),
    ("toy_models",),
    ("minisae.interventions", "minisae.interpret", "minisae.baselines", "minisae.verify", "minisae.ledger"),
    (
        *("minisae.cli", "minisae.__main__", "minisae.commands", "minisae.convert", "minisae.info", "minisae.demo"),
        *("minisae.bench", "minisae.settings"),
        *("minisae.quality", "minisae.demo_jobs", "minisae.demo_report", "minisae.evaluate"),
        *("minisae.gpu.parity", "minisae.gpu.bench"),
    ),
)
"""Who may import whom: a module imports from its own layer and from the layers above it in this list."""

FILE_LINES, FUNCTION_LINES = 350, 50
LONG_FILES: dict[str, str] = {}
"""Files that may be longer, with the reason."""
LONG_FUNCTIONS: dict[str, str] = {}
"""Functions that may be longer, with the reason."""
PRINTS = ("minisae/console.py", "gpu/parity.py", "gpu/bench.py")
"""Files that talk to people."""
CUPY = ("minisae/backend.py", "gpu/")
TORCH = ("minisae/bench.py", "toy_models/bench.py", "minisae/verify/adapters/")
"""Who may load torch: ``bench --against torch`` measures it, and the adapters' subject is libraries made of it."""
KEYWORDS = ("minisae/ops/dispatch.py",)
"""The one file with ``**kwargs``: a decorator that hands arguments through."""


def files():
    return [p for top in ("minisae", "gpu", "toy_models") for p in sorted((ROOT / top).rglob("*.py"))]


def name_of(path):
    """The file's path as the tests name it, and the module's dotted name as it is imported."""
    place = path.relative_to(ROOT).as_posix()
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return place, ".".join(["minisae", *parts] if parts[0] == "gpu" else parts)


SOURCES = {name_of(path)[0]: ast.parse(path.read_text(encoding="utf-8")) for path in files()}
MODULES = {name_of(path)[1]: name_of(path)[0] for path in files()}


def layer(module):
    """The number of a module's layer: the longest listed name that is a prefix of it."""
    best = max(
        ((name, i) for i, names in enumerate(LAYERS) for name in names if f"{module}.".startswith(f"{name}.")),
        key=lambda found: len(found[0]),
        default=None,
    )
    return best if best and (best[0] != "minisae" or module == "minisae") else None


def imports(module, tree, is_package):
    """Yield ``(module imported, line)``; ``from package import name`` counts as the submodule where there is one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*here, *([base] if base else [])])
            for alias in node.names:
                yield (f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base), node.lineno


def edges(modules=None):
    for module, place in (modules or MODULES).items():
        for target, line in imports(module, SOURCES[place], place.endswith("__init__.py")):
            yield module, target, f"{place}:{line}"


def against_the_direction(found):
    for module, target, where in found:
        ours = target.partition(".")[0] in ("minisae", "toy_models")
        if not ours or layer(module) is None or layer(target) is None:
            continue
        if layer(target)[1] > layer(module)[1]:
            yield f"{where}: {module} imports {target}"


def test_every_module_has_a_layer():
    kernels = {"minisae.gpu"}  # loaded lazily by ops: see test_who_imports_gpu
    missing = [m for m in MODULES if layer(m) is None and not any(f"{m}.".startswith(f"{k}.") for k in kernels)]
    assert not missing, f"put these into LAYERS: {missing}"


def test_imports_point_one_way():
    assert not list(against_the_direction(edges()))


def test_a_planted_import_is_found():
    planted = [("minisae.ops.select", "minisae.losses", "here:1"), ("minisae.losses", "minisae.ops", "here:2")]
    assert list(against_the_direction(planted)) == ["here:1: minisae.ops.select imports minisae.losses"]


def test_variants_do_not_import_variants():
    variants = {f"minisae.sae.{name}" for name in minisae.sae.VARIANTS}
    crossed = [where for module, target, where in edges() if {module, target} <= variants and module != target]
    assert not crossed


def test_who_imports_gpu():
    allowed = ("minisae.ops", "minisae.backend", "minisae.gpu", "minisae.cli", "minisae.bench")
    strangers = [
        where
        for module, target, where in edges()
        if target.startswith("minisae.gpu") and not module.startswith(allowed)
    ]
    assert not strangers


def named(tree, word):
    """Lines at which a module is imported or used by name; texts such as ``"cupy"`` as a flag's value are no use."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Name):
            names = [node.id]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if any(name.partition(".")[0] == word for name in names):
            yield node.lineno


def defined(place):
    """The names that a module defines or imports."""
    for node in SOURCES[place].body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        for target in [node, *getattr(node, "targets", []), getattr(node, "target", None)]:
            yield getattr(target, "name", getattr(target, "id", None))


def test_what_a_docstring_refers_to_is_there():
    missing = []
    for place, tree in SOURCES.items():
        texts = (str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant))
        for name in re.findall(r":(?:func|data|class|mod):`~?([\w.]+)`", "\n".join(texts)):
            where, _, last = name.rpartition(".")
            known = last in defined(MODULES[where]) if where in MODULES else name.partition(".")[0] in defined(place)
            if name not in MODULES and not known:
                missing.append(f"{place}: {name}")
    assert not missing


@pytest.mark.parametrize(("word", "allowed"), [("cupy", CUPY), ("cupyx", CUPY), ("torch", TORCH)])
def test_cupy_and_torch_stay_where_they_belong(word, allowed):
    found = [
        f"{place}:{line}"
        for place, tree in SOURCES.items()
        if not place.startswith(allowed)
        for line in named(tree, word)
    ]
    assert not found


def test_lengths_of_files():
    long = {}
    for path in files():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES:
            long[name_of(path)[0]] = lines
    assert long.keys() == LONG_FILES.keys(), long


def functions(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            text = first.end_lineno - first.lineno + 1 if documented else 0
            yield node, node.end_lineno - node.lineno + 1 - text


def test_lengths_of_functions():
    long = {
        f"{place}:{node.name}": lines
        for place, tree in SOURCES.items()
        for node, lines in functions(tree)
        if lines > FUNCTION_LINES
    }
    assert long.keys() == LONG_FUNCTIONS.keys(), long


def test_nothing_prints():
    found = [
        f"{place}:{node.lineno}"
        for place, tree in SOURCES.items()
        if place not in PRINTS
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("print", "breakpoint", "input")
    ]
    assert not found


def test_no_keyword_bags():
    found = [
        f"{place}:{node.lineno} {node.name}"
        for place, tree in SOURCES.items()
        if place not in KEYWORDS
        for node, _ in functions(tree)
        if node.args.kwarg
    ]
    assert not found


def test_no_inheritance_but_protocols_tuples_and_errors():
    bases = {"NamedTuple", "Protocol", "Exception", "ValueError", "ArithmeticError"}
    found = [
        f"{place}:{node.lineno} class {node.name}"
        for place, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).partition("[")[0] not in bases for base in node.bases)
    ]
    assert not found


def test_nothing_is_unpickled():
    found = []
    for place, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec"):
                found.append(f"{place}:{node.lineno}")
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if "pickle" in [*names, node.module if isinstance(node, ast.ImportFrom) else ""]:
                found.append(f"{place}:{node.lineno}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                found.append(f"{place}:{node.value.lineno}")
    assert not found
