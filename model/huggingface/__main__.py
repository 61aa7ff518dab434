"""`python -m model.huggingface import|export SOURCE TARGET`: weights from and to Hugging Face's form."""

import sys
from pathlib import Path

from conf.choices import ExportForm
from conf.command_line import Command, run_command
from conf.commands import Export, Import, read_command
from conf.errors import ConfigError

IMPORT = Command(
    program="python -m model.huggingface import",
    usage="SOURCE TARGET [KEY=VALUE ...]",
    summary="Imports a checkpoint in Hugging Face's form, by folder or by name on the hub, for init_from= and "
    "for the commands that read runs.",
    examples=(
        "python -m model.huggingface import Salesforce/codegen-350M-multi checkpoints/350m-multi",
        "python -m model.huggingface import checkpoints/downloaded checkpoints/larger vocab_size=107008",
    ),
    settings="import",
)
EXPORT = Command(
    program="python -m model.huggingface export",
    usage="SOURCE TARGET [KEY=VALUE ...]",
    summary="Exports a run, one of its stages or an imported folder, for transformers' AutoModelForCausalLM and "
    "AutoTokenizer.",
    examples=(
        "python -m model.huggingface export runs/mine exported/mine dtype=fp16",
        "python -m model.huggingface export runs/mine exported/mine-int4 quantize=int4 group_size=128",
    ),
    settings="export",
)
COMMAND = Command(
    program="python -m model.huggingface",
    usage="import|export SOURCE TARGET [KEY=VALUE ...]",
    summary="Imports weights from Hugging Face's form, or exports them to it. `import --help` and `export --help` list "
    "the settings of each.",
    examples=(*IMPORT.examples[:1], *EXPORT.examples),
)
USAGE = "write `python -m model.huggingface import SOURCE TARGET` or `export SOURCE TARGET`, then key=value words"


def main(argv: list[str]) -> int:
    """Convert as `argv` says and return the exit code (conf/exit_codes.py)."""
    command = {"import": IMPORT, "export": EXPORT}.get(argv[0] if argv else "", COMMAND)
    return run_command(convert, argv, command)


def convert(argv: list[str]) -> int:
    """Import or export, and print what was written."""
    _, words = COMMAND.split_flags(argv)
    if len(words) < 3 or words[0] not in ("import", "export"):
        raise ConfigError(USAGE)
    arguments = [f"source={words[1]}", f"target={words[2]}", *words[3:]]
    settings = read_command(Import, arguments) if words[0] == "import" else read_command(Export, arguments)
    if isinstance(settings, Export) and settings.quantize is not None and settings.form is ExportForm.peft:
        raise ConfigError("quantize=int4 needs whole weights, and form=peft writes adapters alone; leave one out")
    # slow: only for arguments that can run
    from model.huggingface.convert import export_adapters, export_weights, import_weights
    from model.pretrained import open_weights

    target = Path(settings.target)
    if isinstance(settings, Export) and settings.quantize is not None:
        from model.huggingface.int4 import check_int4, export_int4

        source = open_weights(settings.source)
        check_int4(source.model, settings.mp_num, settings.group_size)
        print(f"{target}: quantizing one block after the other", file=sys.stderr)
        result = export_int4(source, target, settings.group_size, settings.calibration, settings.dtype, settings.form)
        print(f"{target} (int4, groups of {settings.group_size}): {result.describe()}")
        return 0
    if isinstance(settings, Import):
        weights = import_weights(open_weights(settings.source, settings.mp_num), target, settings.vocab_size)
    elif settings.form is ExportForm.peft:
        weights = export_adapters(open_weights(settings.source), target, settings.mp_num, settings.dtype)
    else:
        source = open_weights(settings.source)
        weights = export_weights(source, target, settings.mp_num, settings.dtype, form=settings.form)
    tokenizer = "with its tokenizer" if weights.tokenizer_folder else "without a tokenizer: none came with the weights"
    print(f"{weights.describe()}, {tokenizer}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
