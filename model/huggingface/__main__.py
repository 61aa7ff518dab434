"""`python -m model.huggingface import SOURCE TARGET` and `... export SOURCE TARGET`, then key=value words.

Import takes a released checkpoint, a folder or a name on the hub, for `init_from=` and the commands that read runs.
Export writes what transformers' AutoModelForCausalLM and AutoTokenizer load.
"""

import sys
from pathlib import Path

from conf.commands import Export, Import, read_command
from conf.errors import ConfigError
from conf.exit_codes import BAD_INPUT

USAGE = "write `python -m model.huggingface import SOURCE TARGET` or `export SOURCE TARGET`, then key=value words"


def main(words: list[str]) -> int:
    """Convert as `words` say and return the exit code: 0, or 2 for what the user can put right."""
    try:
        if len(words) < 3 or words[0] not in ("import", "export"):
            raise ConfigError(USAGE)
        read = Import if words[0] == "import" else Export
        asked = read_command(read, [f"source={words[1]}", f"target={words[2]}", *words[3:]])
        from model.huggingface.convert import (  # slow to import: only for words that can run
            export_weights,
            import_weights,
        )
        from model.pretrained import open_weights

        target = Path(asked.target)
        if isinstance(asked, Import):
            made = import_weights(open_weights(asked.source, asked.mp_num), target, asked.vocab_size)
        else:
            made = export_weights(open_weights(asked.source), target, asked.mp_num, asked.dtype)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return BAD_INPUT
    tokenizer = "with its tokenizer" if made.tokenizer_folder else "without a tokenizer: none came with the weights"
    print(f"{made.describe()}, {tokenizer}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
