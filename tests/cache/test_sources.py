import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from minisae.cache import Filters, commands, lazy, rows_written, view, write_cache
from minisae.errors import InputError

from .helpers import documents, rows, small_cache

BF16 = ml_dtypes.bfloat16
B, T, D = 41, 7, 5
N = B * T


def x2():
    return rows(N, D)


def x3():
    return rows(N, D).reshape(B, T, D)


def tokens():
    return np.random.default_rng(1).integers(0, 97, (B, T)).astype(np.int64)


def imported(source, out, **options):
    """Import, and check that the rows are those of :func:`x2`."""
    sources = source if isinstance(source, list) else [source]
    cache = commands.import_(sources, out, dtype="fp32", shard_rows=101, **options)
    chunk = view(cache).read(0, cache.rows)
    np.testing.assert_array_equal(chunk.x, x2())
    return cache, chunk


def sequences(chunk):
    np.testing.assert_array_equal(chunk.position, np.tile(np.arange(T), B))
    np.testing.assert_array_equal(chunk.doc_id, np.repeat(np.arange(B), T))


def refused(source, out, what, **options):
    with pytest.raises(InputError, match=what) as info:
        commands.import_([source], out, **options)
    assert "\n" not in str(info.value)
    assert not out.exists()


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """Make the readers fetch a few rows at a time, as they do with large files."""
    monkeypatch.setattr("minisae.cache.table.STRETCH", 1000)
    monkeypatch.setattr("minisae.cache.arrow.STRETCH", 1000)
    monkeypatch.setattr(lazy, "STRETCH", 1000)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, dtype, order):
    np.save(tmp_path / "x.npy", np.asarray(x2(), dtype, order=order))
    _, chunk = imported(tmp_path / "x.npy", tmp_path / "c")
    assert (chunk.doc_id, chunk.position) == (None, None)
    np.save(tmp_path / "y.npy", np.asarray(x3(), dtype, order=order))
    sequences(imported(tmp_path / "y.npy", tmp_path / "d")[1])


def test_npy_of_bf16(tmp_path):
    np.save(tmp_path / "x.npy", x2().astype(BF16))
    refused(tmp_path / "x.npy", tmp_path / "c", "source_dtype='bf16'")
    imported(tmp_path / "x.npy", tmp_path / "c", source_dtype="bf16")


