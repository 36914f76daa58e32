"""What ``minisae verify`` does: arguments in, text and numbers out."""

import argparse

from minisae.console import Result
from minisae.verify import harness, vectors
from minisae.verify.adapter import load_adapter


def run_(options: argparse.Namespace) -> Result:
    """Check another implementation against the reference, row by row."""
    adapter = load_adapter(options.adapter)
    report = harness.check(
        adapter, options.variant, case=options.case, dtype=options.dtype, preset=options.preset,
        tolerance=options.tolerance,
    )  # fmt: skip
    numbers = report._asdict() | {"ok": report.ok, "rows": [row._asdict() for row in report.rows]}
    return Result(str(report), numbers, int(not report.ok))


def write_(options: argparse.Namespace) -> Result:
    """Write the conformance vectors: two files a variant, for a check in any language."""
    paths = vectors.write(options.out, options.variant)
    size = sum(path.stat().st_size for path in paths)
    text = f"{options.out}: {len(paths)} files, {size / 2**20:.2f} MiB; python -c 'help(\"minisae.verify.vectors\")'"
    return Result(text, {"out": str(options.out), "files": [path.name for path in paths], "bytes": size})
