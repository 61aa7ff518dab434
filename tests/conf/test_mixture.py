"""Which corpora a stage reads, and with which weights."""

from conf.mixture import corpora_of, phases_of
from conf.schema import MixturePhase, StageConfig


def test_a_stage_reads_its_corpus_or_its_mixture_in_phases() -> None:
    assert phases_of(StageConfig(corpus="mono")) == [(0, {"mono": 1.0})]
    later = [MixturePhase(10, {"multi": 1.0, "nl": 0.0})]
    stage = StageConfig(corpus="mono", mixture={"mono": 0.9, "nl": 0.1}, mixture_phases=later)
    assert phases_of(stage) == [(0, {"mono": 0.9, "nl": 0.1}), (10, {"multi": 1.0, "nl": 0.0})]
    assert corpora_of(stage) == ["mono", "nl", "multi"]
    assert corpora_of(StageConfig(corpus="mono", mixture={"mono": 0.0, "nl": 1.0})) == ["nl"]