def test_a_set_of_npy_shards_in_natural_order(tmp_path):
    (tmp_path / "set").mkdir()
    for number, part in enumerate(np.array_split(x3(), 11)):
        np.save(tmp_path / "set" / f"part-{number}.npy", part)
    sequences(imported(tmp_path / "set", tmp_path / "c")[1])
    files = [tmp_path / "set" / f"part-{number}.npy" for number in range(11)]
    sequences(imported(files, tmp_path / "d")[1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    save(tmp_path / "x.npz", resid=x2(), doc_ids=documents(N), input_ids=tokens().reshape(-1))
    cache, chunk = imported(tmp_path / "x.npz", tmp_path / "c")
    np.testing.assert_array_equal(chunk.doc_id, documents(N))
    np.testing.assert_array_equal(chunk.token, tokens().reshape(-1))
    assert cache.manifest.documents == "given"


def test_safetensors(tmp_path):
    safetensors.numpy.save_file(
        {"x": x3().astype(BF16), "tokens": tokens(), "doc_id": np.arange(B)}, tmp_path / "x.safetensors"
    )
    _, chunk = imported(tmp_path / "x.safetensors", tmp_path / "c")
    sequences(chunk)
    np.testing.assert_array_equal(chunk.token, tokens().reshape(-1))


def test_safetensors_shards_and_index(tmp_path):
    (tmp_path / "set").mkdir()
    for number, part in enumerate(np.array_split(x2(), 3)):
        safetensors.numpy.save_file({"acts": part}, tmp_path / "set" / f"{number}.safetensors")
    imported(tmp_path / "set", tmp_path / "c")
    folder = tmp_path / "index"
    folder.mkdir()
    safetensors.numpy.save_file({"a": x2()}, folder / "1.safetensors")
    safetensors.numpy.save_file({"b": x2() + 1}, folder / "2.safetensors")
    places = {"a": "1.safetensors", "b": "2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    cache = commands.import_([folder], tmp_path / "d", dtype="fp32")
    assert cache.hooks == ("acts.a", "acts.b")
    np.testing.assert_array_equal(view(cache, hook="b").read(0, N).x, x2() + 1)
    imported(folder / "model.safetensors.index.json", tmp_path / "e", keys=["a"])


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", 3, "..", "a/../../x"])
def test_an_index_that_leaves_its_folder_is_refused(tmp_path, name):
    safetensors.numpy.save_file({"a": x2()}, tmp_path / "x.safetensors")
    (tmp_path / "f").mkdir()
    path = tmp_path / "f" / "m.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    refused(path, tmp_path / "c", "inside")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pt(tmp_path, legacy, dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    t = torch.from_numpy(x3()).to(getattr(torch, dtype))
    for name, content in (("x", t), ("y", {"states": t, "input_ids": torch.from_numpy(tokens())})):
        torch.save(content, tmp_path / f"{name}.pt", _use_new_zipfile_serialization=not legacy)
        sequences(imported(tmp_path / f"{name}.pt", tmp_path / name)[1])
    torch.save([t, t], tmp_path / "z.pt")
    refused(tmp_path / "z.pt", tmp_path / "c", "got a list")


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra 'caches' is not installed")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("layer/activations", data=x3(), chunks=(4, T, D))
        file["layer/token_ids"] = tokens()
        file["layer/name"] = "text"
    _, chunk = imported(tmp_path / "x.h5", tmp_path / "c")
    sequences(chunk)
    np.testing.assert_array_equal(chunk.token, tokens().reshape(-1))
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["acts"] = x2().astype(BF16).view(np.uint16)
        refused(tmp_path / "y.h5", tmp_path / "d", "bfloat16")
        file["acts"].attrs["dtype"] = "bfloat16"
    imported(tmp_path / "y.h5", tmp_path / "d")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("version", [2, 3])
def test_zarr(tmp_path, version):
    zarr = pytest.importorskip("zarr", reason="the extra 'caches' is not installed")
    group = zarr.create_group(str(tmp_path / "x.zarr"), zarr_format=version)
    group.create_array("acts", data=x2(), chunks=(13, D))
    group.create_array("doc_id", data=documents(N))
    np.testing.assert_array_equal(imported(tmp_path / "x.zarr", tmp_path / "c")[1].doc_id, documents(N))
    bits = zarr.create_array(str(tmp_path / "y"), data=x2().astype(BF16).view(np.uint16), zarr_format=version)
    refused(tmp_path / "y", tmp_path / "d", "bfloat16")
    bits.attrs["dtype"] = "bfloat16"
    imported(tmp_path / "y", tmp_path / "d")


def arrow_table(part):
    pa = pytest.importorskip("pyarrow", reason="the extra 'caches' is not installed")
    columns = {"blocks.1.hook_resid_post": pa.array(x3()[part].tolist(), pa.list_(pa.list_(pa.float32())))}
    return pa, pa.table(columns | {"token_ids": pa.array(tokens()[part].tolist(), pa.list_(pa.int32()))})


def test_a_data_set_folder_as_saelens_caches_it(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (slice(0, 20), slice(20, B)), strict=True):
        pa, made = arrow_table(part)
        with pa.ipc.new_stream(str(folder / name), made.schema) as stream:
            stream.write_table(made, max_chunksize=3)
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    _, chunk = imported(folder, tmp_path / "c")
    sequences(chunk)
    np.testing.assert_array_equal(chunk.token, tokens().reshape(-1))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../x.arrow"}]}))
    refused(folder, tmp_path / "d", "inside")


def test_arrow_file_and_parquet(tmp_path):
    pa, made = arrow_table(slice(0, B))
    parquet = pytest.importorskip("pyarrow.parquet")
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), made.schema) as stream:
        stream.write_table(made)
    sequences(imported(tmp_path / "x.arrow", tmp_path / "c")[1])
    parquet.write_table(made, tmp_path / "x.parquet", row_group_size=9)
    sequences(imported(tmp_path / "x.parquet", tmp_path / "d")[1])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x2().astype(np.float16).reshape(-1)), D)
    made = pa.table({"v": flat, "doc_id": documents(N), "text": ["a"] * N})
    parquet.write_table(made, tmp_path / "y.parquet", row_group_size=50)
    np.testing.assert_array_equal(imported(tmp_path / "y.parquet", tmp_path / "e")[1].doc_id, documents(N))
    uneven = pa.table({"v": pa.array([[1.0, 2.0], [3.0]])})
    parquet.write_table(uneven, tmp_path / "z.parquet")
    refused(tmp_path / "z.parquet", tmp_path / "f", "2 values|equal lengths")


