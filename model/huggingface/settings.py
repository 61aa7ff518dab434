"""Converts between Hugging Face's config.json and `ModelConfig`."""

import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from conf.check import model_problems
from conf.errors import ConfigError
from conf.schema import ModelConfig

GPT2_EOS, GPT2_TOKENS = 50256, 50257
MP_NUM = 4  # of CodeGen1, MOSS and CodeGen2 7B and 16B, and what transformers' CodeGenForCausalLM assumes
EIGHT_GROUPS = re.compile(r"codegen2-(1B|3_7B)", re.IGNORECASE)
# Hugging Face's name, ours, and the default where config.json lacks it; None: required.
NAMES: tuple[tuple[str, str, float | None], ...] = (
    ("n_layer", "n_layer", None),
    ("n_embd", "n_embd", None),
    ("n_head", "n_head", None),
    ("vocab_size", "vocab_size", None),
    ("rotary_dim", "rotary_dim", 64),
    ("n_positions", "context_length", 2048),
    ("layer_norm_epsilon", "layer_norm_epsilon", 1e-5),
    ("resid_pdrop", "dropout", 0.0),
)
FRACTIONS = ("layer_norm_epsilon", "dropout")  # the others are whole numbers


def settings_of(config: dict[str, Any], source: str) -> ModelConfig:
    """The architecture that `config` describes, by the name of the folder or repository.

    Errors: `ConfigError` for another family, or a variant that `model.codegen` is not.
    """
    if config.get("model_type") not in ("codegen", "moss"):
        raise ConfigError(f"{source} is a {config.get('model_type')} model; only codegen's form can be read")
    absent = [name for name, _, default in NAMES if default is None and name not in config]
    if absent:
        raise ConfigError(f"{source}: config.json does not say {', '.join(absent)}")
    values: dict[str, Any] = {ours: config.get(theirs, default) for theirs, ours, default in NAMES}
    for ours, value in values.items():
        if type(value) is not int and not (ours in FRACTIONS and type(value) is float):
            raise ConfigError(f"{source}: config.json has {value!r} for {ours}, which is no such number")
    model = ModelConfig(name=PurePath(str(config.get("_name_or_path") or source)).name, **values)
    for problem in model_problems(model):
        raise ConfigError(f"{source}: config.json describes no model: {problem}")
    if "quantization_config" in config:
        raise ConfigError(f"{source} is quantized, for transformers alone; take what it was made from")
    for key, known in (
        ("activation_function", ("gelu_new",)),
        ("n_inner", (None, 4 * config["n_embd"])),
        ("tie_word_embeddings", (False,)),
    ):
        if config.get(key, known[0]) not in known:
            raise ConfigError(f"{source}: config.json has {key}={config[key]}, which is not CodeGen's {known[0]}")
    return model


def config_of(model: ModelConfig, dtype: str, eos: int | None) -> dict[str, Any]:
    """config.json of `model`. dtype: of the weights, by torch's name (float16).

    `eos` is the tokenizer's; without one it is GPT-2's where the vocabulary has room for GPT-2's.
    """
    if eos is None and model.vocab_size >= GPT2_TOKENS:
        eos = GPT2_EOS
    return {
        "architectures": ["CodeGenForCausalLM"],
        "model_type": "codegen",
        **{theirs: getattr(model, ours) for theirs, ours, _ in NAMES},
        "n_ctx": model.context_length,
        "n_inner": None,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def mp_num_of(config: dict[str, Any], source: str, model: ModelConfig, asked: int | None) -> int:
    """The number of groups in qkv_proj: `asked`, else from config.json or the name, else 4.

    The tensor's shape is the same for every number; `groups.py` checks the values.
    Errors: `ConfigError` where `asked` contradicts config.json or the name, or where it does not
    divide the heads.
    """
    known, where = config.get("mp_num"), "config.json"
    names = [part for path in (str(config.get("_name_or_path", "")), source) for part in _names(path)]
    if known is None and any(map(EIGHT_GROUPS.search, names)):
        known, where = 8, "its name"
    mp_num = next(number for number in (asked, known, MP_NUM) if number is not None)
    if type(mp_num) is not int:
        raise ConfigError(f"{source}: config.json has mp_num={mp_num!r}, which is no number")
    if known is not None and mp_num != known:
        raise ConfigError(f"mp_num={mp_num} is not that of {source}: {where} says {known}; write mp_num={known}")
    check_mp_num(mp_num, model)
    return mp_num


def _names(path: str) -> Iterator[str]:
    """A folder's name, or a repository's; not those of the folders above, but for the hub's cache."""
    yield PurePath(path).name
    yield from (part for part in PurePath(path).parts if part.startswith("models--"))


def check_mp_num(mp_num: int, model: ModelConfig) -> None:
    """Errors: `ConfigError` where `model`'s heads cannot be cut into `mp_num` groups."""
    if mp_num < 1 or model.n_head % mp_num:
        raise ConfigError(f"mp_num={mp_num} does not divide n_head={model.n_head}: groups hold whole heads")
