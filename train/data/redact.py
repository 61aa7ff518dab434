"""E-mail addresses and secrets in documents, replaced by a mark (data.redact).

What is replaced: addresses outside of example domains; private-key blocks; keys of the forms that AWS, GitHub, GitLab,
Slack, Google, Hugging Face, OpenAI and JSON web tokens have; quoted values of at least 16 characters that are assigned
to a name such as password or api_key. As in The Stack's and SantaCoder's preparation, it lowers the risk and does not
end it.
"""

import re
from collections.abc import Iterable

EMAIL = re.compile(r"\b[\w.+-]{1,64}@(?!example\.)(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{22,}\b|\bglpat-[\w-]{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}\b|\bAIza[\w-]{35}\b|\bhf_[A-Za-z0-9]{30,}\b|\bsk-[\w-]{32,}\b"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}\b",
    re.DOTALL,
)
ASSIGNED = re.compile(
    r"""(?i)(\b\w*(?:password|passwd|secret|api_?key|access_?key|auth_?token)\w*["']?\s*[:=]\s*["'])[^"'\s]{16,}(["'])"""
)
MARK = re.compile("<EMAIL>|<SECRET>")
CHARACTERS_BEFORE = 40  # of a mark, shown in an example


def redact(text: str, kinds: Iterable[str]) -> str:
    """`text` with what `kinds` names replaced by <EMAIL> and <SECRET>."""
    if "emails" in kinds and "@" in text:
        text = EMAIL.sub("<EMAIL>", text)
    if "secrets" in kinds:
        text = ASSIGNED.sub(r"\1<SECRET>\2", SECRETS.sub("<SECRET>", text))
    return text


def around_a_mark(text: str) -> str:
    """Redacted `text` from shortly before its first mark on, to show what was replaced."""
    mark = MARK.search(text)
    return text[max(0, mark.start() - CHARACTERS_BEFORE) :] if mark else text
