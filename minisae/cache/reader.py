"""Opening a cache, verifying it, and views of it: the rows of one or several tensors that pass some filters."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minisae.cache import header
from minisae.cache.format import (
    LOG,
    Manifest,
    Shard,
    Stats,
    check_shard,
    pooled,
    read_log,
    read_manifest,
)
from minisae.errors import InputError


class Cache(NamedTuple):
    """An activation cache on the disk, its small files read and its shards' headers checked."""

    path: Path
    manifest: Manifest
    shards: tuple[Shard, ...]
    layout: tuple[dict[str, header.Tensor], ...]
    """Where each tensor lies, for each shard."""

    def __repr__(self) -> str:
        """Return one line: a cache's log can have thousands."""
        widths = ", ".join(f"{name} {width}" for name, width in self.manifest.d_in.items())
        return f"Cache({str(self.path)!r}, {self.rows:,} rows, {widths}, {self.manifest.dtype})"

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(shard.rows for shard in self.shards)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Names of the tensors: ``("acts",)`` or one ``acts.<hook>`` each."""
        return tuple(self.manifest.d_in)

    @property
    def identity(self) -> str:
        """A hash of everything the cache holds, for the record of a run."""
        text = "\n".join([repr(self.manifest), *(shard.sha256 for shard in self.shards)])
        return hashlib.sha256(text.encode()).hexdigest()

    def stats(self, hook: str | None = None) -> Stats:
        """Return the moments of one tensor over all rows, as its writer accumulated them in float64."""
        name = hook_name(self, hook)
        return pooled([(shard.rows, shard.stats[name]) for shard in self.shards])


def open_cache(path: str | Path, *, verify: bool = False, unfinished: bool = False) -> Cache:
    """Open an activation cache.

    Sizes and headers of all shards are checked. ``verify`` also reads every byte and compares checksums; training does
    so before its first step. ``unfinished`` accepts a cache whose writer was stopped: the rows of its finished shards.

    Raises
    ------
    InputError
        For what is no cache, holds no rows, is unfinished, or is damaged, naming the file.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    log = read_log(folder, manifest)
    if not log.finished and not unfinished:
        what = "its last line is torn" if log.torn else "its closing line is missing"
        raise InputError(
            f"{folder / LOG}: expected a finished cache, but {what}; write it again to resume, or open it as unfinished"
        )
    if not log.shards:
        raise InputError(f"{folder}: expected a cache with rows, got an empty one")
    for shard in log.shards:
        if not all(np.isfinite(s.second_moment).all() and np.isfinite(s.mean).all() for s in shard.stats.values()):
            raise InputError(f"{folder / shard.file}: expected finite rows, got NaN or infinite moments in {LOG}")
    layout = tuple(check_shard(folder, shard, manifest) for shard in log.shards)
    cache = Cache(folder, manifest, log.shards, layout)
    if verify:
        for problem in damaged_shards(cache):
            raise InputError(problem)
    return cache


def damaged_shards(cache: Cache, *, workers: int = 2) -> Iterator[str]:
    """Read every byte of every shard and yield one line for each whose checksum is not the log's."""
    pool = ThreadPoolExecutor(workers)
    try:
        found = pool.map(lambda shard: file_sha256(cache.path / shard.file), cache.shards)
        for shard, digest in zip(cache.shards, found, strict=True):
            if digest != shard.sha256:
                yield (
                    f"{cache.path / shard.file}: expected the sha256 {shard.sha256[:16]}... of {LOG}, "
                    f"got {digest[:16]}...; the shard (rows {shard.row0} to {shard.row0 + shard.rows - 1}) is damaged"
                )
    finally:
        pool.shutdown(cancel_futures=True)


def file_sha256(path: Path) -> str:
    """Return the checksum of a whole file."""
    try:
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got {error.strerror}") from None


def hook_name(cache: Cache, hook: str | None) -> str:
    """Return the tensor's name for a hook given with or without ``acts.``; ``None`` where there is only one."""
    if hook is None and len(cache.hooks) == 1:
        return cache.hooks[0]
    if hook in cache.hooks:
        return str(hook)
    if f"acts.{hook}" in cache.hooks:
        return f"acts.{hook}"
    raise InputError(f"hook: expected one of {', '.join(cache.hooks)} in {cache.path}, got {hook!r}")


def read_range(cache: Cache, shard: int, name: str, start: int, out: np.ndarray) -> None:
    """Read rows ``start`` to ``start + len(out)`` of a tensor of one shard into ``out (n, d_in)`` or ``(n,)``.

    Plain reads and no memory map: mapped pages would count as memory of this process.
    """
    tensor, path = cache.layout[shard][name], cache.path / cache.shards[shard].file
    width = tensor.nbytes // tensor.shape[0]
    target = out.reshape(-1).view(np.uint8).data
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(tensor.offset + start * width)
            done = 0
            while done < len(target):
                got = file.readinto(target[done:])
                if not got:
                    raise InputError(f"{path}: expected {len(target) - done} bytes more of {name}, got the file's end")
                done += got
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got {error.strerror}") from None


def read_column(cache: Cache, shard: int, name: str) -> np.ndarray:
    """Return a whole column of one shard: ``(rows,)`` int32."""
    out = np.empty(cache.shards[shard].rows, np.int32)  # (rows,)
    read_range(cache, shard, name, 0, out)
    return out
