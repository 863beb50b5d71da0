"""Models of transformers take batches as they are, and their loss is that of the same records, each run alone.

The models are small and random. A record run alone is what the tokenizer of `transformers` makes of it: no padding, no mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

import seqstream as ss
from seqstream.batches.batch import Batch
from tests.helpers.tokenizers import transformers_of

Record = dict[str, Any]
Alone = Callable[[Record], Mapping[str, Any]]
"""The inputs of a model for one record."""

VOCAB_SIZE = 700
MAX_LENGTH = 24
SPREAD = 0.3
"""Standard deviation of first weights: with 0.02, that of the configurations, outputs are nearly the same for all inputs."""

TAGS = ("capital", "small", "other")
BUDGET = ss.Bucket(256, window_batches=8)
SHAPES = ss.Bucket(shapes=[(12, 12), (5, MAX_LENGTH)], window_batches=8)
"""Has rows made up, as the test of weights checks."""

specs = pytest.mark.parametrize("spec", [BUDGET, SHAPES], ids=["budget", "shapes"])
engines = pytest.mark.parametrize("engine", ["auto", "tokenizers"])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads are slower for models so small, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def records(texts: list[str]) -> list[Record]:
    """Lines of documentation, with the columns that all tasks need."""
    lines = texts[:120]
    return [{"text": line, **_derived(line, after)} for line, after in zip(lines, [*lines[1:], lines[0]], strict=True)]


def _derived(line: str, after: str) -> Record:
    words = line.split()
    tags = [0 if word.istitle() else 1 if word.islower() else 2 for word in words]
    return {"after": after, "words": words, "tags": tags, "kind": len(words) % 3, "score": len(line) / 40}


@pytest.fixture(scope="module")
def fast(wordpiece_tokenizer: Tokenizer) -> Any:
    """BERT's tokenizer."""
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}
    return transformers_of(wordpiece_tokenizer, **names)


def bert(head: str, **options: Any) -> Any:
    """Return a BERT with a head, without dropout."""
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    options |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 64, "initializer_range": SPREAD}
    config = transformers.BertConfig(**sizes, **options)
    return getattr(transformers, f"BertFor{head}")(config).eval()


