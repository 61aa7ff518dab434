"""Streams tensors into safetensors files: a file of any size in the memory of one tensor.

safetensors' own writer takes all of a file's tensors at once. Its format allows spaces after the header, so room for
the header is left at the front and filled at the end; until then the file is no safetensors file.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
HEADER_BYTES = 1 << 20  # room for some thousand tensors


class ShardWriter:
    """Files `model-00001-of-...` of at most `most_bytes` below `folder`, unless one layer alone is larger."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._headers: list[dict[str, dict[str, object]]] = []
        self._offset = most_bytes  # in the last file, without its header
        self._total = 0

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Write a layer's tensors; those of one layer stay in one file. Errors: `OSError`."""
        size = sum(value.nbytes for value in tensors.values())
        if not self._headers or self._offset + size > self._most:
            self._headers.append({})
            self._offset = 0
            self._part(-1).write_bytes(b"")
        with self._part(-1).open("r+b") as file:
            file.seek(8 + HEADER_BYTES + self._offset)
            for name, value in tensors.items():
                end = self._offset + value.nbytes
                self._headers[-1][name] = {
                    "dtype": NAMES[value.dtype],
                    "shape": list(value.shape),
                    "data_offsets": [self._offset, end],
                }
                file.write(value.contiguous().view(torch.uint8).numpy().data)
                self._offset = end
        self._total += size

    def finish(self) -> None:
        """Complete the files and give them their names; write the index where there is more than one."""
        count = len(self._headers)
        names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        if count == 1:
            names = ["model.safetensors"]
        for number, (name, header) in enumerate(zip(names, self._headers, strict=True)):
            text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode().ljust(HEADER_BYTES)
            if len(text) > HEADER_BYTES:
                raise ValueError(f"{len(header)} tensors are too many for one file")
            with self._part(number).open("r+b") as file:
                file.write(HEADER_BYTES.to_bytes(8, "little") + text)
            self._part(number).rename(self._folder / name)
        if count > 1:
            where = {tensor: name for name, header in zip(names, self._headers, strict=True) for tensor in header}
            index = {"metadata": {"total_size": self._total}, "weight_map": where}
            (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

    def _part(self, number: int) -> Path:
        return self._folder / f"{number % len(self._headers)}.part"