def saev_folder(folder, **change):
    folder.mkdir()
    about = {"layers": [3, 11], "patches_per_ex": T - 1, "cls_token": True, "d_model": D, "n_ex": B, "dtype": "float32",
             "protocol": "2.1"}  # fmt: skip
    (folder / "metadata.json").write_text(json.dumps({**about, **change}))
    values = np.stack([x3(), x3() + 1], axis=1)
    parts = {"acts000000.bin": values[:30], "acts000001.bin": values[30:]}
    for name, part in parts.items():
        (folder / name).write_bytes(part.tobytes())
    shards = [{"name": name, "n_ex": len(part)} for name, part in parts.items()]
    (folder / "shards.json").write_text(json.dumps(shards))
    return folder


def test_saev(tmp_path):
    folder = saev_folder(tmp_path / "saev")
    sequences(imported(folder, tmp_path / "c", keys=["layer_3"])[1])
    cache = commands.import_([folder], tmp_path / "d", dtype="fp32")
    np.testing.assert_array_equal(view(cache, hook="layer_11").read(0, N).x, x2() + 1)
    refused(saev_folder(tmp_path / "v1", protocol="1.0"), tmp_path / "e", "protocol 2")
    refused(saev_folder(tmp_path / "wide", d_model=D + 1), tmp_path / "e", "acts000000")


def test_a_cache_is_a_source_too(tmp_path):
    np.save(tmp_path / "x.npy", x3())
    cache, _ = imported(tmp_path / "x.npy", tmp_path / "c")
    again, chunk = imported(tmp_path / "c", tmp_path / "d")
    sequences(chunk)
    assert (again.manifest.documents, again.rows) == ("sequences", cache.rows)
    twice = commands.import_([tmp_path / "c", tmp_path / "d"], tmp_path / "e", filters=Filters(skip_positions=1))
    chunk = view(twice).read(0, twice.rows)
    assert len(np.unique(chunk.doc_id)) == 2 * B
    assert chunk.position.min() == 1


def test_names_and_widths_must_agree(tmp_path):
    np.savez(tmp_path / "x.npz", a=x2(), b=rows(N - 1, D))
    refused(tmp_path / "x.npz", tmp_path / "c", "--key")
    refused(tmp_path / "x.npz", tmp_path / "c", "'q'", keys=["q"])
    imported(tmp_path / "x.npz", tmp_path / "c", keys=["a"])
    np.save(tmp_path / "y.npy", rows(N, D + 1))
    np.save(tmp_path / "z.npy", x2())
    with pytest.raises(InputError, match=r"y\.npy.*z\.npy"):
        commands.import_([tmp_path / "z.npy", tmp_path / "y.npy"], tmp_path / "d")
    np.savez(tmp_path / "t.npz", a=x2(), token=np.arange(N - 1))
    refused(tmp_path / "t.npz", tmp_path / "d", "token")


def test_rows_that_are_not_finite(tmp_path):
    x = x2()
    x[11, 2], x[200, 0] = np.nan, np.inf
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "good.npy", x2())
    with pytest.raises(InputError, match=r"x\.npy: acts: expected finite rows.*NaN or infinity .*rows 11"):
        commands.import_(
            [tmp_path / "good.npy", tmp_path / "x.npy"], tmp_path / "c"
        )  # rows count from the file's first
    cache = commands.import_([tmp_path / "x.npy"], tmp_path / "d", filters=Filters(drop_nonfinite=True))
    assert cache.rows == N - 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.npy", b""),
        ("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (10, 10), }\n"),
        ("x.npz", b"PK nonsense"),
        ("x.safetensors", (10 * 2**30).to_bytes(8, "little") + b"{}"),
        ("x.pt", b"nonsense"),
        ("x.pt", b""),
        ("x.h5", b"nonsense"),
        ("x.arrow", b"nonsense"),
        ("x.parquet", b"nonsense"),
        ("x.txt", b"text"),
        ("x", b"text"),
        ("x.safetensors.index.json", b"[]"),
    ],
)
def test_damaged_files_are_one_line_with_their_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, tmp_path / "c", name)


def test_a_pickled_npy_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)
    refused(tmp_path / "x.npy", tmp_path / "c", "never loaded")


def test_missing_paths_and_mixed_folders(tmp_path):
    refused(tmp_path / "none.npy", tmp_path / "c", "none of that name")
    (tmp_path / "f").mkdir()
    refused(tmp_path / "f", tmp_path / "c", "expected files")
    np.save(tmp_path / "f" / "x.npy", x2())
    np.savez(tmp_path / "f" / "x.npz", x2())
    refused(tmp_path / "f", tmp_path / "c", r"\.npy, \.npz")
    with pytest.raises(InputError, match="at least one"):
        commands.import_([], tmp_path / "c")


