"""A tokenizer of each kind that matters to row formats."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from tests.helpers.tokenizers import KINDS, roberta_of


@pytest.fixture(scope="session")
def roberta_tokenizer(bpe_tokenizer: Tokenizer) -> Tokenizer:
    return roberta_of(bpe_tokenizer)


@pytest.fixture(scope="session", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """BERT's, RoBERTa's, GPT-2's and T5's kind."""
    found: Tokenizer = request.getfixturevalue(f"{request.param}_tokenizer")
    return found
