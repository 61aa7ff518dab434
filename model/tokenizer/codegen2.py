"""The tokens that CodeGen2 added for infilling (arXiv 2305.02309), in the order of their ids.

After CodeGen's tokens of white space: `<dummy_0>` is 50295, `<sep>` 50299, `<eom>` 50300, and `<mask_899>` to
`<mask_1>` are 50301 to 51199 (added_tokens.json of Salesforce/codegen2-1B_P). Its files do not call them special; here
they are, so that a document that holds such a text cannot forge one.
"""

from collections.abc import Container

SEPARATOR = "<sep>"  # between a document whose spans are masked and the spans
END_OF_MASK = "<eom>"  # after a span
FIRST_MASK = "<mask_1>"  # in a span's place, and before it
INFILLING = (FIRST_MASK, SEPARATOR, END_OF_MASK)  # those that one span needs
CODEGEN2 = [
    *(f"<dummy_{number}>" for number in range(4)),
    *(SEPARATOR, END_OF_MASK),
    *(f"<mask_{number}>" for number in range(899, 0, -1)),
]


def can_infill(special_tokens: Container[str]) -> bool:
    """Whether a tokenizer's special tokens are enough for the form."""
    return all(text in special_tokens for text in INFILLING)
