"""`finetune=lora` under every layout is one training run: PEFT's, with torch's AdamW and clipping, in one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import (  # type: ignore[import-untyped]
    create_linear_map,
    dequantize_4bit,
    dequantize_blockwise,
    quantize_4bit,
    quantize_blockwise,
)
from peft import PeftModel
from safetensors.torch import load_file

from conf.choices import QuantizeFrozen
from conf.run_folder import read_json
from conf.schema import Settings
from model.adapters import initial_adapters
from model.huggingface.peft import to_peft, write_peft
from model.lora import is_adapter
from model.weights import Adapters
from tests.parity import test_resume
from tests.parity.cases import RATE, SEED, STEPS, batch, settings_of, train
from tests.parity.golden import cross_entropy
from tests.parity.test_compiled import AUTO
from tests.parity.test_layouts import HALF, PP2, SP, TP2, ZERO0, ZERO1, ZERO2, ZERO3
from tests.twin import MP_NUM, initial_weights, twin_of
from tests.worlds import Worlds

LORA = ["finetune=lora", "finetune.rank=3", "finetune.alpha=6", "optimizer.gradient_clipping=0.02"]
LAYOUTS: dict[str, tuple[int, list[str]]] = {
    "single": (1, [ZERO0]),
    "single recompute": (1, [ZERO1, "layout.recompute=full"]),
    "tp2": (2, [TP2, ZERO0]),
    "tp2 sp": (2, [TP2, SP, ZERO1]),
    "dp2 zero2": (2, [ZERO2]),
    "dp2 zero3": (2, [ZERO3]),
    "pp2 dp2 zero1": (4, [PP2, ZERO1]),
    "tp2 pp2 dp2 sp": (8, [TP2, PP2, SP, ZERO1]),
}


def peft_model(folder: Path, settings: Settings) -> PeftModel:
    """PEFT's model of the initial weights, with this stack's initial adapters, as they are exported.

    finetune.quantize: each module's weight has been in bitsandbytes' codes.
    """
    read = initial_adapters(settings.model, settings.finetune, SEED)
    tensors: dict[str, torch.Tensor] = {}
    for index in range(1, settings.model.n_layer + 1):
        tensors |= to_peft(index, read(index), MP_NUM)
    write_peft(folder, tensors, Adapters("", settings.finetune, read))
    twin = twin_of(settings.model, initial_weights(settings.model, SEED))
    if settings.finetune.quantize is not None:
        for name, module in twin.named_modules():
            if name.endswith(tuple(settings.finetune.targets)):
                module.weight.data = quantized(module.weight.data, settings.finetune.quantize)
    return PeftModel.from_pretrained(twin, folder, is_trainable=True)


def quantized(weight: torch.Tensor, form: QuantizeFrozen) -> torch.Tensor:
    """`weight` as bitsandbytes' own functions leave it in blocks of 64."""
    if form is QuantizeFrozen.nf4:
        return dequantize_4bit(*quantize_4bit(weight, blocksize=64, quant_type="nf4"))
    codes, state = quantize_blockwise(weight, code=create_linear_map(), blocksize=64)
    return dequantize_blockwise(codes, state)


@pytest.fixture(scope="module")
def peft_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_peft(tmp_path_factory.mktemp("peft"), LORA)


def run_peft(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """Losses, norms and final adapters of PEFT's run."""
    settings = settings_of(overrides)
    optimizer, model = settings.optimizer, peft_model(folder, settings)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    betas = (optimizer.beta1, optimizer.beta2)
    adamw = torch.optim.AdamW(trained, RATE, betas, optimizer.epsilon, optimizer.weight_decay)
    result: dict[str, Any] = {"loss": [], "gradient_norm": []}
    for step in range(STEPS):
        total, labels = cross_entropy(model, batch(step, settings))
        loss = total / labels
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, optimizer.gradient_clipping)
        adamw.step()
        adamw.zero_grad()
        result["loss"].append(loss.item())
        result["gradient_norm"].append(norm.item())
    rows = batch(STEPS, settings)
    with torch.no_grad():
        result["evaluation"] = cross_entropy(model, rows)[0].item()
        result["logits"] = model(rows[:2, :-1]).logits[torch.arange(2), torch.tensor([3, 9])]
    named = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    return {**result, "weights": {name.replace(".default.", "."): value for name, value in named.items()}}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_trains_pefts_run(layout: str, worlds: Worlds, peft_run: dict[str, Any]) -> None:
    size, overrides = LAYOUTS[layout]
    same_run(worlds(size).run(train, [*LORA, *overrides]), peft_run)


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_a_quantized_base_is_pefts_run_on_the_same_base(form: str, worlds: Worlds, tmp_path: Path) -> None:
    words = [*LORA, f"finetune.quantize={form}"]
    expected = run_peft(tmp_path, words)
    for layout in ("single recompute", "tp2 pp2 dp2 sp"):
        size, overrides = LAYOUTS[layout]
        same_run(worlds(size).run(train, [*words, *overrides]), expected)


