"""Activation caches: format 1, its crash-safe writer, shuffled streaming, and readers of other formats."""

from minisae.cache.filters import KEEP_ALL, Filters
from minisae.cache.reader import Cache, open_cache
from minisae.cache.stream import ArraySource, Chunk, Source, View, array_source
from minisae.cache.views import Split, as_source, split, view
from minisae.cache.writer import rows_written, write_cache

__all__ = [
    "KEEP_ALL",
    "ArraySource",
    "Cache",
    "Chunk",
    "Filters",
    "Source",
    "Split",
    "View",
    "array_source",
    "as_source",
    "open_cache",
    "rows_written",
    "split",
    "view",
    "write_cache",
]
