"""Weights go in and out unchanged, in little memory, wholly or not at all."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from conf.choices import Precision
from conf.errors import ConfigError
from conf.schema import ModelConfig
from model.huggingface import from_huggingface, huggingface_shapes, to_huggingface
from model.huggingface.convert import export_weights, import_weights, new_folder
from model.huggingface.files import read_config
from model.huggingface.settings import settings_of
from model.pretrained import open_weights
from model.tokenizer import load_tokenizer
from model.tokenizer.codegen2 import CODEGEN2
from model.tokenizer.gpt2 import WHITESPACE
from model.tokenizer.gpt2_files import EOS, byte_of_character
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from model.weights import Weights
from tests.model.huggingface.random_models import random_model, save
from tests.model.test_codegen import build

ROOT = Path(__file__).parents[3]
TEXTS = ["def add(a, b):\n    return a + b\n\n\tif x:\n\t\ty = '\u00e9</s>'\n" * 30]


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("mp_num", [4, 8])
def test_there_and_back_is_the_same_bit_for_bit(tmp_path: Path, dtype: torch.dtype, mp_num: int) -> None:
    source = save(random_model(dtype), tmp_path / "source", max_shard_size="100KB")
    made = import_weights(open_weights(source, mp_num), tmp_path / "ours")
    assert made.layer(1)["in_proj.weight"].dtype is dtype
    export_weights(open_weights(tmp_path / "ours"), tmp_path / "back", mp_num, Precision.auto, shard_bytes=100_000)
    assert len(list((tmp_path / "back").glob("model-*-of-*.safetensors"))) > 1
    assert same(tensors_in(source), tensors_in(tmp_path / "back"))
    assert not list(tmp_path.glob("**/*.part*"))


def test_an_export_says_its_groups_and_another_number_is_refused(tmp_path: Path) -> None:
    source = save(random_model(), tmp_path / "source")
    export_weights(open_weights(source), tmp_path / "eight", 8, Precision.auto)
    assert not same(tensors_in(source), tensors_in(tmp_path / "eight"))
    assert torch.equal(
        open_weights(tmp_path / "eight").layer(1)["in_proj.weight"], open_weights(source).layer(1)["in_proj.weight"]
    )
    with pytest.raises(ConfigError, match=r"mp_num=4 is not that of .*config\.json says 8; write mp_num=8"):
        import_weights(open_weights(tmp_path / "eight", 4), tmp_path / "wrong")
    with pytest.raises(ConfigError, match="mp_num=3 does not divide n_head=8"):
        export_weights(open_weights(source), tmp_path / "wrong", 3, Precision.auto)
    assert not (tmp_path / "wrong").exists()


def test_transformers_loads_an_export_without_flags_and_computes_the_same(tmp_path: Path) -> None:
    source = save(random_model(), tmp_path / "source")
    SentencePieceTokenizer.train(TEXTS, 400).save(source)
    made = import_weights(open_weights(source), tmp_path / "ours")
    export_weights(open_weights(tmp_path / "ours"), tmp_path / "theirs", 4, Precision.auto)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "theirs")
    assert tokenizer(TEXTS[0])["input_ids"] == SentencePieceTokenizer.load(source).encode(TEXTS[0])
    assert model.config.eos_token_id == tokenizer.eos_token_id == 1
    assert not model.config.tie_word_embeddings

    stack = build(made.model)
    for index, layer in enumerate(stack):
        layer.load_state_dict(made.layer(index))
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"][:32]])
    with torch.no_grad():
        logits = stack(ids) @ stack[-1].weight.T + stack[-1].bias
        torch.testing.assert_close(logits, model(ids).logits, rtol=1e-5, atol=1e-5)


def test_how_a_model_generates_goes_in_and_out_or_follows_from_its_tokenizer(tmp_path: Path) -> None:
    def back(name: str, generation: dict[str, object] | None) -> Path:
        source = save(random_model(), tmp_path / name)
        SentencePieceTokenizer.train(TEXTS, 400).save(source)
        (source / "generation_config.json").unlink()
        if generation:
            (source / "generation_config.json").write_text(json.dumps(generation))
        made = import_weights(open_weights(source), tmp_path / f"{name}_ours")
        return export_weights(made, tmp_path / f"{name}_back", 4, Precision.auto).folder

    told = GenerationConfig.from_pretrained(back("told", {"eos_token_id": [0, 7], "do_sample": True, "top_k": 3}))
    assert (told.eos_token_id, told.do_sample, told.top_k) == ([0, 7], True, 3)
    model = AutoModelForCausalLM.from_pretrained(back("untold", None))
    model.lm_head.bias.data[1] = 1e6  # the tokenizer's eos, which ends the text
    assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=9).tolist() == [[5, 6, 1]]


def test_gpt2_vocabularies_get_their_end_of_text(tmp_path: Path) -> None:
    source = save(random_model(vocab_size=50304, n_embd=8, rotary_dim=1 * 2, n_head=4), tmp_path / "source")
    export_weights(open_weights(source), tmp_path / "theirs", 4, Precision.fp16)
    config = json.loads((tmp_path / "theirs/config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["torch_dtype"]) == (50256, 50256, "float16")
    assert {value.dtype for value in tensors_in(tmp_path / "theirs").values()} == {torch.float16}


def logits(weights: Weights) -> torch.Tensor:
    model = build(weights.model)
    for index, layer in enumerate(model):
        layer.load_state_dict(weights.layer(index))
    ids = torch.randint(0, 400, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model(ids) @ model[-1].weight.T + model[-1].bias


def test_added_rows_never_win_and_cut_rows_are_gone(tmp_path: Path) -> None:
    source = save(random_model(), tmp_path / "source")
    plain, grown, cut = (
        logits(import_weights(open_weights(source), tmp_path / str(rows), rows)) for rows in (None, 512, 401 - 1)
    )
    assert grown.shape[-1] == 512
    torch.testing.assert_close(grown[..., :400], plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grown[..., 400:], plain.mean(-1, keepdim=True).expand(-1, -1, 112), rtol=1e-4, atol=1e-5)
    assert (grown.argmax(-1) < 400).all()
    assert torch.equal(cut, plain)
    SentencePieceTokenizer.train(TEXTS, 400).save(source)
    with pytest.raises(ConfigError, match=r"vocab_size=64 has no room for the \d+ ids of its tokenizer"):
        import_weights(open_weights(source), tmp_path / "small", 64)
    assert not list(tmp_path.glob("small*"))


def test_a_value_beyond_fp16_is_refused_not_made_infinite(tmp_path: Path) -> None:
    model = random_model()
    with torch.no_grad():
        model.transformer.h[1].mlp.fc_in.weight[3, 3] = 1e6
    save(model, tmp_path / "source")
    with pytest.raises(ConfigError, match=r"h\.1\.mlp\.fc_in\.weight has a value of 1e\+06, beyond fp16's 65504"):
        export_weights(open_weights(tmp_path / "source"), tmp_path / "half", 4, Precision.fp16)
    assert not list(tmp_path.glob("half*"))
    export_weights(open_weights(tmp_path / "source"), tmp_path / "half", 4, Precision.bf16)


def test_a_target_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    source = save(random_model(), tmp_path / "source")
    (tmp_path / "taken").mkdir()
    import_weights(open_weights(source), tmp_path / "taken")
    with pytest.raises(ConfigError, match="taken exists already and is not an empty folder"):
        import_weights(open_weights(source), tmp_path / "taken")
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises((ConfigError, KeyboardInterrupt)) as caught, new_folder(tmp_path / "new") as folder:
            (folder / "half").write_text("x")
            raise error
        assert isinstance(error, KeyboardInterrupt) or str(caught.value).endswith("written: No space left on device")
        assert not list(tmp_path.glob("new*"))


def regrouped(weight: torch.Tensor, heads: int, before: int, after: int) -> torch.Tensor:
    """qkv_proj `[3d, d]` in `after` groups instead of `before`, each [q | v | k] of its heads, as released."""
    kinds = weight.view(before, 3, heads // before, -1, weight.shape[1]).transpose(0, 1)  # [3, group, head, size, d]
    return kinds.reshape(3, after, heads // after, -1, weight.shape[1]).transpose(0, 1).reshape(weight.shape)


@pytest.mark.parametrize(("name", "mp_num"), [("codegen2-1B", 8), ("codegen2-3_7B", 8), ("codegen2-7B", 4)])
def test_codegen2_goes_in_and_out_with_its_groups_and_its_tokens(tmp_path: Path, name: str, mp_num: int) -> None:
    """A folder as released: .bin, a config.json that names neither groups nor eos, tokens in added_tokens.json."""
    twin, released = random_model(vocab_size=1300), tmp_path / name
    released.mkdir()
    tensors = {
        key: regrouped(value, 8, 4, mp_num) if key.endswith("qkv_proj.weight") else value
        for key, value in twin.state_dict().items()
    }
    torch.save(tensors, released / "pytorch_model.bin")
    config = {**twin.config.to_dict(), "_name_or_path": f"checkpoints/{name}/", "eos_token_id": 2, "bos_token_id": 1}
    (released / "config.json").write_text(json.dumps(config))
    alphabet = {character: token for token, character in enumerate(sorted(byte_of_character()))}
    (released / "vocab.json").write_text(json.dumps(alphabet | {EOS: 256}))
    (released / "merges.txt").write_text("#version: 0.2\n")
    added = {text: 257 + number for number, text in enumerate([*WHITESPACE, *CODEGEN2])}
    (released / "added_tokens.json").write_text(json.dumps(added))

    made = import_weights(open_weights(released), tmp_path / "ours")
    assert made.tokenizer_folder is not None and load_tokenizer(made.tokenizer_folder).kind == "codegen2"
    ids = torch.randint(0, 400, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = twin(ids).logits
        torch.testing.assert_close(logits(made), expected, rtol=1e-5, atol=1e-5)
        export_weights(made, tmp_path / "released", mp_num, Precision.auto)
        assert same(tensors_in(tmp_path / "released"), {key: value.contiguous() for key, value in tensors.items()})
        export_weights(made, tmp_path / "for_transformers", 4, Precision.auto)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "for_transformers").eval()
        torch.testing.assert_close(theirs(ids).logits, expected, rtol=0, atol=0)
    assert theirs.config.eos_token_id == 256
    (released / "config.json").write_text(json.dumps({**config, "_name_or_path": ""}))
    with pytest.raises(ConfigError, match="write mp_num=8" if mp_num == 8 else "mp_num=3 does not divide"):
        open_weights(released, 4 if mp_num == 8 else 3)


MEASURE = """
import resource, sys
from pathlib import Path
from conf.choices import Precision
from model.huggingface.convert import export_weights, import_weights
from model.pretrained import open_weights
import_weights(open_weights(sys.argv[1]), Path(sys.argv[2]))
export_weights(open_weights(sys.argv[2]), Path(sys.argv[3]), 4, Precision.auto, 10**9)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Path]:
    """A folder whose gigabytes do not stay, as pytest's own would."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_three_gib_are_converted_in_less_than_half_of_that(large: Path) -> None:
    layers, width, rows = 28, 1536, 1024
    shape = {"n_layer": layers, "n_embd": width, "n_head": 8, "rotary_dim": 64, "vocab_size": rows}
    source = large / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"model_type": "codegen", **shape}))
    weights, where = huggingface_shapes(settings_of(read_config(source), str(source))), {}
    for number, layer in enumerate(weights):
        name = f"model-{number:05d}.safetensors"
        save_file({key: torch.full(one, number + 0.5) for key, one in layer.items()}, source / name)
        where |= dict.fromkeys(layer, name)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert size > 2.9 * 2**30
    words = [sys.executable, "-c", MEASURE, str(source), str(large / "ours"), str(large / "back")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split()[-1])
    print(f"{size / 2**30:.2f} GiB converted twice at a peak of {peak / 2**30:.2f} GiB")
    assert peak < 1.5 * 2**30
    last = f"model-{layers:05d}.safetensors"
    back = tensors_in(large / "back")
    assert all(torch.equal(value, back[name]) for name, value in load_file(source / last).items())


@pytest.mark.parametrize("mp_num", [1, 2, 4, 8])
def test_groups_hold_query_value_key_in_the_order_of_heads(mp_num: int) -> None:
    """A row's place in qkv_proj, from the released layout's definition alone."""
    model = ModelConfig("test", 1, 64, 8, 4, 10, 8, 1e-5, 0.0)
    heads, size = model.n_head, model.head_dim
    names = [(part, head, row) for part in "qkv" for head in range(heads) for row in range(size)]
    layer = {
        "in_proj.weight": torch.arange(7.0 * model.n_embd)[:, None].repeat(1, model.n_embd),
        "out_proj.weight": torch.zeros(model.n_embd, 5 * model.n_embd),
        "mlp_bias": torch.zeros(4 * model.n_embd),
        **{name: torch.zeros(model.n_embd) for name in ("norm.weight", "norm.bias", "out_proj.bias")},
    }
    released = to_huggingface(1, layer, model, mp_num)
    rows = released["transformer.h.0.attn.qkv_proj.weight"][:, 0].long().tolist()
    wanted = [
        (part, group * heads // mp_num + head, row)
        for group in range(mp_num)
        for part in "qvk"
        for head in range(heads // mp_num)
        for row in range(size)
    ]
    assert [names[row] for row in rows] == wanted
    assert torch.equal(from_huggingface(1, released, model, mp_num)["in_proj.weight"], layer["in_proj.weight"])


def test_of_two_exports_into_one_folder_the_slower_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "target cannot be written: Directory not empty"
    with pytest.raises(ConfigError, match=said), new_folder(tmp_path / "target") as slower:
        (slower / "a").write_text("slower")
        monkeypatch.setattr("conf.partial_folder.os.getpid", lambda: 1)  # another process
        with new_folder(tmp_path / "target") as first:
            (first / "b").write_text("first")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_the_folder_where_one_stands_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with new_folder(Path(".")) as folder:
        (folder / "a").touch()
    assert (tmp_path / "here/a").is_file()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "link") as folder:
        (folder / "b").touch()
    assert (tmp_path / "empty/b").is_file() and (tmp_path / "link").is_symlink()
    with pytest.raises(ConfigError, match="vocab_size=0 must be at least 1"):
        import_weights(open_weights(save(random_model(), tmp_path / "source")), tmp_path / "ours", 0)
