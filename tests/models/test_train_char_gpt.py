import numpy as np
import pytest

from minisae.errors import InputError
from minisae.models import char_gpt, load, text
from minisae.models.train_char_gpt import Recipe, main, rate, sample_windows, train

TINY = char_gpt.Config(n_vocab=85, n_ctx=7, n_layer=1, d_model=6, n_head=2, d_mlp=13)
SIZES = ["--n-ctx", "7", "--n-layer", "1", "--d-model", "6", "--n-head", "2", "--d-mlp", "13"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text").mkdir()
    for name in ("1810_james_madison_dr", "1811_james_madison_dr", "chapter_11"):
        (tmp_path / "text" / f"{name}.txt").write_text("CHAPTER 1. The whale, the whale! " * 20, encoding="utf-8")
    return tmp_path


def test_three_steps_from_the_command_line(folder, capsys):
    out, shipped = folder / "w.safetensors", folder / "documents"
    arguments = ["--text", str(folder / "text"), "--out", str(out), "--documents", str(shipped), "--steps", "3"]
    assert main([*arguments, "--batch", "4", "--log-every", "2", *SIZES]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 2/3", "step 3/3"]
    assert load(out).cfg == TINY
    assert [d.name for d in text.documents(shipped)] == ["1810_james_madison_dr"]


def test_evaluate_prints_the_means(folder, capsys, monkeypatch):
    monkeypatch.setattr(text, "documents", lambda: tuple(text.read_folder(folder / "text")[1]))
    assert main(["--evaluate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("State of the Union 1810, James Madison")
    assert lines[1].endswith("nats/character, mean over 1 documents")
    assert lines[2].endswith("nats/character, mean over 658 characters")


def test_training_learns_and_does_not_depend_on_threads(folder):
    documents = [text.encode(d.text) for d in text.read_folder(folder / "text")[0]]
    recipe = Recipe(steps=40, batch=8, lr=2e-2, warmup=5, seed=1)
    losses = []
    one = train(documents, TINY, recipe, hook=lambda step, loss, params: losses.append(loss))
    two = train(documents, TINY, recipe, threads=2)
    assert losses[-1] < 0.75 * losses[0]
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_going_on_from_weights_keeps_their_sizes(folder, capsys):
    first, second = folder / "one.safetensors", folder / "two.safetensors"
    arguments = ["--text", str(folder / "text"), "--steps", "2", "--batch", "4"]
    assert main([*arguments, "--out", str(first), *SIZES]) == 0
    assert main([*arguments, "--out", str(second), "--start", str(first), "--lr", "1e-9"]) == 0
    capsys.readouterr()
    one, two = load(first), load(second)
    assert one.cfg == two.cfg == TINY
    for name, p in one.params.items():
        np.testing.assert_array_equal(two.params[name], p)


def test_windows_stay_inside_their_document():
    documents = [np.arange(100, 111), np.arange(3), np.arange(200, 208)]
    seen = set()
    rng = np.random.default_rng(0)
    for (tokens, targets), _ in zip(sample_windows(documents, 7, 5, rng), range(40), strict=False):
        assert tokens.shape == targets.shape == (5, 7)
        np.testing.assert_array_equal(tokens + 1, targets)
        seen |= set(tokens[:, 0].tolist())
    assert seen == {100, 101, 102, 103, 200}


def test_the_learning_rate_rises_and_falls():
    recipe = Recipe(steps=100, warmup=10, lr=1.0)
    rates = [rate(step, recipe) for step in range(100)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert 0 < rates[99] < 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--batch", "6"], "batch: expected a multiple of 4, got 6"),
        (["--n-head", "4"], "n_head: expected a divisor of d_model 6, got 4"),
        (["--steps", "0"], "steps, threads, sizes: expected 1 or more"),
        (["--n-ctx", "5000"], "text: expected a document longer than 5000 characters"),
    ],
)
def test_bad_options_are_one_line(folder, capsys, change, message):
    arguments = ["--text", str(folder / "text"), "--out", str(folder / "w.safetensors"), *SIZES, *change]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_nothing_to_do_is_wrong_use(capsys):
    assert main([]) == 2
    assert "--text" in capsys.readouterr().err
    with pytest.raises(InputError, match="expected a folder"):
        text.read_folder("no such folder")
