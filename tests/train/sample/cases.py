"""What every process of a world runs for the tests of generation, each beside Hugging Face's model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from conf.commands import Sampling
from conf.compose import compose_settings
from conf.schema import ModelConfig, plain
from model.tokenizer.sentencepiece import SentencePieceTokenizer
from model.weights import Weights, memory_reader, write_layer
from parallel.mesh import single_process_mesh
from tests.twin import initial_weights
from tests.worlds import mesh_of
from train.sample.generator import Generator, build_modules

MODEL = ModelConfig("case", 2, 64, 4, 8, 320, 64, 1e-5, 0.0)
PROMPTS = [[5, 6, 7], [9] * 20, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [300]]
TEXTS = [f"def name_{n}(x, y):\n    for i in range({n}):\n        x += y * {n % 7}\n    return x\n" for n in range(200)]
GREEDY = Sampling(max_new_tokens=30, temperature=0.0, top_p=1.0, top_k=0, seed=0)


class Ids:
    """What the generator needs of a tokenizer where there is no text."""

    def __init__(self, eos: int = -1, vocab_size: int = MODEL.vocab_size) -> None:
        self.eos, self.vocab_size = eos, vocab_size


def lively_weights() -> list[dict[str, torch.Tensor]]:
    """Initial weights with noise on all of them, norms and biases too: a model whose tokens vary."""
    generator = torch.Generator().manual_seed(1)
    return [
        {
            name: value + 0.2 * max(float(value.std()), 0.1) * torch.randn(value.shape, generator=generator)
            for name, value in layer.items()
        }
        for layer in initial_weights(MODEL, seed=6)
    ]


def generator_of(tokenizer: Any, size: int = 1) -> Generator:
    """The lively model on this world of `size` processes, fp32."""
    weights = lively_weights()
    source = Weights("lively", Path(), MODEL, None, "memory", memory_reader(weights))
    mesh = mesh_of(size) if size > 1 else single_process_mesh()
    return Generator(source, build_modules(source, mesh, torch.float32), tokenizer, mesh)


def generated(size: int, sampling: Sampling, seeds: list[int]) -> list[list[int]]:
    """Ids that follow PROMPTS."""
    return generator_of(Ids(), size).generate_ids(PROMPTS, sampling, seeds)


def losses(size: int, ids: torch.Tensor) -> torch.Tensor:
    """Nats of each token."""
    return generator_of(Ids(), size).token_losses(ids)


def finished_run(folder: Path) -> Path:
    """A run's folder whose one stage has left weights and a tokenizer."""
    settings = replace(compose_settings(["model=tiny", "stage=nl"]), model=MODEL)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(plain(settings))))
    weights = folder / "stages" / "nl" / "weights"
    weights.mkdir(parents=True)
    for index, layer in enumerate(lively_weights()):
        write_layer(weights, index, layer)
    SentencePieceTokenizer.train(TEXTS, MODEL.vocab_size).save(folder / "tokenizer")
    return folder
