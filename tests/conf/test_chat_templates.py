"""Chat templates by name or by file."""

import pytest

from conf.chat_templates import read_template
from conf.errors import ConfigError


def test_a_template_is_named_or_a_file(tmp_path):
    assert "<|MOSS|>" in read_template("moss") and read_template(None) is None
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    assert read_template(str(tmp_path / "own.jinja")) == "{{ messages }}"


def test_an_unknown_one_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"chat_template=mos is no file; give a \.jinja file, or one of: moss"):
        read_template("mos")
    (tmp_path / "own.jinja").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_template(str(tmp_path / "own.jinja"))
