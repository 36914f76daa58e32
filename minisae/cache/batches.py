"""What a producer yields, made rows: any array or dict of arrays, flattened, checked, filtered, in the stored type."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from minisae.cache.arrays import STORED, bad_rows, nonfinite_message, to_column, to_floats, to_numpy
from minisae.cache.filters import Filters, keep_by_columns, require_columns
from minisae.cache.format import COLUMNS, TENSOR_NAME
from minisae.errors import InputError


class Rows(NamedTuple):
    """A run of source rows, in any float type."""

    row0: int
    """Number of the first row in the source."""
    acts: dict[str, np.ndarray]
    """``(n, d_in)`` each"""
    columns: dict[str, np.ndarray]
    """``(n,)`` int32 each"""
    mask: np.ndarray | None
    """``(n,)`` of bool: rows the producer wants; ``None``: all"""
    documents: str
    where: str = "batches"
    """What a message calls the source: a file's name, where the rows are read from one."""
    first: int = 0
    """Number of the row with which the file begins; messages count from there."""

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(next(iter(self.acts.values())))


class Piece(NamedTuple):
    """Rows that passed the filters, in the stored type."""

    acts: dict[str, np.ndarray]
    """``(n, d_in)`` each"""
    columns: dict[str, np.ndarray]
    """``(n,)`` each"""
    source: np.ndarray
    """``(n,)`` int64: their numbers in the source"""
    end: int
    """Source rows used up after this piece."""
    documents: str


def flat(batch: Any, *, row0: int, sequences: int, source_dtype: str | None) -> Rows:
    """Flatten one batch to rows.

    A 3-D batch ``(b, t, d_in)`` tells the position of each row and, where no ``doc_id`` is given, counts each of its
    ``b`` sequences as a document, numbered on from ``sequences``.
    """
    fields = dict(batch) if isinstance(batch, Mapping) else {"acts": batch}
    acts = {
        str(name): to_floats(a, name=str(name), source_dtype=source_dtype) for name, a in fields.items() if _acts(name)
    }
    if not acts:
        raise InputError(f"batches: expected 'acts' or 'acts.<hook>' in a batch, got {sorted(map(str, fields))}")
    leads = {a.shape[:-1] for a in acts.values()}
    lead = leads.pop()
    if leads or len(lead) not in (1, 2):
        shapes = ", ".join(f"{name} {a.shape}" for name, a in acts.items())
        raise InputError(f"batches: expected arrays (n, d_in) or (b, t, d_in) of the same rows, got {shapes}")
    columns: dict[str, np.ndarray] = {}
    for name in COLUMNS:
        if fields.get(name) is not None:
            columns[name] = _flat_column(to_column(fields[name], name=name), lead, name)
    mask = None
    if fields.get("mask") is not None:
        mask = _flat_column(to_numpy(fields["mask"], name="mask").astype(bool), lead, "mask")
    unknown = set(map(str, fields)) - set(acts) - {*COLUMNS, "mask"}
    if unknown:
        raise InputError(f"batches: expected acts, acts.<hook>, {', '.join(COLUMNS)} or mask, got {sorted(unknown)}")
    documents = "given" if "doc_id" in columns else "none"
    if len(lead) == 2:
        b, t = lead
        columns.setdefault("position", np.tile(np.arange(t, dtype=np.int32), b))
        if "doc_id" not in columns:
            columns["doc_id"], documents = (
                np.repeat(np.arange(sequences, sequences + b, dtype=np.int32), t),
                "sequences",
            )
    flattened = {name: a.reshape(-1, a.shape[-1]) for name, a in sorted(acts.items())}
    return Rows(row0, flattened, {name: columns[name] for name in COLUMNS if name in columns}, mask, documents)


def _acts(name: Any) -> bool:
    return isinstance(name, str) and TENSOR_NAME.fullmatch(name) is not None


