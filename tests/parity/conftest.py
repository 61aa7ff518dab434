"""The golden run, once a session."""

from typing import Any

import pytest

from tests.parity.golden import golden


@pytest.fixture(scope="session")
def expected() -> dict[str, Any]:
    """What every layout must reproduce."""
    return golden()
