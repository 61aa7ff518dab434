"""`python -m train.sample`: completions of prompts by a trained model."""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, product
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from conf.command_line import Command, run_command
from conf.commands import Sample, read_command
from conf.errors import ConfigError, reason
from conf.exit_codes import NOT_APPLIED
from conf.run_folder import open_atomic
from train.sample.chat import as_text, read_chat, whole
from train.sample.diff import sample_diff
from train.sample.gap import Gap, gap_in

COMMAND = Command(
    program="python -m train.sample",
    usage="run=... prompt=...|infill=...|chat=...|diff=... [KEY=VALUE ...]",
    summary="Samples completions of prompts, with infill= what stands at <mask_1>, with chat= the assistant's answers, "
    "or with diff= the change of a file, from a run, one of its stages, an imported or exported folder, or a model on "
    "the hub. The deepspeed launcher spreads the model over several devices; the samples are the same.",
    examples=(
        "python -m train.sample run=runs/quickstart-tiny prompt='def add(a, b):' samples=3",
        "python -m train.sample run=Salesforce/codegen-350M-mono prompt=@prompts.jsonl output=samples.jsonl",
        "python -m train.sample run=Salesforce/codegen2-1B_P infill=$'def f(a, b):<mask_1>\\n    return c\\n'",
        "python -m train.sample run=runs/mine chat='What is 2 and 3?'",
        "python -m train.sample run=runs/commits diff=setup.py message='Require Python 3.11' apply=true",
        "deepspeed --num_gpus 2 --no_local_rank --module train.sample run=... prompt=...",
    ),
    settings="sample",
    own_exit_codes=f"{NOT_APPLIED} with diff=, no diff was written, or it does not apply; ",
)
KINDS = ("prompt", "infill", "chat", "diff")  # settings that say what is sampled
WITHOUT = {  # settings that others of these do without
    "infill": ("allowed_special",),
    "chat": ("stop", "truncate", "allowed_special"),
    "diff": ("samples", "batch_size", "output", "truncate", "allowed_special"),
}


def main(argv: list[str]) -> int:
    """Sample as `argv` says and return the exit code (conf/exit_codes.py)."""
    return run_command(sample_prompts, argv, COMMAND)


def sample_prompts(argv: list[str]) -> int:
    """Read the prompts, sample, print and write the completions."""
    is_main = os.environ.get("RANK", "0") == "0"
    words = COMMAND.split_flags(argv)[1]
    command = read_command(Sample, words)
    kind, value = asked_for(command)
    for name in {word.partition("=")[0].lstrip("+") for word in words} & set(WITHOUT.get(kind, ())):
        raise ConfigError(f"{name}= does nothing beside {kind}=; leave it out")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # DeepSpeed's calls
    if kind == "diff":
        return sample_diff(command, is_main)
    prompts: list[Any] = read_chat(_encodable(value, kind)) if kind == "chat" else read_prompts(value, kind)
    for prompt in prompts if kind == "infill" else ():
        gap_in(prompt)  # said before the model is loaded
    with _writer(command.output if is_main else None) as output:
        sample(command, prompts, output, is_main)
    return 0


