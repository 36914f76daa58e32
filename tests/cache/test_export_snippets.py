"""The README's export snippets: the one for PyTorch runs here, where torch is installed; all of them are Python."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from minisae.cache import commands, open_cache, view

README = Path(__file__).parents[2] / "README.md"


def snippets():
    """The fenced blocks that follow a marker ``<!-- snippet: NAME -->``, by name."""
    found = re.findall(r"<!-- snippet: (\w+) -->\s*```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return dict(found)


def test_every_snippet_is_python():
    assert {"torch", "transformers", "jax", "tensorflow"} <= snippets().keys()
    for text in snippets().values():
        ast.parse(text)


def test_the_torch_snippet_writes_a_cache(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(snippets()["torch"], "README.md", "exec"), names)
    [folder] = {path.parent for path in tmp_path.rglob("manifest.json")}
    cache = open_cache(folder, verify=True)
    assert commands.check(folder) == []
    chunk = view(cache).read(0, cache.rows)
    documents = names["documents"]
    assert chunk.x.shape[0] == documents.numel()
    np.testing.assert_array_equal(chunk.token, documents.reshape(-1).numpy())
    np.testing.assert_array_equal(chunk.doc_id, np.repeat(np.arange(len(documents)), documents.shape[1]))
    assert set(cache.manifest.meta) >= {"model", "hook"}
