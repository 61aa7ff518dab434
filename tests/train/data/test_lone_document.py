"""One document is split inside itself: every byte is in one of the two sets, and the cut is at the end of a line."""

import pytest

from tests.train.data.conftest import text, write_jsonl
from train.data.lone_document import held_out_tokens
from train.data.prepare import prepare
from train.data.token_spans import open_tokens


@pytest.mark.parametrize(
    ("tokens", "size_bytes", "fraction", "most_bytes", "held_out"),
    [(1000, 4000, 0.1, 10**9, 100), (1000, 4000, 0.1, 40, 10), (2, 2, 0.01, 10, 1), (2, 2, 0.99, 10, 1)],
)
def test_some_of_a_document_is_held_out_and_some_is_not(tokens, size_bytes, fraction, most_bytes, held_out):
    assert held_out_tokens(tokens, size_bytes, fraction, most_bytes) == held_out


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_a_lone_file_is_split_inside_with_a_line(settings, tmp_path, fraction):
    whole = "".join(text(seed) for seed in range(100))
    settings.data.validation_fraction, settings.data.validation_bytes = fraction, 10**9
    (tmp_path / "alone.txt").write_text(whole)
    settings.data.corpora["nl"].paths = [str(tmp_path / "alone.txt")]
    lines = []
    prepared = prepare(settings, lines.append)
    files, tokenizer = prepared.corpora["nl"], prepared.tokenizer()
    ids = {
        "train": open_tokens(files.train, files.dtype).read(0, 10**9).tolist(),
        "validation": open_tokens(files.validation, files.dtype).read(0, 10**9).tolist(),
    }
    texts = {split: tokenizer.decode(own) for split, own in ids.items()}
    assert texts["train"] + texts["validation"] == whole and texts["validation"].startswith("\n")
    for split, own in ids.items():
        assert own[0] == own[-1] == tokenizer.eos and own.count(tokenizer.eos) == 2
        assert len(own) == getattr(files, f"{split}_tokens") and getattr(files, f"{split}_documents") == 1
        assert len(texts[split].encode()) == getattr(files, f"{split}_bytes")
    assert files.validation_bytes == pytest.approx(fraction * len(whole), rel=0.3)
    assert sum(files.languages.values()) == files.train_tokens - 1
    (line,) = (line for line in lines if "split inside" in line)
    assert line.startswith("data: nl is one document; it is split inside: its last ")


def test_what_has_several_documents_is_split_by_them(settings, tmp_path):
    write_jsonl(tmp_path / "code.jsonl", [text(seed) for seed in range(200)])
    lines = []
    prepare(settings, lines.append)
    assert not any("split inside" in line for line in lines)