@pytest.mark.parametrize(
    ("module", "name"), [("h5py", "x.h5"), ("zarr", "x.zarr"), ("pyarrow", "x.arrow"), ("pyarrow", "x.parquet")]
)
def test_a_missing_extra_is_one_line(tmp_path, monkeypatch, module, name):
    def missing(wanted):
        raise ImportError(wanted)

    monkeypatch.setattr("minisae.cache.containers.importlib.import_module", missing)
    if name == "x.zarr":
        (tmp_path / name).mkdir()
        (tmp_path / name / "zarr.json").write_text("{}")
    else:
        (tmp_path / name).write_bytes(b"ARROW1")
    refused(tmp_path / name, tmp_path / "c", rf"{module} .*pip install 'minisae\[caches\]'")


def test_an_import_resumes_to_the_same_bytes(tmp_path):
    """Stop after each batch in turn; positions, documents and filters must not slip."""
    for number, part in enumerate(np.array_split(x3(), 3)):
        np.save(tmp_path / f"{number}.npy", part)
    files = [tmp_path / f"{number}.npy" for number in range(3)]
    options = {"shard_rows": 23, "filters": Filters(skip_positions=2, max_norm=1.2)}
    commands.import_(files, tmp_path / "whole", **options)
    stops = 0
    for _ in range(100):
        seen, done = [], rows_written(tmp_path / "c")

        def stop(rows, total, seen=seen, done=done):
            assert total == N
            seen.append(rows)
            if rows > done and len([row for row in seen if row > done]) == 2:
                raise RuntimeError("stop")

        try:
            commands.import_(files, tmp_path / "c", progress=stop, **options)
        except RuntimeError:
            stops += 1
        else:
            break
    assert stops > 3
    left, right = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "c"))
    assert left == right
    with pytest.raises(InputError, match="meta"):
        commands.import_(files[:2], tmp_path / "c", **options)


def stopped(sources, out, rows, **options):
    """Import until so many rows are read."""

    def stop(done, total):
        if done >= rows:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        commands.import_(sources, out, progress=stop, **options)


@pytest.mark.parametrize("stop", [None, 150])
def test_a_source_that_has_changed_is_refused(tmp_path, stop):
    x, options = x2(), {"shard_rows": 23}
    np.save(tmp_path / "x.npy", x)
    if stop:
        stopped([tmp_path / "x.npy"], tmp_path / "c", stop, **options)
    else:
        commands.import_([tmp_path / "x.npy"], tmp_path / "c", **options)
    before = {p.name: p.read_bytes() for p in (tmp_path / "c").iterdir()}
    x[70, 3] += 1
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match=r"shard-000003\.safetensors: .*rows 69 to 91 .*new folder") as info:
        commands.import_([tmp_path / "x.npy"], tmp_path / "c", **options)
    assert "\n" not in str(info.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "c").iterdir()} == before
    np.save(tmp_path / "x.npy", x2())  # the same data again, in a newer file
    imported(tmp_path / "x.npy", tmp_path / "whole")
    commands.import_([tmp_path / "x.npy"], tmp_path / "c", **options)
    assert commands.check(tmp_path / "c") == []


def test_info_and_check(tmp_path):
    small_cache(tmp_path / "c", meta={"model": "char-gpt", "hook": "blocks.1.resid"})
    about = commands.info(tmp_path / "c")
    assert (about["rows"], about["shards"], about["d_in"]) == (1511, 5, {"acts": 13})
    json.dumps(about)
    text = commands.info_text(about)
    assert "1,511" in text
    assert "blocks.1.resid" in text
    seen = []
    assert commands.check(tmp_path / "c", progress=seen.append) == []
    assert len(seen) == 5
    for name in ("shard-000001.safetensors", "shard-000004.safetensors"):
        content = bytearray((tmp_path / "c" / name).read_bytes())
        content[-1] ^= 1
        (tmp_path / "c" / name).write_bytes(content)
    (tmp_path / "c" / "shard-000002.safetensors").unlink()
    problems = commands.check(tmp_path / "c")
    assert [f"shard-00000{n}" in problem for n, problem in zip((1, 2, 4), problems, strict=True)] == [True] * 3


def test_a_cache_as_a_source_keeps_what_it_says_of_itself(tmp_path):
    x = np.random.default_rng(0).standard_normal((31, 5)).astype(np.float32)
    made = write_cache(tmp_path / "a", [x], meta={"model": "m", "hook": "h"})
    again = commands.import_([tmp_path / "a"], tmp_path / "b", meta={"hook": "other"})
    assert again.manifest.meta["model"] == "m"
    assert again.manifest.meta["hook"] == "other"
    assert repr(made) == f"Cache('{tmp_path / 'a'}', 31 rows, acts 5, bf16)"
