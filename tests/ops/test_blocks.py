"""Blocks and threads: everything is done once, errors come through, and the bits do not depend on the threads."""

import threading

import numpy as np
import pytest

from minisae.ops import blocks, code_slope, decode, relu, top_k, weight_slope
from minisae.optim import adam_init, adam_step


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 131])
def test_row_blocks_cover_all_rows(rows):
    cuts = blocks.row_blocks(rows, 10, 80)
    assert [i for cut in cuts for i in range(rows)[cut]] == list(range(rows))
    assert all(0 <= cut.stop - cut.start <= 8 for cut in cuts)
    assert blocks.row_blocks(3, 1000, 80) == [slice(0, 1), slice(1, 2), slice(2, 3)]


@pytest.fixture
def threads(monkeypatch):
    def use(count):
        monkeypatch.setattr(blocks, "thread_count", lambda: count)

    return use


def test_each_block_once(threads):
    threads(3)
    done, names = [], set()
    both_here = threading.Barrier(2, timeout=20)

    def work(i):
        if i < 2:
            both_here.wait()
        names.add(threading.current_thread().name)
        done.append(i)

    blocks.each(work, range(131))
    assert sorted(done) == list(range(131))
    assert len(names) > 1


def test_an_error_in_a_helper_comes_through(threads):
    threads(2)
    both_here = threading.Barrier(2, timeout=20)
    caller = threading.current_thread()

    def work(i):
        both_here.wait()
        if threading.current_thread() is not caller:
            raise ValueError("in a helper")

    with pytest.raises(ValueError, match="in a helper"):
        blocks.each(work, range(2))


def test_helpers_keep_numpys_error_state(threads):
    threads(2)
    both_here = threading.Barrier(2, timeout=20)

    def work(i):
        both_here.wait()
        np.float32(1) / np.zeros(3, np.float32)

    with np.errstate(divide="ignore"):
        blocks.each(work, range(2))


def test_the_bits_do_not_depend_on_the_threads(threads):
    rng = np.random.default_rng(0)
    pre = rng.standard_normal((523, 1031)).astype(np.float32)
    W = rng.standard_normal((1031, 127)).astype(np.float32)
    d_x_hat = rng.standard_normal((523, 127)).astype(np.float32)
    found = []
    for count in (1, 2, 4, 2):
        threads(count)
        f = top_k(pre, 11)
        params = {"W": W.copy()}
        state = adam_step(params, {"W": weight_slope(f, d_x_hat)}, adam_init(params), lr=0.1)
        arrays = [f.values, f.columns, decode(f, W), code_slope(f, d_x_hat, W, 0.1).values, params["W"], state.v["W"]]
        arrays.append(code_slope(relu(pre), d_x_hat, W, 0.1))
        found.append([a.tobytes() for a in arrays])
    assert all(bits == found[0] for bits in found)


@pytest.mark.parametrize(("variable", "expected"), [("1", 1), ("0", None), ("many", None)])
def test_thread_count_follows_the_variables_of_blas(monkeypatch, variable, expected):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    free = blocks.thread_count.__wrapped__()
    assert 1 <= free <= blocks.MAX_THREADS
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert blocks.thread_count.__wrapped__() == (expected or free)