def test_compiled_blocks_over_a_quantized_base_are_pefts_run(worlds: Worlds, tmp_path: Path) -> None:
    words = [*LORA, "finetune.quantize=nf4"]
    same_run(worlds(1).run(train, [*words, ZERO0, *AUTO]), run_peft(tmp_path, words))


def same_run(results: list[dict[str, Any]], peft_run: dict[str, Any]) -> None:
    assert min(peft_run["gradient_norm"]) > 0.02, "clipping must be active"
    assert peft_run["loss"][-1] != pytest.approx(peft_run["loss"][0], rel=1e-4)
    tensors: dict[str, torch.Tensor] = {}
    for rank, result in enumerate(results):
        for key in ("loss", "gradient_norm", "evaluation"):
            assert result[key] == pytest.approx(peft_run[key], rel=1e-5), f"{key} of rank {rank}"
        torch.testing.assert_close(result["logits"], peft_run["logits"], rtol=1e-4, atol=1e-5)
        for name, value in result["weights"].items():
            layer, _, rest = name.partition(".")
            tensors |= to_peft(int(layer), {rest: value}, MP_NUM)
    assert tensors.keys() == peft_run["weights"].keys()
    for name, value in tensors.items():
        torch.testing.assert_close(value, peft_run["weights"][name], rtol=1e-5, atol=2e-6, msg=lambda m: f"{name}: {m}")


@pytest.mark.parametrize("layout", [(1, HALF), (2, [*HALF, TP2, SP]), (2, [*HALF, PP2])])
def test_bf16_stays_near_pefts_run(layout: tuple[int, list[str]], worlds: Worlds, peft_run: dict[str, Any]) -> None:
    """As tests/parity/test_layouts.py: bf16 keeps 8 bits."""
    size, overrides = layout
    for result in worlds(size).run(train, [*LORA, *overrides]):
        assert result["loss"] == pytest.approx(peft_run["loss"], rel=0.01)
        assert result["gradient_norm"] == pytest.approx(peft_run["gradient_norm"], rel=0.04)
        assert result["evaluation"] == pytest.approx(peft_run["evaluation"], rel=0.01)


def test_a_checkpoint_holds_adapters_and_any_layout_goes_on(
    worlds: Worlds, peft_run: dict[str, Any], tmp_path: Path
) -> None:
    size, overrides = LAYOUTS["tp2 sp"]
    worlds(size).run(test_resume.write, [*LORA, *overrides], tmp_path)
    checkpoint = tmp_path / f"step_{test_resume.SAVED:08d}"
    files = read_json(checkpoint / "state.json")["files"]
    assert len(files) == 3 * 3 and all("layer_000" not in name for name in files)
    held = [load_file(path).keys() for path in checkpoint.glob("weights/*.safetensors")]
    assert all(is_adapter(name) for names in held for name in names)
    for layout in ("tp2 sp", "dp2 zero3", "pp2 dp2 zero1"):
        size, overrides = LAYOUTS[layout]
        for result in worlds(size).run(test_resume.go_on, [*LORA, *overrides], checkpoint, tmp_path / layout):
            for key, values in result.items():
                assert values == pytest.approx(peft_run[key][test_resume.SAVED :], rel=1e-5), key
        assert test_resume.same_checkpoint(checkpoint, tmp_path / layout / checkpoint.name)


@pytest.mark.parametrize("base", [[], ["finetune.quantize=nf4"]])
def test_a_bf16_run_goes_on_to_the_last_bit(base: list[str], worlds: Worlds, tmp_path: Path) -> None:
    overrides = [*LORA, *HALF, *base]
    undisturbed = worlds(1).run(train, overrides)[0]
    worlds(1).run(test_resume.write, overrides, tmp_path)
    checkpoint = tmp_path / f"step_{test_resume.SAVED:08d}"
    resumed = worlds(1).run(test_resume.go_on, overrides, checkpoint, tmp_path / "again")[0]
    for key, values in resumed.items():
        assert values == undisturbed[key][test_resume.SAVED :], key
