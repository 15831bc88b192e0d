import os
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hvdclip import data
from hvdclip.data import stdlib

# The library's source text


def library(root, monkeypatch, count=80, text="x = 1\n"):
    """Stands in for the standard library: `count` files of one text each, 000.py, 001.py, ..."""
    for place in range(count):
        (root / f"{place:03}.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda name: str(root))
    return root


def test_stdlib_is_the_same_text_at_every_call():
    first, second = data.load("stdlib"), data.load("stdlib")
    assert first.checksum == second.checksum
    assert all(torch.equal(first.splits[split], second.splits[split]) for split in ("train", "valid", "test"))


def test_stdlib_bytes_are_source_text_in_three_splits():
    corpus = data.load("stdlib")
    assert (corpus.unit, corpus.vocabulary, corpus.words) == ("byte", 256, None)
    total = sum(len(ids) for ids in corpus.splits.values())
    assert total > 5_000_000
    for split in ("valid", "test"):
        assert corpus.splits[split].dtype == torch.uint8
        assert 0.005 < len(corpus.splits[split]) / total < 0.06
    assert b"\nimport " in bytes(corpus.splits["valid"].tolist())


def test_stdlib_leaves_out_tests_and_installed_packages():
    root = Path(stdlib.sysconfig.get_path("stdlib"))
    files = stdlib._files(root)
    assert files == sorted(files) and "abc.py" in files and "json/decoder.py" in files
    folders = {folder for file in files for folder in Path(file).parent.parts}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def test_stdlib_leaves_out_what_differs_between_machines(tmp_path, monkeypatch):
    library(tmp_path, monkeypatch)
    before = data.load("stdlib").checksum
    for name in ("config-3.11-x86_64-linux-gnu/python-config.py", "_sysconfigdata__linux_.py", "lib-dynload/x.so"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("different\n")
    assert data.load("stdlib").checksum == before


def test_stdlib_splits_by_file(tmp_path, monkeypatch):
    library(tmp_path, monkeypatch)
    for place in range(80):
        (tmp_path / f"{place:03}.py").write_bytes(bytes([place]))
    splits = data.load("stdlib").splits
    assert splits["valid"].tolist() == [2, 42] and splits["test"].tolist() == [22, 62]
    assert splits["train"].tolist() == [place for place in range(80) if place not in (2, 22, 42, 62)]


def test_stdlib_words_are_the_most_frequent_of_train(tmp_path, monkeypatch):
    library(tmp_path, monkeypatch, text="def f(a):\n    return a + 0x1F\n")
    (tmp_path / "002.py").write_text("def g: 0x1F\n")  # valid
    corpus = data.load("stdlib", level="word", vocabulary_limit=7)
    # <eos> and a: twice a file; the others once, of which four fit: ( ) + 0x1F come first in the alphabet
    assert (corpus.unit, corpus.vocabulary) == ("word", 7)
    assert corpus.words == ("<unk>", "<eos>", "a", "(", ")", "+", "0x1F")
    train = [corpus.words[place] for place in corpus.splits["train"][:12]]
    assert train == ["<unk>", "<unk>", "(", "a", ")", "<unk>", "<eos>", "<unk>", "a", "+", "0x1F", "<eos>"]
    valid = [corpus.words[place] for place in corpus.splits["valid"][:5]]
    assert valid == ["<unk>", "<unk>", "<unk>", "0x1F", "<eos>"]


def test_stdlib_words_of_the_real_library():
    corpus = data.load("stdlib", level="word")
    assert corpus.vocabulary == 10_000 and len(set(corpus.words)) == 10_000
    assert {"<unk>", "<eos>", "def", "self", "("} <= set(corpus.words)
    texts = {split: bytes(ids.tolist()).decode(errors="replace") for split, ids in data.load("stdlib").splits.items()}
    tokens = {split: re.findall(r"\n|\d[\w.]*|\w+|[^\w\s]", text) for split, text in texts.items()}
    counts = Counter(tokens["train"])
    known = {word if word != "<eos>" else "\n" for word in corpus.words[1:]}
    assert min(counts[word] for word in known) >= max(counts[word] for word in set(counts) - known)
    for split, ids in corpus.splits.items():
        assert ids.dtype == torch.int32
        words = [corpus.words[place].replace("<eos>", "\n") for place in ids.tolist()]
        assert words == [token if token in known else "<unk>" for token in tokens[split]]
    # 3.9 to 4.1 % with Python 3.10 to 3.13; valid and test are a few files each, whose share varies from 4 to 12 %
    assert (corpus.splits["train"] == 0).float().mean() < 0.05


def test_stdlib_reads_files_that_are_not_utf8(tmp_path, monkeypatch):
    library(tmp_path, monkeypatch)
    (tmp_path / "000.py").write_bytes(b"\xe9 = 2\n")
    assert data.load("stdlib").splits["train"][0] == 0xE9
    assert "\ufffd" in data.load("stdlib", level="word").words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": "char"}, 'level=\'char\': must be "byte" or "word"'),
        ({"vocabulary_limit": 1}, "vocabulary_limit=1: must be a whole number of at least 2"),
    ],
)
def test_stdlib_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        data.load("stdlib", **settings)


