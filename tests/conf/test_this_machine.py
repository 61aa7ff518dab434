"""What this machine does not have is refused before data is prepared for it."""

import pytest

import conf.this_machine as module
from conf.compose import compose_settings
from conf.errors import ConfigError
from conf.this_machine import check_this_machine


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("layout.precision=fp16", "precision=fp16 does not work on a CPU; use auto, fp32 or bf16"),
        ("kernels=apex", "kernels.norm=apex needs a GPU, not a cpu; use kernels.norm=torch"),
        ("kernels.branches=triton", "kernels.branches=triton needs a GPU, not a cpu; use kernels.branches=torch"),
    ],
)
def test_a_gpu_that_is_not_there_is_missed(word: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    settings = compose_settings(["model=tiny", word])
    with pytest.raises(ConfigError) as caught:
        check_this_machine(settings, has_gpu=False)
    assert str(caught.value) == said
    check_this_machine(settings, has_gpu=True)


def test_apex_that_is_not_there_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "amp_C" else object())
    check_this_machine(compose_settings(["kernels=auto"]), has_gpu=True)
    with pytest.raises(ConfigError, match=r"no module amp_C; install it as README\.md says, or use kernels\.optimizer"):
        check_this_machine(compose_settings(["kernels=apex"]), has_gpu=True)
