import json
import random
from pathlib import Path

import pytest

from conf.choices import OnError, Source
from conf.schema import CorpusConfig, DataConfig, FiltersConfig, ModelConfig, Settings, StageConfig, TokenizerConfig

WORDS = ("def", "return", "value", "while", "number", "the", "of", "model", "learns", "(x)", "=", "\n    ", "\n", "\t")


def text(seed: int, words: int = 60) -> str:
    """Some text of its own for each `seed`."""
    return f"{seed} " + " ".join(random.Random(seed).choices(WORDS, k=words)) + "\n"


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": one, "lang": "Python"}) + "\n" for one in texts))
    return path


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Two corpora of short documents, of which some are in both, and a stage for each."""
    nl = write_jsonl(tmp_path / "nl.jsonl", [text(seed) for seed in range(300)])
    code = write_jsonl(tmp_path / "code.jsonl", [text(seed) for seed in range(200, 500)])
    return Settings(
        model=ModelConfig(vocab_size=400, context_length=16),
        stages={name: StageConfig(corpus=name, global_batch_size=4) for name in ("nl", "code")},
        data=DataConfig(
            cache=str(tmp_path / "cache"),
            on_error=OnError.fail,
            validation_fraction=0.1,
            validation_bytes=4000,
            filters=FiltersConfig(average_line_length=100, longest_line_length=1000, digit_fraction=0.9),
            tokenizer=TokenizerConfig(kind="sentencepiece", train_bytes=40_000),
            corpora={
                "nl": CorpusConfig(source=Source.files, name="nl", paths=[str(nl)]),
                "code": CorpusConfig(
                    source=Source.files, name="code", paths=[str(code)], language_column="lang", language_prefix=True
                ),
            },
        ),
    )
