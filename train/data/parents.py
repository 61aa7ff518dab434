"""What the tokenizer of weights that a stage starts from must have in common with the run's.

Nothing here reads a weight: it is refused before the data is prepared, and again where the weights are opened.
"""

from pathlib import Path

from conf.errors import ConfigError
from conf.lora import rows_problem
from conf.run_folder import is_finished, run_folder
from conf.schema import Settings
from model.tokenizer import Tokenizer, has_tokenizer, load_tokenizer, tokenizer_folder


def refuse_other_tokenizers(settings: Settings, own: Path) -> None:
    """Errors: `ConfigError` where a stage that is not finished starts from weights that the tokenizer in `own` does not
    fit."""
    for name, stage in settings.stages.items():
        if stage.init_from is None or is_finished(run_folder(settings), name):
            continue
        theirs = tokenizer_folder(stage.init_from, f"stages.{name}.init_from")
        if has_tokenizer(theirs):
            ours = load_tokenizer(own)
            known = refuse_other_tokenizer(name, stage.init_from, theirs, ours).vocab_size
            if ours.vocab_size > known and (problem := rows_problem(settings, name, stage.init_from, known)):
                raise ConfigError(problem)


def refuse_other_tokenizer(name: str, source: str, theirs: Path, ours: Tokenizer) -> Tokenizer:
    """The tokenizer in `theirs`. Errors: `ConfigError` where an id that it has in common with `ours` is of other bytes.

    name: of the stage. source: its weights, for the message. CodeGen's extends GPT-2's, so that a model of either may
    become one of the other.
    """
    other = load_tokenizer(theirs)
    both = range(min(other.vocab_size, ours.vocab_size))
    if other.eos != ours.eos or any(other.token_bytes(token) != ours.token_bytes(token) for token in both):
        raise ConfigError(
            f"stages.{name}.init_from={source} knows another tokenizer than this run's; take its own with "
            f"data.tokenizer.path={theirs} and data.tokenizer.kind={other.kind}"
        )
    return other
