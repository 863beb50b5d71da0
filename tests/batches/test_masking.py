"""Masking for masked language models: what may be masked, how often, and that it stays the same."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from seqstream.batches.batch import Batch
from seqstream.batches.masking import MaskTokens
from tests.conftest import VOCAB_SIZE
from tests.helpers.batches import batch_of, packed_batch, random_rows

PAD, UNK, CLS, SEP, MASK = range(5)


def rows_of_bert(lengths: list[int], seed: int = 0) -> list[Tensor]:
    """Make rows of random ids between [CLS] and [SEP], an unknown one among them."""
    rows = [5 + row for row in random_rows(lengths, seed=seed, vocab=VOCAB_SIZE - 5)]
    for row in rows:
        row[0], row[-1], row[len(row) // 2] = CLS, SEP, UNK
    return rows


def forms(rows: list[Tensor], seed: int = 17) -> dict[str, Batch]:
    """Make a batch of each form."""
    middle = len(rows) // 2
    batches = {
        "padded": batch_of(rows),
        "left": batch_of(rows, side="left", wider=3),
        "jagged": batch_of(rows, "jagged"),
        "packed": packed_batch([rows[:middle], rows[middle:]], sum(map(len, rows))),
    }
    return {name: Batch.of({**vars(batch), "layout": batch.layout._replace(seed=seed)}) for name, batch in batches.items()}


@pytest.mark.parametrize("form", ["padded", "left", "jagged", "packed"])
def test_what_is_masked_is_what_is_predicted(wordpiece_tokenizer: Tokenizer, form: str) -> None:
    """Labels are the ids that were there, and only at ordinary tokens; everything else is as it was."""
    rows = rows_of_bert([9, 30, 200, 7, 80])
    batch = forms(rows)[form]
    masked = MaskTokens(wordpiece_tokenizer, probability=0.5)(batch)
    before, after, labels = (own.flatten() for own in (batch.input_ids, masked.input_ids, masked.labels))
    chosen = labels != -100
    assert labels[chosen].equal(before[chosen])
    assert after[~chosen].equal(before[~chosen])
    real = batch.mask.flatten()
    assert (before[chosen] >= 5).all()
    assert real[chosen].all()
    assert 0.4 < chosen.sum() / (real & (before >= 5)).sum() < 0.6
    assert masked.num_label_tokens == chosen.sum() > 0
    assert masked.flat().shape == batch.flat().shape
    assert masked.flat("labels").shape == batch.flat().shape


def test_a_jagged_batch_stays_flat(wordpiece_tokenizer: Tokenizer) -> None:
    """Masking pads nothing, and padding afterwards gives -100 and the padding value."""
    batch = batch_of(rows_of_bert([9, 30]), "jagged")
    masked = MaskTokens(wordpiece_tokenizer)(batch)
    assert not masked.layout.columns
    assert masked.labels[0, 9:].tolist() == [-100] * 21
    assert masked.input_ids[0, 9:].equal(batch.input_ids[0, 9:])


@pytest.mark.parametrize("layout", ["padded", "jagged", "packed"])
def test_rows_made_up_are_left_alone(wordpiece_tokenizer: Tokenizer, layout: str) -> None:
    """Even where their token is an ordinary one, as it is for a tokenizer that has no padding token."""
    rows = [torch.arange(5, 25), torch.tensor([7]), torch.tensor([7])]
    batch = (
        packed_batch([[row] for row in rows], 20, num_made_up=2)
        if layout == "packed"
        else batch_of(rows, layout, num_made_up=2)
    )
    transposed = batch.with_columns("input_ids", input_ids=batch.input_ids.T.contiguous().T)  # slots are no view of it
    for given in (batch, transposed):
        masked = MaskTokens(wordpiece_tokenizer, probability=1.0)(given)
        assert masked.num_label_tokens == 20
        assert masked.input_ids[1:, 0].tolist() == [7, 7]


def test_the_same_batch_is_masked_the_same(wordpiece_tokenizer: Tokenizer) -> None:
    """Whenever it is rebuilt, and by a copy in another process; another batch is masked otherwise."""
    rows = rows_of_bert([100, 80])
    mask = MaskTokens(wordpiece_tokenizer)
    first = mask(forms(rows)["padded"])
    for other in (mask, MaskTokens(wordpiece_tokenizer), pickle.loads(pickle.dumps(mask))):
        again = other(forms(rows)["padded"])
        assert again.input_ids.equal(first.input_ids)
        assert again.labels.equal(first.labels)
    assert not mask(forms(rows, seed=18)["padded"]).labels.equal(first.labels)


def shares(before: Tensor, after: Tensor, labels: Tensor, num_ordinary: int) -> tuple[float, float, float, float]:
    """Return the share of ordinary tokens chosen; and of these, of masks, of other tokens, and of those that stay."""
    chosen = labels != -100
    masks = chosen & (after == MASK)
    stay = chosen & (after == before)
    others = chosen & ~masks & ~stay
    counts = [float(own.sum()) for own in (chosen, masks, others, stay)]
    return counts[0] / num_ordinary, *(count / counts[0] for count in counts[1:])  # type: ignore[return-value]


def test_shares_are_those_of_transformers(wordpiece_tokenizer: Tokenizer) -> None:
    """15 % of the tokens, of which 80 % are masked, 10 % become others and 10 % stay, in 200,000 tokens."""
    from transformers import BertTokenizerFast, DataCollatorForLanguageModeling

    tokenizer = BertTokenizerFast(tokenizer_object=wordpiece_tokenizer)
    ids = 5 + random_rows([200_000], vocab=VOCAB_SIZE - 5)[0].view(100, 2000)
    ids[:, 0], ids[:, -1] = CLS, SEP
    masked = MaskTokens(tokenizer)(batch_of(list(ids)))
    ours = shares(ids, masked.input_ids, masked.labels, 199_800)
    assert ours == pytest.approx((0.15, 0.8, 0.1, 0.1), abs=0.01)
    collated = DataCollatorForLanguageModeling(tokenizer, seed=0)([{"input_ids": row} for row in ids])
    assert ours == pytest.approx(shares(ids, collated["input_ids"], collated["labels"], 199_800), abs=0.01)
    random = masked.input_ids[(masked.labels != -100) & (masked.input_ids != MASK) & (masked.input_ids != ids)]
    assert random.min() >= 5
    assert len(random.unique()) > 0.9 * (VOCAB_SIZE - 5)


def test_everything_can_be_predicted(wordpiece_tokenizer: Tokenizer) -> None:
    """With a probability of 1 every ordinary token is chosen."""
    batch = batch_of([torch.arange(5, 300)])
    assert MaskTokens(wordpiece_tokenizer, probability=1)(batch).labels.equal(batch.input_ids)


def test_tokenizers_of_all_kinds_mask_alike(wordpiece_tokenizer: Tokenizer, tmp_path: Path) -> None:
    """An object of either library, a file and a directory."""
    from transformers import BertTokenizerFast

    wordpiece_tokenizer.save(str(tmp_path / "tokenizer.json"))
    batch = batch_of(rows_of_bert([200]))
    expected = MaskTokens(wordpiece_tokenizer)(batch)
    wrapped = BertTokenizerFast(tokenizer_object=wordpiece_tokenizer)
    for tokenizer in (wrapped, tmp_path, str(tmp_path / "tokenizer.json")):
        masked = MaskTokens(tokenizer)(batch)
        assert masked.input_ids.equal(expected.input_ids)
        assert masked.labels.equal(expected.labels)


def test_other_mask_tokens_and_columns(unigram_tokenizer: Tokenizer) -> None:
    """One may name both; a token that masks is never predicted, and special ones are found wherever they stand."""
    tokenizer = Tokenizer.from_str(unigram_tokenizer.to_str())
    tokenizer.add_special_tokens([AddedToken("<mask>"), AddedToken("<sep>")])
    tokenizer.add_tokens(["<blank>"])
    special, blank = tokenizer.token_to_id("<sep>"), tokenizer.token_to_id("<blank>")
    ids = torch.tensor([20, special, 21, blank, 22])
    batch = batch_of([ids]).renamed(input_ids="ids")
    by_default = MaskTokens(tokenizer, column="ids", probability=1)(batch)
    assert by_default.labels.tolist() == [[20, -100, 21, blank, 22]]
    named = MaskTokens(tokenizer, column="ids", probability=1, mask_token="<blank>")(batch)
    assert named.labels.tolist() == [[20, -100, 21, -100, 22]]
    assert set(named.ids[named.ids > 22].tolist()) >= {special, blank}


def test_slow_tokenizers_are_read_too() -> None:
    """Those of transformers that are written in Python know their tokens as well."""
    from transformers import PerceiverTokenizer

    masked = MaskTokens(PerceiverTokenizer(), probability=1)(batch_of([torch.tensor([0, 3, 100, 101])]))
    assert masked.labels.tolist() == [[-100, -100, 100, 101]]


def test_bad_masking_says_what_is_wrong(wordpiece_tokenizer: Tokenizer, bpe_tokenizer: Tokenizer) -> None:
    """No mask token, one that is not there, no tokenizer at all, and a probability that is none."""
    missing = (
        r"^tokenizer BPE \(600, .{4}…\) must have a mask token \(\[MASK\], <mask>, <\|mask\|>\), got none; set MaskTokens\(mask"
    )
    with pytest.raises(ValueError, match=missing):
        MaskTokens(bpe_tokenizer)
    with pytest.raises(ValueError, match=r"must have the mask token '\[M\]', got none; set MaskTokens\(mask_token=...\)$"):
        MaskTokens(wordpiece_tokenizer, mask_token="[M]")
    with pytest.raises(TypeError, match=r"^tokenizer must be one whose vocabulary is known, got the function "):
        MaskTokens(lambda texts: [[1] for _ in texts])
    for probability in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match=rf"^probability must be more than 0 and at most 1, got {probability}$"):
            MaskTokens(wordpiece_tokenizer, probability=probability)
    with pytest.raises(ValueError, match=r"^column must be one of the batch \(input_ids\), got 'nothing'$"):
        MaskTokens(wordpiece_tokenizer, column="nothing")(batch_of(random_rows([2])))


def test_masking_prints_what_it_is(wordpiece_tokenizer: Tokenizer) -> None:
    """The tokenizer, the share, and another column."""
    digest = json.dumps(str(MaskTokens(wordpiece_tokenizer)))
    assert digest.startswith('"MaskTokens(WordPiece (600, ')
    assert digest.endswith('), probability=0.15)"')
    assert str(MaskTokens(wordpiece_tokenizer, column="x")).endswith(", probability=0.15, column='x')")


def test_bert_learns_from_masked_tokens(wordpiece_tokenizer: Tokenizer) -> None:
    """``model(**batch)`` has a loss, the mean over the tokens to predict."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model: Any = BertForMaskedLM(BertConfig(vocab_size=VOCAB_SIZE, **sizes)).eval()
    batch = MaskTokens(wordpiece_tokenizer)(batch_of(rows_of_bert([100, 80])))
    scores = model(batch.input_ids, attention_mask=batch.mask.long()).logits.log_softmax(-1)
    chosen = batch.labels != -100
    expected = -scores[chosen].gather(1, batch.labels[chosen][:, None]).sum() / batch.num_label_tokens
    torch.testing.assert_close(model(**batch).loss, expected)
