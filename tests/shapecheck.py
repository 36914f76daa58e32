"""Are the shape comments true? ``pre = x @ W  # (n, d_sae)`` is compared with the shape that ``pre`` has when it runs.

``Trace`` watches calls into the given files. After a line that assigns to one name it evaluates the comment: a letter
that stands alone is bound to the length it meets, a letter that is known must agree, and products, sums and numbers are
computed from known letters. Known are, within a call: whole numbers held by local variables of that name, the letters
given to the trace, the sizes in a local ``cfg``, and those bound by an earlier line. (The line that bound a letter may
bind it anew when a loop comes back to it.)

Checked are assignments to a single name. A comment is a tuple first, and may go on after a comma or a semicolon.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import numpy as np

COMMENT = re.compile(r"#\s*(\((?:[^()]|\([^()]*\))*\))\s*(?:$|[,;#])")


class Assignment(NamedTuple):
    """One assignment to a single name."""

    name: str
    first: int
    last: int
    dims: tuple[ast.expr, ...] | None
    """What the comment says; ``None`` without one."""


def read(path: Path) -> dict[int, Assignment]:
    """Return the assignments of a file, by each of their lines."""
    text = path.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    found: dict[int, Assignment] = {}
    for node in ast.walk(ast.parse(text)):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and len(targets) == 1 and isinstance(targets[0], ast.Name):
            assert node.end_lineno is not None
            says = parse(comments.get(node.end_lineno, ""))
            item = Assignment(targets[0].id, node.lineno, node.end_lineno, says)
            found |= dict.fromkeys(range(node.lineno, node.end_lineno + 1), item)
    return found


def parse(comment: str) -> tuple[ast.expr, ...] | None:
    """Return the dimensions of a comment, or ``None`` if it does not begin with a tuple of them."""
    match = COMMENT.match(comment)
    if match is None:
        return None
    try:
        value = ast.parse(match[1], mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(value, ast.Tuple):
        return None
    allowed = (ast.Name, ast.Constant, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Load)
    return tuple(value.elts) if all(isinstance(n, allowed) for e in value.elts for n in ast.walk(e)) else None


class Wrong(NamedTuple):
    """A comment that is not true."""

    where: str
    says: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.where}: the comment says {self.says}, the shape is {self.shape}"


class Trace:
    """A context in which calls into ``files`` are watched; what it saw is in ``wrong``, ``checked`` and ``bare``."""

    def __init__(self, files: Iterable[Path], **letters: int) -> None:
        self.files = {str(path): read(path) for path in files}
        self.letters = letters
        self.wrong: list[Wrong] = []
        self.checked: set[tuple[str, int]] = set()
        """Places (file, line) of comments that were compared at least once."""
        self.bare: dict[tuple[str, int], str] = {}
        """Places of assignments that held an array and carry no comment, with the name."""
        self._before: Any = None

    def __enter__(self) -> "Trace":
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        lines = self.files.get(frame.f_code.co_filename)
        if lines is None:
            return None
        bound: dict[str, tuple[int, int]] = {}
        pending: Assignment | None = None

        def local(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal pending
            if event == "exception":
                pending = None
                return local
            inside = pending is not None and event == "line" and pending.first <= frame.f_lineno <= pending.last
            if pending is not None and not inside:
                self._check(pending, frame, bound)
            pending = lines.get(frame.f_lineno) if event == "line" else None
            return local

        return local

    def _check(self, item: Assignment, frame: FrameType, bound: dict[str, tuple[int, int]]) -> None:
        value = frame.f_locals.get(item.name)
        if not hasattr(value, "shape") or not isinstance(value.shape, tuple):
            return
        file = frame.f_code.co_filename
        if item.dims is None:
            if isinstance(value, np.ndarray):
                self.bare[file, item.first] = item.name
            return
        self.checked.add((file, item.first))
        if not self._agrees(item, value.shape, frame, bound):
            says = ast.unparse(ast.Tuple(list(item.dims), ast.Load()))
            self.wrong.append(Wrong(f"{file}:{item.first} {item.name}", says, value.shape))

    def _agrees(
        self, item: Assignment, shape: tuple[int, ...], frame: FrameType, bound: dict[str, tuple[int, int]]
    ) -> bool:
        dims = item.dims or ()
        if dims and isinstance(dims[0], ast.Constant) and dims[0].value is ...:  # any number of leading axes
            dims, shape = dims[1:], shape[max(0, len(shape) - len(dims) + 1) :]
        if len(dims) != len(shape):
            return False
        known = {letter: size for letter, (size, line) in bound.items() if line != item.first} | self._known(frame)
        for expr, size in zip(dims, shape, strict=True):
            names = {node.id for node in ast.walk(expr) if isinstance(node, ast.Name)}
            if isinstance(expr, ast.Name) and expr.id not in known:
                bound[expr.id] = size, item.first
                known[expr.id] = size
            elif names <= known.keys() and eval(compile(ast.Expression(expr), "comment", "eval"), {}, known) != size:
                return False
        return True

    def _known(self, frame: FrameType) -> dict[str, int]:
        cfg = frame.f_locals.get("cfg")
        sizes = {name: getattr(cfg, name) for name in ("d_in", "d_sae") if hasattr(cfg, name)}
        held = {k: int(v) for k, v in frame.f_locals.items() if isinstance(v, int | np.integer) and type(v) is not bool}
        return {**sizes, **self.letters, **held}
