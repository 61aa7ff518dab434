"""Chat templates by name: those of conf/chat_template/, and a person's own file."""

from pathlib import Path

from conf.errors import ConfigError

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
