"""Adapters that do what they should not: one line or a failing row, never a silent success or a traceback."""

import pytest

from minisae.cli import main
from minisae.errors import InputError
from minisae.verify import check, load_adapter

DECODE = "def decode(params, f, config):\n    return f @ params['W_dec'] + params['b_dec']\n"


@pytest.fixture
def write(tmp_path):
    def write_(text):
        path = tmp_path / "adapter.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write_


def test_one_that_exits_fails(write, capsys):
    path = write("import sys\n" + DECODE + "def encode(params, x, config):\n    sys.exit(0)\n")
    assert main(["verify", "run", str(path), "--variant", "relu", "--case", "base"]) == 1
    assert "1 do not" in capsys.readouterr().out
    [row] = [r for r in check(load_adapter(path), "relu", case="base").rows if r.verdict == "FAIL"]
    assert (row.quantity, row.note) == ("encode", "encode raised SystemExit: 0")
    write("import sys\nsys.exit(0)\n")
    assert main(["verify", "run", str(path), "--variant", "relu"]) == 2
    assert "could not be loaded: SystemExit: 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "body",
    ["def encode(params, x, config):\n    return None\n", "def encode(params, x, config):\n    return [object()]\n"],
)
def test_what_is_no_number_fails_without_an_explanation(write, body):
    report = check(load_adapter(write(DECODE + body)), "relu", case="base")
    assert not report.ok
    assert report.explanation == "what failed gave no numbers that could be explained: see the notes"


def test_unknown_names_and_things_fail(write):
    body = "def encode(params, x, config):\n    return 5\ndef loss(params, x, config):\n    return 5\n"
    body += "def grads(params, x, config, slopes):\n    return {'bogus': 3}\n"
    report = check(load_adapter(write(DECODE + body)), "relu", case="base")
    failed = {row.quantity for row in report.rows if row.verdict == "FAIL"}
    assert {"encode", "loss/mse", "grads/x_hat/bogus"} <= failed
    assert "see the notes" in report.explanation


def test_what_it_prints_is_not_part_of_the_report(write, capsys):
    path = write("print('loading')\n" + DECODE + "def encode(params, x, config):\n    print('x')\n    return 0 * x\n")
    main(["verify", "run", str(path), "--variant", "relu", "--case", "base", "--json"])
    told = capsys.readouterr()
    assert told.out.startswith("{")
    assert told.err.split() == ["loading", "x"]


@pytest.mark.parametrize("tolerance", ["nan", "-1", "inf"])
def test_a_tolerance_that_makes_no_sense(write, capsys, tolerance):
    path = write(DECODE + "def encode(params, x, config):\n    return 0\n")
    assert main(["verify", "run", str(path), "--variant", "relu", f"--tolerance={tolerance}"]) == 2
    assert "minisae: tolerance: expected a number" in capsys.readouterr().err


def test_a_preset_that_is_no_name_and_a_folder(write, tmp_path):
    path = write("CONVENTIONS = {'relu': {'preset': 7}}\n" + DECODE + "def encode(params, x, config):\n    return 0\n")
    with pytest.raises(InputError, match="expected the preset of relu to be a name, got 7"):
        load_adapter(path)
    with pytest.raises(InputError, match="got a folder"):
        load_adapter(tmp_path)
