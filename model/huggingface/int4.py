"""Export with the blocks' matrices in int4 by GPTQ (arXiv 2210.17323), in compressed-tensors' format.

llm-compressor does it, for CodeGen and GPT-J alike: README.md says why it. One block after the other is calibrated on
what the blocks before it, already quantized, give it; on a machine with a GPU only that block is there, and of weights
that the memory does not hold the rest waits on the disk.
"""

import glob
import hashlib
import importlib.util
import math
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from conf.choices import ExportForm, Precision
from conf.errors import ConfigError
from conf.schema import ModelConfig
from model.flops import layer_parameters
from model.huggingface.card import CLASSES, model_card
from model.huggingface.convert import export_weights, new_folder
from model.huggingface.files import GENERATION, read_generation, write_generation
from model.huggingface.settings import MP_NUM
from model.tokenizer import Tokenizer, load_tokenizer
from model.weights import Weights

SEQUENCES = 128  # of the model's context, on which is calibrated: GPTQ's paper
BATCH_TOKENS = 2048  # that pass a block together
HELD_OUT = 32  # more of them, on which perplexity is measured
MOST_FILE_BYTES = 1 << 20
RESERVED_BYTES = 5 * 10**9  # of memory, or half of what is free: what quantizing a block takes beside the weights
LAYERS_IN_MEMORY = 3  # at least: with room for fewer, the libraries below tear a block apart
BLOCKS = {ExportForm.codegen: "CodeGenBlock", ExportForm.gptj: "GPTJBlock"}


@dataclass(frozen=True)
class Quantized:
    """What came of it. Perplexity is per token, on held-out sequences of the calibration corpus."""

    perplexity_before: float
    perplexity_after: float
    bytes_before: int
    bytes_after: int

    def describe(self) -> str:
        """In one line."""
        change = self.perplexity_after / self.perplexity_before - 1
        return (
            f"perplexity {self.perplexity_before:.3f} -> {self.perplexity_after:.3f} ({change:+.2%}), "
            f"{self.bytes_before:,} bytes -> {self.bytes_after:,}"
        )


def check_int4(model: ModelConfig, mp_num: int, group_size: int) -> None:
    """Errors: `ConfigError` for what cannot be quantized, or where llm-compressor is not installed."""
    if group_size < 1 or model.n_embd % group_size:
        sizes = ", ".join(str(size) for size in (32, 64, 128, 256) if not model.n_embd % size) or "another width"
        raise ConfigError(f"group_size={group_size} does not divide n_embd={model.n_embd}; use {sizes}")
    if mp_num != MP_NUM:
        raise ConfigError(f"mp_num={mp_num} cannot be quantized: transformers, which runs the model, reads {MP_NUM}")
    if importlib.util.find_spec("llmcompressor") is None:
        raise ConfigError("quantize=int4 needs llm-compressor, which is not installed; pip install llmcompressor")


def export_int4(
    weights: Weights,
    target: Path,
    group_size: int,
    calibration: list[str],
    dtype: Precision = Precision.auto,
    form: ExportForm = ExportForm.codegen,
) -> Quantized:
    """Write `weights` to the new folder `target`, each block's matrices in int4 with a scale a `group_size` of inputs.

    calibration: files of text, or globs; []: Python's standard library. Embeddings, head and norms keep `dtype`.
    Errors: `ConfigError` as in `check_int4` and `export_weights`, for a corpus of fewer than two sequences, and for too
    little free memory.
    """
    check_int4(weights.model, MP_NUM, group_size)
    if weights.tokenizer_folder is None:
        raise ConfigError(f"{weights.source} came without a tokenizer, which calibration needs")
    reserved = _reserved(weights.model)
    corpus, length = load_tokenizer(weights.tokenizer_folder), weights.model.context_length
    sequences = _sequences(corpus, calibration, length)
    with new_folder(target) as folder:
        plain = folder / "plain"
        export_weights(weights, plain, MP_NUM, dtype, form=form)
        generation = read_generation(plain)
        (plain / GENERATION).unlink(missing_ok=True)  # transformers saves only those that it finds consistent
        result = _quantize(plain, folder, sequences, group_size, form, reserved)
        for path in plain.iterdir():
            if not path.name.startswith(("model", "config.json")) and not (folder / path.name).exists():
                shutil.copy2(path, folder)
        shutil.rmtree(plain)
        write_generation(folder, generation)
        about = _about(group_size, len(sequences) - _held_out(sequences), length, calibration, result)
        (folder / "README.md").write_text(model_card(weights, form, target.name, about))
    return result


