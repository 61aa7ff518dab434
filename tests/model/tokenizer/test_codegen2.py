"""The list of CodeGen2's tokens; `test_gpt2.py` gives them their ids."""

from model.tokenizer.codegen2 import CODEGEN2, INFILLING


def test_the_tokens_stand_in_the_released_order() -> None:
    assert len(CODEGEN2) == len(set(CODEGEN2)) == 51200 - 50295
    assert CODEGEN2[:7] == ["<dummy_0>", "<dummy_1>", "<dummy_2>", "<dummy_3>", "<sep>", "<eom>", "<mask_899>"]
    assert CODEGEN2[-2:] == ["<mask_2>", "<mask_1>"] and set(INFILLING) <= set(CODEGEN2)