@pytest.fixture(scope="module")
def gpt2() -> Any:
    """A GPT-2 without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB_SIZE, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=SPREAD, bos_token_id=0, eos_token_id=0)).eval()


@torch.inference_mode()
def check(
    loader: ss.Loader, model: Any, alone: Alone, records: list[Record], *, causal: bool = False, flat: bool = False
) -> None:
    """Compare the loss of each batch with those of its records, each weighted by its labels; all records must be served.

    Args:
        loader: Batches.
        model: A model of transformers.
        alone: What the model takes of one record.
        records: Those of the source, in order.
        causal: Whether the model shifts labels, so that the first of each record is not predicted.
        flat: Whether the model gets the rows one after the other.
    """
    batches = list(loader)
    in_order = sorted(row_id for batch in batches for row_id in batch.row_ids.tolist() if row_id >= 0)
    labelled = [record for record in records if _run_alone(model, alone(record), causal)[1]]  # others are dropped
    by_id = dict(zip(in_order, labelled, strict=True))
    for batch in batches:
        own = [by_id[row_id] for row_id in batch.row_ids.tolist() if row_id >= 0]
        losses, weights = zip(*(_run_alone(model, alone(record), causal) for record in own), strict=True)
        expected = sum(loss * weight for loss, weight in zip(losses, weights, strict=True)) / sum(weights)
        got = model(**(batch.varlen() if flat else batch)).loss
        assert got.item() == pytest.approx(expected, abs=1e-4)
        assert batch.num_label_tokens == sum(weights)


def _run_alone(model: Any, inputs: Mapping[str, Any], causal: bool) -> tuple[float, int]:
    """Return the loss of a record and how many labels it is the mean of; no label at all gives a loss of none."""
    labels = inputs["labels"]
    weight = int((labels[:, causal:] != -100).sum()) if labels.ndim == 2 else 1
    return (model(**inputs).loss.item() if weight else 0.0), weight


def row(ids: list[int]) -> Tensor:
    """Return ids as a batch of one row."""
    return torch.tensor([ids])


@specs
@engines
def test_bert_classifies_texts(fast: Any, records: list[Record], spec: ss.Bucket, engine: Any) -> None:
    """A column ``label`` of class numbers is ``labels`` to the model; rows made up have none."""
    model = bert("SequenceClassification", num_labels=3)
    source = ss.Generator([{"text": record["text"], "label": record["kind"]} for record in records])
    loader = ss.Loader(source, ss.Tokenize(fast, max_length=MAX_LENGTH, engine=engine), spec)

    def alone(record: Record) -> Mapping[str, Any]:
        ids = fast(record["text"], truncation=True, max_length=MAX_LENGTH)["input_ids"]
        return {"input_ids": row(ids), "labels": torch.tensor([record["kind"]])}

    check(loader, model, alone, records)


@specs
@engines
def test_bert_classifies_pairs(fast: Any, records: list[Record], spec: ss.Bucket, engine: Any) -> None:
    """``token_type_ids`` distinguish premise and hypothesis; the names of classes become numbers."""
    model = bert("SequenceClassification", num_labels=3)
    source = ss.Generator([{"a": one["text"], "b": one["after"], "label": TAGS[one["kind"]]} for one in records])
    tokenize = ss.Tokenize(fast, field=("a", "b"), max_length=MAX_LENGTH, engine=engine)
    loader = ss.Loader(source, ss.ClassLabels(TAGS), tokenize, spec)

    def alone(record: Record) -> Mapping[str, Any]:
        pair = fast(record["text"], record["after"], truncation=True, max_length=MAX_LENGTH, return_token_type_ids=True)
        types = row(pair["token_type_ids"])
        assert types.any()
        return {"input_ids": row(pair["input_ids"]), "token_type_ids": types, "labels": torch.tensor([record["kind"]])}

    check(loader, model, alone, records)
    batch = next(iter(loader))
    assert not torch.isclose(model(**batch.without("token_type_ids")).loss, model(**batch).loss, atol=1e-4)


@engines
def test_bert_scores_texts(fast: Any, records: list[Record], engine: Any) -> None:
    """Labels that are floats go to a regression head."""
    model = bert("SequenceClassification", num_labels=1, problem_type="regression")
    source = ss.Generator([{"text": record["text"], "label": record["score"]} for record in records])
    loader = ss.Loader(source, ss.Tokenize(fast, max_length=MAX_LENGTH, engine=engine), BUDGET)
    check(loader, model, lambda record: scored(fast, record), records)


def scored(fast: Any, record: Record) -> Mapping[str, Any]:
    """Return the inputs of a regression head for a record."""
    ids = fast(record["text"], truncation=True, max_length=MAX_LENGTH)["input_ids"]
    return {"input_ids": row(ids), "labels": torch.tensor([record["score"]])}


@torch.inference_mode()
def test_weights_leave_out_rows_made_up(fast: Any, records: list[Record]) -> None:
    """A score has no ignored value: if there are rows made up, the loss of each row is multiplied by its weight."""
    model = bert("SequenceClassification", num_labels=1, problem_type="regression")
    source = ss.Generator([{"text": record["text"], "label": record["score"]} for record in records])
    loader = ss.Loader(source, ss.Tokenize(fast, max_length=MAX_LENGTH), SHAPES)
    num_made_up = 0
    for batch in loader:
        errors = (model(**batch).logits.squeeze(1) - batch.label).square()
        numbers = (batch.row_ids[batch.row_ids >= 0] & 0xFFFFFFFF).tolist()
        expected = [model(**scored(fast, records[number])).loss.item() for number in numbers]
        got = (errors * batch.weights).sum() / batch.weights.sum()
        assert got.item() == pytest.approx(sum(expected) / len(expected), abs=1e-4)
        num_made_up += batch.layout.num_made_up
    assert num_made_up > 0


@specs
@engines
@pytest.mark.parametrize("where", ["first", "all"])
def test_bert_tags_words(fast: Any, records: list[Record], spec: ss.Bucket, engine: Any, where: Any) -> None:
    """The labels of words go to their tokens; special tokens, padding and rows made up have none."""
    model = bert("TokenClassification", num_labels=len(TAGS))
    source = ss.Generator([{"words": record["words"], "tags": record["tags"]} for record in records])
    tokenize = ss.Tokenize(fast, field="words", labels="tags", word_labels=where, max_length=MAX_LENGTH, engine=engine)

    def alone(record: Record) -> Mapping[str, Any]:
        encoded = fast(record["words"], is_split_into_words=True, truncation=True, max_length=MAX_LENGTH)
        owners = encoded.word_ids()
        begins = [owner is not None and owner != before for owner, before in zip(owners, [None, *owners], strict=False)]
        labels = [
            -100 if owner is None or (where == "first" and not begin) else record["tags"][owner]
            for owner, begin in zip(owners, begins, strict=True)
        ]
        return {"input_ids": row(encoded["input_ids"]), "labels": row(labels)}

    check(ss.Loader(source, tokenize, spec), model, alone, records)


@engines
@pytest.mark.parametrize("kind", ["budget", "shapes", "varlen", "pack"])
def test_gpt2_models_language(gpt2: Any, bpe_tokenizer: Tokenizer, records: list[Record], kind: str, engine: Any) -> None:
    """The next token is predicted from those before it in the record, in every layout of a batch, and from no other record."""
    spec = {"shapes": SHAPES, "pack": ss.Pack(2 * MAX_LENGTH, rows=3, window_batches=4)}.get(kind, BUDGET)
    tokenize = ss.Tokenize(bpe_tokenizer, max_length=MAX_LENGTH, end="<|endoftext|>", engine=engine)
    source = ss.Generator([record["text"] for record in records])
    labels = None if kind == "pack" else ss.CausalLabels()
    layout = "jagged" if kind == "varlen" else "padded"
    end = bpe_tokenizer.token_to_id("<|endoftext|>")

    def alone(record: Record) -> Mapping[str, Any]:
        ids = row([*bpe_tokenizer.encode(record["text"]).ids[: MAX_LENGTH - 1], end])
        return {"input_ids": ids, "labels": ids}

    loader = ss.Loader(source, tokenize, spec, on_batch=labels, layout=layout)
    check(loader, gpt2, alone, records, causal=True, flat=kind == "varlen")


@engines
@pytest.mark.parametrize("kind", ["budget", "shapes", "varlen", "pack"])
def test_gpt2_answers_prompts(gpt2: Any, bpe_tokenizer: Tokenizer, records: list[Record], kind: str, engine: Any) -> None:
    """Only the tokens after the prompt are predicted, in every layout of a batch."""
    spec = {"shapes": SHAPES, "pack": ss.Pack(2 * MAX_LENGTH, rows=3, window_batches=4)}.get(kind, BUDGET)
    options = {"prompt": "text", "field": "after", "max_length": MAX_LENGTH, "end": "<|endoftext|>", "engine": engine}
    source = ss.Generator([{"text": record["text"], "after": record["after"]} for record in records])
    end = bpe_tokenizer.token_to_id("<|endoftext|>")

    def alone(record: Record) -> Mapping[str, Any]:
        prompt, answer = (bpe_tokenizer.encode(record[name]).ids for name in ("text", "after"))
        ids = row([*[*prompt, *answer][: MAX_LENGTH - 1], end])
        labels = ids.clone()
        labels[:, : min(len(prompt), MAX_LENGTH - 1)] = -100
        if len(prompt) + len(answer) > MAX_LENGTH - 1:  # what is cut off does not end there
            labels[:, -1] = -100
        return {"input_ids": ids, "labels": labels}

    loader = ss.Loader(source, ss.Tokenize(bpe_tokenizer, **options), spec)
    check(loader, gpt2, alone, records, causal=True, flat=kind == "varlen")


BY_SOURCE = ss.Bucket(256, rows_multiple_of=7, window_batches=8, columns=("source_ids",))


@pytest.mark.parametrize(("spec", "side"), [(BUDGET, "right"), (BY_SOURCE, "right"), (BY_SOURCE, "left")])
def test_t5_translates(unigram_tokenizer: Tokenizer, records: list[Record], spec: ss.Bucket, side: str) -> None:
    """Targets are read one step late and predicted, padded on either side; labels are -100 on padding and in rows made up."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    model: Any = T5ForConditionalGeneration(T5Config(vocab_size=VOCAB_SIZE, **sizes, decoder_start_token_id=0)).eval()
    source = ss.Generator([{"source": record["text"], "target": record["after"]} for record in records])
    tokenize = ss.Tokenize({"source": unigram_tokenizer, "target": unigram_tokenizer}, max_length=MAX_LENGTH)
    fast = transformers_of(unigram_tokenizer, eos_token="</s>", unk_token="<unk>", pad_token="<pad>")

    def alone(record: Record) -> Mapping[str, Any]:
        ids = [fast(record[name], truncation=True, max_length=MAX_LENGTH)["input_ids"] for name in ("text", "after")]
        return {"input_ids": row(ids[0]), "labels": row(ids[1])}

    loader = ss.Loader(source, tokenize, spec, on_batch=ss.TeacherForcing(0), padding_side=side)
    check(loader, model, alone, records)
    assert any(batch.layout.num_made_up for batch in loader) == (spec is not BUDGET)