def _reserved(model: ModelConfig) -> int:
    """Bytes of memory that are left free of weights. Errors: `ConfigError` where too little is free for any."""
    free = int(psutil.virtual_memory().available)
    weights = LAYERS_IN_MEMORY * 4 * max(layer_parameters(model))
    least = weights + min(RESERVED_BYTES, weights)
    if free < least:
        raise ConfigError(
            f"quantize=int4 needs {least / 2**30:.2f} GiB of free memory for a model of n_embd={model.n_embd}; "
            f"there are {free / 2**30:.2f}"
        )
    return min(RESERVED_BYTES, free // 2)


def _quantize(
    plain: Path, folder: Path, sequences: Tensor, group_size: int, form: ExportForm, reserved: int
) -> Quantized:
    """Quantize the checkpoint in `plain` into `folder`. sequences: token ids `[sequences, context]`.

    reserved: bytes of memory that weights leave free; those that do not fit wait on the disk.
    """
    import transformers
    from compressed_tensors.offload import load_offloaded_model
    from datasets import Dataset
    from llmcompressor.entrypoints.oneshot import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from loguru import logger

    for library in ("llmcompressor", "compressed_tensors"):  # a line a matrix
        logger.disable(library)
    model_class = getattr(transformers, CLASSES[form])
    offload = folder / "offload"
    with load_offloaded_model(model_class, extra_cpu_mem=reserved):
        model = model_class.from_pretrained(plain, dtype="auto", device_map="auto_offload", offload_folder=offload)
    held_out = _held_out(sequences)
    calibration, validation = sequences[:-held_out], sequences[-held_out:]
    before = _perplexity(model, validation)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": group_size}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    oneshot(
        model=model,
        dataset=Dataset.from_dict({"input_ids": calibration.tolist()}),
        recipe=GPTQModifier(config_groups=groups, ignore=["lm_head"]),
        batch_size=max(1, BATCH_TOKENS // calibration.shape[1]),
        pipeline="sequential",
        sequential_targets=[BLOCKS[form]],
        num_calibration_samples=len(calibration),
        max_seq_length=calibration.shape[1],
        shuffle_calibration_samples=False,
    )
    after = _perplexity(model, validation)
    model.save_pretrained(folder, save_compressed=True)
    for path in folder.glob("*.safetensors"):
        shutil.copymode(plain / "config.json", path)  # it is written for its owner alone
    shutil.rmtree(offload, ignore_errors=True)
    return Quantized(before, after, _size(plain), _size(folder))


@torch.no_grad()
def _perplexity(model: Any, sequences: Tensor) -> float:
    losses = [float(model(input_ids=row[None], labels=row[None]).loss) for row in sequences]
    return math.exp(sum(losses) / len(losses))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model*.safetensors"))


def _held_out(sequences: Tensor) -> int:
    return max(1, len(sequences) * HELD_OUT // (SEQUENCES + HELD_OUT))


def _sequences(tokenizer: Tokenizer, calibration: list[str], length: int) -> Tensor:
    """The first `SEQUENCES + HELD_OUT` sequences of the corpus, `[sequences, length]`, an eos after each document."""
    ids: list[int] = []
    for text in _texts(calibration):
        ids += [*tokenizer.encode(text), tokenizer.eos]
        if len(ids) >= (SEQUENCES + HELD_OUT) * length:
            break
    rows = min(len(ids) // length, SEQUENCES + HELD_OUT)
    if rows < 2:
        raise ConfigError(f"calibration has {len(ids):,} tokens; give at least two contexts, {2 * length:,} tokens")
    return torch.tensor(ids[: rows * length]).view(rows, length)


def _texts(calibration: list[str]) -> Iterator[str]:
    """Text files; of the standard library in the order of their names' hashes, so that no topic comes first."""
    if not calibration:
        library = Path(sysconfig.get_path("stdlib"))
        tops = [path for path in library.iterdir() if path.name not in ("site-packages", "dist-packages", "test")]
        found_in = [path for top in tops for path in (top.rglob("*.py") if top.is_dir() else [top])]
        names = [path.relative_to(library).as_posix() for path in found_in if path.suffix == ".py"]
        kept = [name for name in names if "tests" not in name.split("/")]
        paths = [library / name for name in sorted(kept, key=lambda name: hashlib.sha256(name.encode()).digest())]
    else:
        found = [(name, sorted(glob.glob(name, recursive=True))) for name in calibration]
        for name, matches in found:
            if not matches:
                raise ConfigError(
                    f"calibration: {name} {'matches no file' if glob.has_magic(name) else 'does not exist'}"
                )
        paths = [Path(match) for _, matches in found for match in matches if Path(match).is_file()]
    for path in paths:
        try:
            yield path.read_text(encoding="utf-8") if path.stat().st_size <= MOST_FILE_BYTES or calibration else ""
        except (OSError, UnicodeDecodeError) as error:
            if calibration:
                raise ConfigError(f"calibration: {path} cannot be read as text: {error}") from None


def _about(group_size: int, sequences: int, length: int, calibration: list[str], result: Quantized) -> str:
    """The model card's section."""
    corpus = ", ".join(Path(name).name for name in calibration) or "Python's standard library"
    return (
        "## Quantization\n\nThe blocks' matrices are in int4 by GPTQ (llm-compressor "
        f"{version('llmcompressor')}), with a scale a {group_size} inputs, calibrated on {sequences:,} sequences of "
        f"{length:,} tokens of {corpus}. Loading needs `pip install compressed-tensors`.\n\n"
        f"| | before | after |\n|---|---:|---:|\n| perplexity, held-out sequences of the same text | "
        f"{result.perplexity_before:.4f} | {result.perplexity_after:.4f} |\n"
        f"| bytes | {result.bytes_before:,} | {result.bytes_after:,} |"
    )
