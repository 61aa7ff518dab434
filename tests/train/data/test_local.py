import hashlib
import itertools
import os
import subprocess
import sys

import pytest

from conf.errors import DataError
from train.data.local import installed_packages, read_local

PRINT_DIGEST = """
import hashlib, itertools, sys
from train.data.local import read_local
seen = hashlib.sha256()
for name in ("nl", "multi", "mono"):
    for document in itertools.islice(read_local(name), 30):
        seen.update(repr(document).encode())
assert "torch" not in sys.modules
print(seen.hexdigest())
"""


def take(name, count):
    return list(itertools.islice(read_local(name), count))


def test_the_harvest_is_deterministic_and_loads_no_torch():
    seen = hashlib.sha256()
    for name in ("nl", "multi", "mono"):
        for document in take(name, 30):
            seen.update(repr(document).encode())
    done = subprocess.run(
        [sys.executable, "-c", PRINT_DIGEST],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == seen.hexdigest()


def test_each_corpus_is_of_its_own_kind():
    nl, multi, mono = take("nl", 60), take("multi", 60), take("mono", 60)
    assert {document.language for document in nl} == {None}
    assert {document.language for document in mono} == {"Python"}
    assert {"C", "C++", "Python"} <= {document.language for document in multi}
    python = sum(len(document.text) for document in multi if document.language == "Python")
    assert python < 0.3 * sum(len(document.text) for document in multi)
    prose = "".join(document.text for document in nl)
    assert sum(character.isalpha() or character.isspace() for character in prose) > 0.8 * len(prose)
    assert any(document.source.startswith("pydoc_data.topics.") for document in nl)
    assert any(document.source.endswith("/METADATA") for document in nl)


def test_a_short_read_is_spread_over_packages_and_licences_are_noted():
    mono = take("mono", 60)
    assert len({document.source.split("/")[0] for document in mono}) > 8
    assert all("tests" not in document.source.split("/") for document in mono)
    assert sum(document.licence is not None for document in mono) > 40
    assert all(not document.source.startswith("/") for document in mono)
    assert all(document.repository == document.source.partition("/")[0] for document in mono)


def test_the_inventory_names_what_the_harvest_depends_on():
    lines = installed_packages()
    assert lines[0].startswith("python==3.")
    assert any(line.startswith("torch==") for line in lines)


def test_an_unknown_corpus_is_one_clear_line():
    with pytest.raises(DataError, match="no corpus 'web'; name one of nl, multi, mono"):
        read_local("web")