def _flat_column(a: np.ndarray, lead: tuple[int, ...], name: str) -> np.ndarray:
    """Bring a column to one number a row; one number a sequence is repeated along it."""
    if len(lead) == 2 and a.shape in ((lead[0],), (lead[0], 1)):
        a = np.broadcast_to(a.reshape(-1, 1), lead)  # (b, t)
    if a.shape != lead:
        raise InputError(f"{name}: expected the shape {lead} of the rows, got {a.shape}")
    return a.reshape(-1)


def flat_batches(batches: Iterable[Any], *, start: int, source_dtype: str | None) -> Iterator[Rows]:
    """Flatten the batches of a producer that begins at row ``start``."""
    row0, sequences = start, 0
    for batch in batches:
        rows = flat(batch, row0=row0, sequences=sequences, source_dtype=source_dtype)
        if rows.documents == "sequences":
            if start:
                raise InputError("batches: expected doc_id in every batch where start > 0, got (b, t, d_in) without it")
            sequences = int(rows.columns["doc_id"][-1]) + 1 if rows.n else sequences
        row0 += rows.n
        yield rows


def passed_over(stream: Iterable[Rows], *, start: int, skip: int) -> Iterator[Rows]:
    """Yield a stream that begins at row ``start`` from row ``skip`` on; refuse one that ends before that row."""
    end = start
    for rows in stream:
        end += rows.n
        if end > skip:
            yield _later(rows, skip - rows.row0)
    if end < skip:
        raise InputError(f"batches: expected at least {skip} rows, which the cache already holds, got {end}")


def _later(rows: Rows, count: int) -> Rows:
    """Return ``rows`` without the first ``count`` (nothing is dropped for a count below 1)."""
    if count <= 0:
        return rows
    return rows._replace(
        row0=rows.row0 + count,
        acts={name: a[count:] for name, a in rows.acts.items()},
        columns={name: a[count:] for name, a in rows.columns.items()},
        mask=None if rows.mask is None else rows.mask[count:],
    )


def kept(stream: Iterable[Rows], *, dtype: str, filters: Filters) -> Iterator[Piece]:
    """Filter rows (all but ``max_norm``, which needs the median first) and bring them to the stored type.

    Raises
    ------
    InputError
        When batches differ in their tensors, widths or columns, and for rows that are not finite in the stored type.
    """
    kind: Any = None
    for rows in stream:
        this = ({name: a.shape[1] for name, a in rows.acts.items()}, tuple(rows.columns))
        kind = kind or this
        if this != kind:
            raise InputError(f"{rows.where}: expected {_described(*kind)} in every batch, got {_described(*this)}")
        require_columns(filters, rows.columns, rows.where)
        keep = keep_by_columns(filters, rows.columns, rows.n)  # (n,)
        if rows.mask is not None:
            keep &= rows.mask
        index = np.flatnonzero(keep)  # (n_kept,)
        acts = {name: _stored(a if keep.all() else a[index], dtype) for name, a in rows.acts.items()}
        good = np.ones(len(index), bool)  # (n_kept,)
        for name, x in acts.items():
            bad = bad_rows(x)  # (n_kept,)
            if bad.any() and not filters.drop_nonfinite:
                raise InputError(nonfinite_message(f"{rows.where}: {name}", x, bad, index + rows.row0 - rows.first))
            good &= ~bad
        if not good.all():
            index, acts = index[good], {name: x[good] for name, x in acts.items()}
        columns = {name: a[index] for name, a in rows.columns.items()}
        yield Piece(acts, columns, index + rows.row0, rows.row0 + rows.n, rows.documents)


def _stored(x: np.ndarray, dtype: str) -> np.ndarray:
    """Convert to the stored type; what is too large for it becomes infinite and is reported as such."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(x.astype(STORED[dtype], copy=False))


def select(piece: Piece, keep: np.ndarray) -> Piece:
    """Return the rows of a piece for which ``keep (n,)`` is true."""
    if keep.all():
        return piece
    return piece._replace(
        acts={name: x[keep] for name, x in piece.acts.items()},
        columns={name: a[keep] for name, a in piece.columns.items()},
        source=piece.source[keep],
    )


def _described(widths: dict[str, int], columns: tuple[str, ...]) -> str:
    return ", ".join([*(f"{name} of width {d}" for name, d in widths.items()), *columns])
