"""Words after a command become its typed settings, or one line that says what is wrong."""

from importlib import import_module

import pytest

from conf.commands import Evaluate, Sample, read_command
from conf.errors import ConfigError


def test_words_are_typed_and_texts_are_taken_as_they_are() -> None:
    sample = read_command(Sample, ["run=a", "prompt=def f(x): [1, {", "top_p=1", "seed=7"])
    assert (sample.run, sample.prompt, sample.top_p, sample.seed) == ("a", "def f(x): [1, {", 1.0, 7)
    assert read_command(Sample, ["run=1", "prompt=a=b"]).run == "1"
    assert read_command(Sample, ["run=1", "prompt=a", "+samples=3", "stop=[a, 'b c']"]).stop == ["a", "b c"]


@pytest.mark.parametrize(
    ("schema", "words", "said"),
    [
        (Sample, ["rn=a"], "unknown setting 'rn'; did you mean 'run'?"),
        (Sample, ["max_tokens=3"], "unknown setting 'max_tokens'; did you mean 'max_new_tokens'?"),
        (Sample, ["~stop"], "'~stop': a setting of this command cannot be removed"),
        (Sample, ["zzz=a"], "unknown setting 'zzz'; there are max_new_tokens,"),
        (Sample, ["run"], "'run' is not a setting; settings are written key=value"),
        (Sample, ["run=a", "prompt=x", "top_p=b"], "top_p: Value 'b'"),
        (Sample, ["run=a", "prompt=x", "samples=[1"], "samples: while parsing"),
        (Sample, ["prompt=x"], "run has no value; write run=..."),
        (Evaluate, ["run=x"], "task has no value; write task=..."),
        *(
            (Evaluate, ["run=x", "task=humaneval", word], said)
            for word, said in (
                ("temperatures=[]", "temperatures=[] draws no sample"),
                ("temperatures=[0.2,.inf]", "temperature=inf must be at least 0"),
                ("top_p=0", "top_p=0.0 must be above 0"),
                ("top_k=-1", "top_k=-1 must be at least 0"),
                ("seed=-1", "seed=-1 must be at least 0"),
                ("seconds=0", "seconds=0.0 must be more than 0"),
                ("workers=0", "workers=0 must be more than 0"),
            )
        ),
    ],
)
def test_a_wrong_word_gets_one_line(schema: type, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_command(schema, words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("train.sample", ["--cfg", "job", "prompt=x", "top_k=7"], "run: ???\nprompt: x\n"),
        ("train.evaluate", ["task=humaneval", "--cfg", "job"], "task: humaneval\n"),
        ("train.evaluate", ["task=humaneval", "--info"], "conf/command/evaluate/humaneval.yaml\n  task=humaneval\n"),
        ("model.huggingface", ["export", "runs/a", "b", "dtype=fp16", "--cfg", "job"], "source: runs/a\ntarget: b\n"),
        ("launch", ["evaluate", "cluster=slurm", "run=runs/a", "task=mtpb", "-c", "job"], "run: runs/a\ntask: mtpb\n"),
    ],
)
def test_settings_and_their_files_are_printed(
    program: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert import_module(f"{program}.__main__").main(words) == 0
    assert said in capsys.readouterr().out