@specs
@torch.inference_mode()
def test_bert_fills_masks(fast: Any, records: list[Record], spec: ss.Bucket) -> None:
    """Masked tokens are predicted: the ids are the tokenizer's where nothing is masked, and labels are where something is."""
    model = bert("MaskedLM")
    source, mask = ss.Generator([record["text"] for record in records]), ss.MaskTokens(fast, probability=0.3)
    for batch in ss.Loader(source, ss.Tokenize(fast, max_length=MAX_LENGTH), spec, on_batch=mask):
        total, num_labels = 0.0, 0
        for row_id, length, ids, labels in _rows(batch):
            inputs = {"input_ids": ids[None, :length], "labels": labels[None, :length]}
            restored = torch.where(labels == -100, ids, labels)[:length].tolist()
            text = records[row_id & 0xFFFFFFFF]["text"]
            assert restored == fast(text, truncation=True, max_length=MAX_LENGTH)["input_ids"]
            loss, weight = _run_alone(model, inputs, causal=False)
            total, num_labels = total + loss * weight, num_labels + weight
        assert num_labels == batch.num_label_tokens > 0
        assert model(**batch).loss.item() == pytest.approx(total / num_labels, abs=1e-4)


def _rows(batch: Batch) -> list[tuple[int, int, Tensor, Tensor]]:
    """Return row id, length, ids and labels of each row that was not made up."""
    num = batch.num_rows - batch.layout.num_made_up
    parts = batch.row_ids.tolist(), batch.lengths.tolist(), batch.input_ids, batch.labels
    return list(zip(*(part[:num] for part in parts), strict=True))
