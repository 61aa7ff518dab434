"""What must not be read by others: which environment variables hold secrets, and texts without them."""

import os
import re
from collections.abc import Mapping

NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)")  # in names of environment variables
LEAST = 8  # characters of a value that is looked for: shorter ones are words of the text
FORMS = re.compile(  # of tokens that services hand out: Hugging Face, OpenAI and others, GitHub, AWS; of user:password@
    r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{12,})\b"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
HIDDEN = "[secret]"


def is_secret(name: str) -> bool:
    """Whether an environment variable's name says that its value is a secret."""
    return NAMES.search(name.upper()) is not None


def secrets_in(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of `variables` that are secrets."""
    return {name: value for name, value in variables.items() if is_secret(name) and value}


def redact(text: str) -> str:
    """`text` with the values of this process's secret variables, and what has the form of a token, hidden."""
    for value in sorted(secrets_in(os.environ).values(), key=len, reverse=True):
        if len(value) >= LEAST:
            text = text.replace(value, HIDDEN)
    return FORMS.sub(HIDDEN, text)
