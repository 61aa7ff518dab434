"""What is wrong with the settings of the data, before any of it is read."""

from collections.abc import Iterator
from pathlib import Path

from conf.schema import Settings
from conf.sources import is_hub_name

REDACTED = ("emails", "secrets")  # what data.redact may name


def data_problems(settings: Settings) -> Iterator[str]:
    """What is wrong with the tokenizer and with what becomes of documents, a line each."""
    tokenizer = settings.data.tokenizer
    if tokenizer.kind in ("codegen", "codegen2", "gpt2") and tokenizer.path is None:
        yield (
            f"data.tokenizer.kind={tokenizer.kind} needs data.tokenizer.path=: a folder with tokenizer.json, or "
            "vocab.json and merges.txt, or a name on the hub such as Salesforce/codegen-350M-mono; or use sentencepiece"
        )
    if tokenizer.path is not None and not (is_hub_name(tokenizer.path) or Path(tokenizer.path).is_dir()):
        yield f"data.tokenizer.path={tokenizer.path} is no folder, and names on the hub are written owner/name"
    if unknown := [kind for kind in settings.data.redact if kind not in REDACTED]:
        yield f"data.redact={unknown[0]} is not known; use {' or '.join(REDACTED)}"
    if "" in tokenizer.special_tokens:
        yield "data.tokenizer.special_tokens holds an empty text, which no token can be; leave it out"
    for key, value in (
        ("tokenizer.train_bytes", tokenizer.train_bytes),
        ("validation_bytes", settings.data.validation_bytes),
        ("workers", settings.data.workers),
        *((f"corpora.{name}.max_bytes", corpus.max_bytes) for name, corpus in settings.data.corpora.items()),
    ):
        if value is not None and value < 1:
            yield f"data.{key}={value} must be at least 1"
    if settings.data.decontaminate_words < 2:
        yield f"data.decontaminate_words={settings.data.decontaminate_words} must be at least 2"
    if not 0 < settings.data.validation_fraction < 1:
        yield f"data.validation_fraction={settings.data.validation_fraction} must be between 0 and 1"