def test_python_without_source_text_is_named(tmp_path, monkeypatch):
    library(tmp_path, monkeypatch, count=3)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path} has 3 source files"):
        data.load("stdlib")


# Corpora in plain files


def write(root, name="ptb", **texts):
    (root / name).mkdir()
    for split, text in {"train": "a\n", "valid": "a\n", "test": "a\n", **texts}.items():
        (root / name / f"{split}.txt").write_text(text, encoding="utf-8")


def test_every_line_ends_with_eos_and_words_are_numbered_by_first_occurrence(tmp_path):
    write(tmp_path, train=" the cat \n\n the dog \n", valid=" a dog", test="the\u3000bird\n")
    corpus = data.load("ptb", root=str(tmp_path))
    assert corpus.words == ("the", "cat", "<eos>", "dog", "a", "bird")
    assert corpus.splits["train"].tolist() == [0, 1, 2, 2, 0, 3, 2]
    assert corpus.splits["valid"].tolist() == [4, 3, 2]
    assert corpus.splits["test"].tolist() == [0, 5, 2]
    assert (corpus.unit, corpus.vocabulary) == ("word", 6)


def test_wikitext2_has_the_papers_counts():
    root = os.environ.get("HVDCLIP_DATA")
    if not root or not Path(root, "wikitext-2").is_dir():
        pytest.skip("needs WikiText-2: set HVDCLIP_DATA to the folder that holds wikitext-2/train.txt")
    corpus = data.load("wikitext-2")
    assert [len(corpus.splits[split]) for split in ("train", "valid", "test")] == [2_088_628, 217_646, 245_569]
    assert corpus.vocabulary == 33_278
    assert corpus.words[:3] == ("<eos>", "=", "Valkyria")