def sample(command: Sample, prompts: list[Any], output: IO[str] | None, is_main: bool) -> None:
    """Sample `command.samples` completions a prompt, in batches; show them and write them to `output` as JSON lines."""
    import torch  # it and DeepSpeed are loaded only for settings that can run

    # DeepSpeed would say on stdout, where the samples go, that it finds no GPU.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    from train.evaluate.truncation import truncate
    from train.sample.answer import answer
    from train.sample.generator import open_generator
    from train.sample.infill import fill
    from train.sample.replicas import spread

    generator = open_generator(command.run, command.precision, tensor_parallel=command.tensor_parallel_size)
    console = Console(highlight=False, soft_wrap=True)
    every = [
        (prompt, index, command.seed + place)
        for place, (prompt, index) in enumerate(product(prompts, range(command.samples)))
    ]
    special: Any = "all" if "all" in command.allowed_special else command.allowed_special

    def complete(batch: list[tuple[Any, int, int]]) -> list[Any]:
        texts, seeds, stop = [prompt for prompt, _, _ in batch], [seed for *_, seed in batch], tuple(command.stop)
        if command.chat is not None:
            return answer(
                generator.tokenizer,
                lambda prompts, seeds, ended: generator.generate_ids(prompts, command, seeds, ended),
                texts,
                seeds,
            )
        if command.infill is not None:
            return fill(generator, [gap_in(text) for text in texts], command, seeds, stop)
        return generator.generate(texts, command, seeds, stop, special)

    rounds = spread(generator.mesh, every, command.batch_size, complete)
    bar = Progress(console=Console(stderr=True), disable=not (is_main and sys.stderr.isatty()), transient=True)
    with bar:
        task = bar.add_task("sampling", total=len(every))
        for (prompt, index, seed), text in zip(every, chain.from_iterable(rounds), strict=True):
            completion: Any = truncate(text) if command.truncate and command.chat is None else text
            if is_main:
                console.rule(f"sample {index + 1} of {command.samples}, seed {seed}", align="left", style="dim")
                before, new, after = shown(command, prompt, completion)
                console.print(Text(before, style="dim"), Text(new), Text(after, style="dim"), sep="")
            if output is not None:
                asked = {"prompt": prompt, "completion": completion}
                asked = asked if command.chat is None else whole(prompt, completion)
                output.write(json.dumps({"sample": index, "seed": seed, **asked}) + "\n")
            bar.advance(task)
    generator.tell_cut()


def shown(command: Sample, prompt: Any, completion: Any) -> tuple[str, str, str]:
    """What the terminal shows: the text before what is new, that, and the text after it."""
    if command.chat is not None:
        return f"{as_text(prompt.messages)}\n", as_text(completion), ""
    gap = Gap(prompt, "") if command.infill is None else gap_in(prompt)
    return gap.prefix, completion, gap.suffix


def asked_for(command: Sample) -> tuple[str, str]:
    """Name and value of the one setting that says what is sampled. Errors: `ConfigError` where none or several do."""
    given = [(name, value) for name in KINDS if (value := getattr(command, name)) is not None]
    if len(given) != 1:
        found = " and ".join(f"{name}=" for name, _ in given) or "none"
        raise ConfigError(f"say what to sample by one of {', '.join(f'{name}=' for name in KINDS)}; there is {found}")
    if command.diff is None and (command.apply or command.message is not None):
        raise ConfigError(f"{'apply' if command.apply else 'message'}= belongs to diff=; leave it out")
    if command.diff is not None and not command.message:
        raise ConfigError("diff= needs a message: what to change, as a commit would say it; write message=...")
    return given[0]


def read_prompts(prompt: str, name: str = "prompt") -> list[str]:
    """`prompt` itself, or what the file holds that `@FILE` names: its text, or of .jsonl a prompt a line.

    A line is a JSON string, or a row whose `prompt` is one, as `output` has them.
    name: of the setting. Errors: `ConfigError` for a file that cannot be read, naming the line.
    """
    if not prompt.startswith("@"):
        return [_encodable(prompt, name)]
    path = Path(prompt[1:])
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}={prompt} cannot be read ({reason(error)}); name a text file") from None
    if path.suffix != ".jsonl":
        return [text]
    prompts = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            found = row.get("prompt") if isinstance(row, dict) else row
            if not isinstance(found, str):
                raise ConfigError(
                    f"{path}:{number} is no JSON string; write each prompt as one, in double quotes, or as "
                    '{"prompt": "..."}'
                )
            prompts.append(_encodable(found, f"{path}:{number}"))
    if not prompts:
        raise ConfigError(f"{path} holds no prompt; write one JSON string a line")
    return prompts


def _encodable(prompt: str, where: str) -> str:
    """`prompt`, which tokenizers can take. Errors: `ConfigError` for halves of characters: no UTF-8 stands for them."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{where} is no text at character {error.start + 1}; write it in UTF-8") from None
    return prompt


@contextmanager
def _writer(output: str | None) -> Iterator[IO[str] | None]:
    """The file `output`, which appears when it is whole; None where none is asked for."""
    if output is None:
        yield None
        return
    path = Path(output)
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"output={output} cannot be written; name a file in a folder that exists")
    with open_atomic(path) as file:
        yield file


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
