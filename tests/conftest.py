"""What the tests share: small models, and worlds of processes that live as long as the session."""

import os
from collections.abc import Iterator
from dataclasses import replace

import hypothesis
import pytest

from conf.compose import compose_settings
from conf.schema import ModelConfig, Settings
from tests.worlds import Worlds

# A busy machine, or one that stands still for half a second, is no failure of the code.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")


def pytest_configure(config: pytest.Config) -> None:
    """Worlds of several processes are proved on gloo: on a machine with GPUs only `-m gpu` sees them."""
    if config.option.markexpr != "gpu":
        os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def settings() -> Settings:
    """The composed settings of the smallest model, fp32, plain kernels."""
    return compose_settings(["model=tiny", "kernels=reference", "layout.precision=fp32"])


@pytest.fixture
def tiny(settings: Settings) -> ModelConfig:
    """Two blocks, four heads: small enough for exact comparisons."""
    return replace(settings.model, n_layer=2, n_embd=32, n_head=4, rotary_dim=4, vocab_size=96, context_length=24)


@pytest.fixture(scope="session")
def worlds() -> Iterator[Worlds]:
    """`worlds(n)` is the session's world of n processes."""
    made = Worlds()
    yield made
    made.close()
