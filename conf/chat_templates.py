"""Chat templates by name: those of conf/chat_template/, and a person's own file; and what conversations need."""

from collections.abc import Iterator
from pathlib import Path

from conf.choices import Objective, Packing
from conf.errors import ConfigError
from conf.mixture import corpora_of
from conf.schema import Settings
from conf.sources import tokenizer_source

FOLDER = Path(__file__).parent / "chat_template"
ENDING = ".jinja"


def template_path(name: str) -> Path:
    """The file of `data.tokenizer.chat_template`: a template of this stack, or a path. Errors: `ConfigError`."""
    path = FOLDER / f"{name}{ENDING}" if "/" not in name and not name.endswith(ENDING) else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in FOLDER.glob(f"*{ENDING}")))
        raise ConfigError(f"data.tokenizer.chat_template={name} is no file; give a {ENDING} file, or one of: {known}")
    return path


def read_template(name: str | None) -> str | None:
    """The template's text; None where none is named. Errors: `ConfigError`."""
    try:
        return None if name is None else template_path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.tokenizer.chat_template={name} cannot be read: {error}") from None


def conversation_problems(settings: Settings) -> Iterator[str]:
    """What is wrong with the settings of corpora of conversations, a line each."""
    data, tokenizer = settings.data, settings.data.tokenizer
    for key in dict.fromkeys(one for stage in settings.stages.values() for one in corpora_of(stage)):
        corpus = data.corpora.get(key)
        if corpus is None or not corpus.conversations:
            continue
        if data.packing is not Packing.best_fit or not data.document_mask:
            yield (
                f"data.corpora.{key}.conversations needs data.packing=best_fit and data.document_mask=true: cut, or "
                "seeing one another, conversations would teach other answers"
            )
        if data.objective is not Objective.causal:
            yield f"data.corpora.{key}.conversations needs data.objective=causal: they have no spans to fill in"
        if tokenizer.chat_template is None and tokenizer_source(settings) is None:
            yield f"data.corpora.{key}.conversations needs data.tokenizer.chat_template=moss, or your own .jinja file"
        elif tokenizer.chat_template is not None:
            template_path(tokenizer.chat_template)