def test_root_comes_from_the_environment(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setenv("HVDCLIP_DATA", str(tmp_path))
    assert data.load("ptb").words == ("a", "<eos>")
    monkeypatch.delenv("HVDCLIP_DATA")
    with pytest.raises(ValueError, match=r"ptb needs a data folder: set data.root or .* HVDCLIP_DATA"):
        data.load("ptb")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_missing_file_is_named_on_one_line(tmp_path, split):
    write(tmp_path, name="wikitext-2")
    file = tmp_path / "wikitext-2" / f"{split}.txt"
    file.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        data.load("wikitext-2", root=str(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"{file} not found: put the {split} text of wikitext-2 there")
    assert "\n" not in message and "data.root" in message and "HVDCLIP_DATA" in message


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty_file_is_named(tmp_path, text):
    write(tmp_path, valid=text)
    with pytest.raises(ValueError, match=r"valid.txt is empty: it should hold the valid text of ptb"):
        data.load("ptb", root=str(tmp_path))


def test_file_that_is_no_text_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "ptb" / "test.txt").write_bytes(b"PAR1\xff")
    with pytest.raises(ValueError, match=r"test.txt is not UTF-8 text"):
        data.load("ptb", root=str(tmp_path))


def test_checksum_sees_every_id_and_word():
    def corpus(words=("a", "b"), **splits):
        tensors = {"train": [0, 1, 0], "valid": [1], "test": [0]} | splits
        return data.Corpus({name: torch.tensor(ids, dtype=torch.int32) for name, ids in tensors.items()}, words)

    same, other = corpus(), [corpus(train=[0, 1, 1]), corpus(test=[1]), corpus(words=("a", "c")), corpus(words=None)]
    moved = corpus(train=[0, 1], valid=[0, 1])
    assert same.checksum == corpus().checksum
    assert len({same.checksum, moved.checksum, *(changed.checksum for changed in other)}) == 6


def test_unknown_corpus_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown corpus 'imdb'; allowed: ptb, stdlib, tokens, wikitext-2"):
        data.load("imdb")


# Columns, blocks and windows


def test_each_column_is_contiguous_text():
    columns = data.cut(torch.arange(11), 3)
    assert columns.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


def test_a_text_too_short_for_its_columns_is_named():
    with pytest.raises(ValueError, match=r"30 tokens is too short for 16 columns \(batch x ranks\).* at least 32"):
        data.cut(torch.arange(30), 16)
    assert data.cut(torch.arange(32), 16).shape == (2, 16)


@given(ranks=st.integers(1, 6), batch=st.integers(1, 4), epoch=st.integers(0, 20))
def test_ranks_read_disjoint_blocks_that_cover_the_text_and_move_on_by_one(ranks, batch, epoch):
    columns = data.cut(torch.arange(5 * ranks * batch), ranks * batch)
    blocks = [data.block(columns, rank, ranks, epoch) for rank in range(ranks)]
    assert all(block.shape == (5, batch) for block in blocks)
    assert torch.equal(torch.cat(blocks, dim=1).sort(dim=1).values, columns)
    for rank in range(ranks):
        assert torch.equal(data.block(columns, rank, ranks, epoch + 1), blocks[(rank + 1) % ranks])
    assert torch.equal(data.block(columns, 0, ranks, 0), columns[:, :batch])


def test_columns_that_ranks_cannot_share_equally_are_refused():
    with pytest.raises(ValueError, match="10 columns cannot be shared out equally among 4 ranks"):
        data.block(torch.zeros(3, 10), 0, 4, 0)


@given(total=st.integers(2, 3000), bptt=st.integers(1, 100), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_random_lengths_cover_every_prediction(total, bptt, seed, epoch):
    lengths = data.sequence_lengths(total, bptt, seed, epoch)
    assert sum(lengths) == total - 1
    assert min(lengths[:-1], default=5) >= 5 and lengths[-1] >= 1
    assert lengths == data.sequence_lengths(total, bptt, seed, epoch)


def test_random_lengths_follow_their_distribution():
    lengths = torch.tensor(data.sequence_lengths(2_000_000, 70, seed=1882, epoch=0)[:-1], dtype=torch.float64)
    long = lengths[lengths > 52]
    # .95 of them N(70, 5), rounded down (half a token on average), the others N(35, 5)
    assert len(long) / len(lengths) == pytest.approx(0.95, abs=0.01)
    assert long.mean().item() == pytest.approx(69.5, abs=0.1) and long.std().item() == pytest.approx(5, abs=0.1)
    assert lengths[lengths <= 52].mean().item() == pytest.approx(34.5, abs=0.5)


def test_random_lengths_differ_between_epochs_and_seeds():
    first = data.sequence_lengths(5000, 70, seed=1, epoch=0)
    assert first != data.sequence_lengths(5000, 70, seed=1, epoch=1)
    assert first != data.sequence_lengths(5000, 70, seed=2, epoch=0)


def test_even_lengths_leave_the_remainder_to_the_last():
    assert data.even_lengths(11, 4) == [4, 4, 2]
    assert data.even_lengths(9, 4) == [4, 4]


def test_targets_are_tokens_shifted_by_one():
    columns = data.cut(torch.arange(22, dtype=torch.uint8), 2)
    parts = list(data.windows(columns, data.even_lengths(len(columns), 4)))
    assert [tuple(tokens.shape) for tokens, _ in parts] == [(4, 2), (4, 2), (2, 2)]
    for tokens, targets in parts:
        assert tokens.dtype == targets.dtype == torch.int64
        assert tokens.is_contiguous() and targets.is_contiguous()
        assert torch.equal(targets, tokens + 1)
    assert torch.equal(torch.cat([tokens for tokens, _ in parts]), columns[:-1].long())


def test_windows_go_on_in_the_middle_of_an_epoch():
    columns = data.block(data.cut(torch.arange(4000), 4), 1, 2, 0)
    lengths = data.sequence_lengths(len(columns), 20, seed=3, epoch=0)
    whole = list(data.windows(columns, lengths))
    done = 7
    rest = list(data.windows(columns[sum(lengths[:done]) :], lengths[done:]))
    assert len(rest) == len(whole) - done
    for (tokens, targets), (expected_tokens, expected_targets) in zip(rest, whole[done:], strict=True):
        assert torch.equal(tokens, expected_tokens) and torch.equal(targets, expected_targets)


def test_windows_that_ask_for_too_much_are_refused():
    with pytest.raises(ValueError, match="windows of 10 predictions in all exceed columns of 10 tokens"):
        next(data.windows(torch.zeros(10, 2), [5, 5]))
