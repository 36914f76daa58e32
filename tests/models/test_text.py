import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisae.errors import InputError
from minisae.models import text


def test_alphabet_is_small_sorted_and_ascii():
    assert len(text.ALPHABET) == len(set(text.ALPHABET)) == 85
    assert list(text.ALPHABET) == sorted(text.ALPHABET)
    assert text.ALPHABET.isascii()


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("“Ay,” he said—‘whale’", "\"Ay,\" he said--'whale'"),
        ("naïve café", "naive cafe"),
        ("a\t b\xa0  c", "a b c"),
        ("one\r\n\r\n\r\n\r\ntwo \r three", "one\n\ntwo\nthree"),
        ("1–2…", "1-2..."),
        ("{x} ϰ 中", "~x~ ~ ~"),
        ("", ""),
    ],
)
def test_the_rule(raw, plain):
    assert text.normalise(raw) == plain
    assert text.decode(text.encode(raw)) == plain


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text())
def test_any_text_encodes_and_the_rule_is_stable(raw):
    plain = text.normalise(raw)
    assert set(plain) <= set(text.ALPHABET)
    assert text.normalise(plain) == plain
    tokens = text.encode(raw)
    assert tokens.dtype == np.int32
    assert text.decode(tokens) == plain


def test_shipped_documents_are_held_out_and_large_enough():
    documents = text.documents()
    assert len(documents) == 25
    assert sum(len(d.text) for d in documents) >= 300_000
    assert all(text.is_held_out(d.name) for d in documents)
    assert all(text.normalise(d.text).strip() == d.text for d in documents)
    assert documents[0] == text.Document(
        "1790_george_washington_n", "State of the Union 1790, George Washington", 1790, documents[0].text
    )
    assert len({d.title for d in documents}) == 25


def test_the_split_by_file_name(tmp_path):
    names = [
        "1810_james_madison_dr",
        "1811_james_madison_dr",
        "1820_james_monroe_dr",
        "chapter_20",
        "chapter_21",
        "epilogue",
        "data",
    ]
    (tmp_path / "deep").mkdir()
    for name in names:
        (tmp_path / "deep" / f"{name}.txt").write_text(f"CHAPTER 1. {name}.\n\nCall me “Ishmael”.", encoding="utf-8")
    training, held_out = text.read_folder(tmp_path)
    assert [d.name for d in training] == ["1811_james_madison_dr", "1820_james_monroe_dr", "chapter_21", "epilogue"]
    assert [d.name for d in held_out] == ["1810_james_madison_dr", "chapter_20"]
    assert held_out[0].title == "State of the Union 1810, James Madison"
    assert held_out[1].title == "Moby-Dick 1, chapter_20"
    assert held_out[1].text.endswith('Call me "Ishmael".')
    text.write_documents(held_out, tmp_path / "out")
    assert list(text.documents(tmp_path / "out")) == held_out


def test_no_training_document_is_a_shipped_one(tmp_path):
    for d in text.documents():
        (tmp_path / f"{d.name}.txt").write_text(d.text, encoding="utf-8")
    training, held_out = text.read_folder(tmp_path)
    assert training == []
    assert sorted(d.text for d in held_out) == sorted(d.text for d in text.documents())


def test_bad_folders_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"expected a folder with .txt files"):
        text.read_folder(tmp_path)
    (tmp_path / "x.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"x.txt: expected UTF-8 text"):
        text.read_folder(tmp_path)
