"""Documents packed side by side are the same training run as each document by itself, under every layout."""

from typing import Any

import pytest
import torch

from tests.parity.cases import EOS, batch, infilled, settings_of, train_conversations, train_documents, train_infilled
from tests.parity.golden import each_document_by_itself, each_infilled_document, golden, padded_conversations
from tests.parity.test_compiled import AUTO
from tests.parity.test_layouts import LAYOUTS
from tests.worlds import Worlds

PACKED = [
    *("single", "selective recompute", "tp2 sp recompute", "pp2 recompute", "dp2 zero0", "dp2 zero3 recompute"),
    "tp2 pp2 dp2 sp",
]


@pytest.fixture(scope="module")
def by_themselves() -> dict[str, Any]:
    """Hugging Face's model, given one document at a time, and the mean over all of their labels."""
    return golden(each_document_by_itself)


def assert_same_run(results: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    weights: dict[str, torch.Tensor] = {}
    for result in results:
        for key in ("loss", "gradient_norm", "evaluation"):
            assert result[key] == pytest.approx(expected[key], rel=1e-5), key
        weights |= result["weights"]
    assert weights.keys() == expected["weights"].keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, expected["weights"][name], rtol=1e-5, atol=2e-6, msg=lambda m: f"{name}: {m}")


def test_documents_that_see_each_other_are_another_run(by_themselves: dict[str, Any], expected: dict[str, Any]) -> None:
    assert by_themselves["loss"] != pytest.approx(expected["loss"], rel=1e-3)


@pytest.mark.parametrize("layout", PACKED)
def test_layout_trains_each_document_by_itself(layout: str, worlds: Worlds, by_themselves: dict[str, Any]) -> None:
    size, overrides = LAYOUTS[layout]
    assert_same_run(worlds(size).run(train_documents, overrides), by_themselves)


@pytest.fixture(scope="module")
def in_codegen2s_form() -> dict[str, Any]:
    """Likewise, documents of which some are in CodeGen2's form, whose one eos inside ends nothing."""
    rows = batch(0, settings_of([]))
    (ids, labels, positions) = infilled(rows)
    assert ((ids == EOS) & (labels == 92)).any(), "some are in the form"
    assert positions is not None and (positions[(ids == EOS) & (labels == 92)] > 0).all()
    return golden(each_infilled_document)


@pytest.mark.parametrize("layout", ["single", "tp2 sp recompute", "pp2 recompute", "dp2 zero3 recompute"])
def test_layout_trains_documents_in_codegen2s_form(
    layout: str, worlds: Worlds, in_codegen2s_form: dict[str, Any]
) -> None:
    size, overrides = LAYOUTS[layout]
    assert_same_run(worlds(size).run(train_infilled, overrides), in_codegen2s_form)


@pytest.fixture(scope="module")
def padded() -> dict[str, Any]:
    """Hugging Face's model, given conversations unpacked and padded, and the mean over what the assistant wrote."""
    return golden(padded_conversations)


@pytest.mark.parametrize("layout", ["single", "dp2 zero3 recompute", "tp2 pp2 dp2 sp"])
def test_layout_learns_what_the_assistant_wrote_in_packed_conversations(
    layout: str, worlds: Worlds, padded: dict[str, Any]
) -> None:
    size, overrides = LAYOUTS[layout]
    assert_same_run(worlds(size).run(train_conversations, overrides), padded)


@pytest.mark.parametrize("layout", ["pp2"])
def test_compiled_blocks_train_each_document_by_itself(
    layout: str, worlds: Worlds, by_themselves: dict[str, Any]
) -> None:
    size, overrides = LAYOUTS[layout]
    for result in worlds(size).run(train_documents, [*overrides, *AUTO]):
        for key in ("loss", "gradient_norm"):
            assert result[key] == pytest.approx(by_themselves[key], rel=1e-5), key
