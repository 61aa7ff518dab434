"""LoRA's settings (`finetune=lora`): what is trained, how large it is, and what it does not work with. No torch."""

from collections.abc import Iterator

from conf.choices import Finetune, Handover, Precision, QuantizeFrozen
from conf.schema import FinetuneConfig, ModelConfig, Settings

BLOCK = 64  # inputs of a quantized matrix that share a scale: QLoRA's
TARGETS = ("qkv_proj", "out_proj", "fc_in", "fc_out")  # Hugging Face's names of a block's products


def is_lora(finetune: FinetuneConfig) -> bool:
    """Whether adapters are trained, and the weights are frozen."""
    return finetune.kind is Finetune.lora


def trained_layers(settings: Settings) -> list[bool]:
    """Of each layer (embedding, blocks, head), whether anything in it is trained."""
    ends = not is_lora(settings.finetune)
    return [ends, *[True] * settings.model.n_layer, ends]


def adapter_parameters(model: ModelConfig, finetune: FinetuneConfig) -> int:
    """Parameters of all adapters together."""
    d = model.n_embd
    sizes = {"qkv_proj": d + 3 * d, "out_proj": d + d, "fc_in": d + 4 * d, "fc_out": 4 * d + d}
    return model.n_layer * finetune.rank * sum(sizes[target] for target in finetune.targets)


def lora_problems(settings: Settings) -> Iterator[str]:
    """What is wrong with `finetune=lora` and the settings that it does not work with, a line each."""
    finetune, layout = settings.finetune, settings.layout
    if not is_lora(finetune):
        if finetune.quantize is not None:
            yield f"finetune.quantize={finetune.quantize.value} freezes the weights, and needs finetune=lora"
        return
    if finetune.quantize is not None:
        yield from _cannot_quantize(finetune.quantize, settings)
    if finetune.rank < 1:
        yield f"finetune.rank={finetune.rank} must be at least 1"
    if finetune.alpha <= 0:
        yield f"finetune.alpha={finetune.alpha} must be more than 0"
    unknown = [target for target in finetune.targets if target not in TARGETS]
    if unknown or not finetune.targets:
        yield f"finetune.targets={finetune.targets} must name some of a block's products: {', '.join(TARGETS)}"
    if layout.precision is Precision.fp8:
        yield "layout.precision=fp8 does not work with finetune=lora (adapters are too narrow); use bf16"
    if layout.regather_sequence:
        yield "layout.regather_sequence=true does not work with finetune=lora, whose weights are frozen; use false"
    for name, stage in settings.stages.items():
        if stage.handover is Handover.full:
            yield f"stages.{name}.handover=full does not work with finetune=lora: its adapters are new; use weights"


def _cannot_quantize(form: QuantizeFrozen, settings: Settings) -> Iterator[str]:
    width, ranks = settings.model.n_embd, settings.layout.tensor_parallel_size
    if settings.layout.zero_stage == 3:
        yield f"finetune.quantize={form.value} does not work with layout.zero_stage=3, which partitions weights; use 2"
    if width % (BLOCK * ranks):  # then every layout has the same blocks
        yield (
            f"finetune.quantize={form.value} shares a scale among {BLOCK} inputs, which do not divide model.n_embd="
            f"{width} on layout.tensor_parallel_size={ranks} ranks; use null"
        )


def rows_problem(settings: Settings, name: str, source: str, known: int) -> str | None:
    """Why the stage `name` cannot train rows of tokens that its weights do not have; None where it can.

    source: the weights. known: the rows of theirs that were trained.
    """
    rows = settings.model.vocab_size
    if is_lora(settings.finetune):  # and whoever merges the adapters later would not know the new rows
        return (
            f"finetune=lora trains no rows of new tokens, and {source} has {known:,} of {rows:,}; train them by "
            "finetune=full first and adapt that run, or take a tokenizer without new tokens"
        )
    if settings.stages[name].handover is Handover.full:
        return (
            f"stages.{name}.handover=full cannot take the optimizer's state of {source}, whose vocabulary has "
            f"{known:,} tokens and no new ones; use handover=weights"
        )
    return None


def nothing_to_adapt(settings: Settings) -> Iterator[str]:
    """A line where the first stage would train adapters of random weights."""
    name, stage = next(iter(settings.stages.items()))
    if is_lora(settings.finetune) and stage.init_from is None:
        yield f"finetune=lora needs weights to adapt; set stages.{name}.init_from= to a run or a checkpoint"
