"""Train a tagger of words: is a name in Python code called, read, assigned or a parameter? Only the words around it show.

The text is a list of words before it is tokenised. Each word becomes one token or several, of which the first has the tag.
"""

import argparse
import itertools
from collections import Counter, defaultdict

import torch
from shared.corpus import tokenizer
from shared.tagged_code import ROLES, TAGS, Statement, read_modules
from torch import Tensor, nn

import seqstream as ss

HELD_OUT = 10  # modules to test on


class Tagger(nn.Module):
    """A bidirectional LSTM over packed rows; over padded rows its backward direction would begin in the padding."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8_192, width)
        self.lstm = nn.LSTM(width, width, bidirectional=True)
        self.linear = nn.Linear(2 * width, len(TAGS))

    def forward(self, batch: ss.Batch) -> tuple[Tensor, Tensor]:
        """Return logits and labels of the tokens that have one, the first of each word: ``(N, tags)`` and ``(N,)``."""
        outputs, _ = self.lstm(batch.packed_sequence(self.embedding(batch.input_ids)))
        labels = batch.packed_sequence("labels").data
        return self.linear(outputs.data[labels != -100]), labels[labels != -100]


def make_loader(statements: list[Statement], epochs: int | None = 1) -> ss.Loader:
    """Return a loader of statements in batches of similar lengths."""
    classes = ss.ClassLabels(TAGS, field="tags")
    tokenize = ss.Tokenize(
        tokenizer(),
        field="words",
        labels="tags",
        word_labels="first",
        max_length=256,
        overflow="split",  # longer statements are split, so that no word is lost
    )
    return ss.Loader(ss.Generator(statements), classes, tokenize, ss.Bucket(2_048), epochs=epochs)


def most_frequent_tags(train: list[Statement], test: list[Statement]) -> tuple[Tensor, Tensor]:
    """Return for each test word its most frequent tag in training, "read" for a new word, and its true tag."""
    counts: dict[str, Counter[str]] = defaultdict(lambda: Counter(read=1))
    for statement in train:
        for word, tag in zip(statement["words"], statement["tags"], strict=True):
            counts[word][tag] += 1
    most_frequent = [counts[word].most_common(1)[0][0] for statement in test for word in statement["words"]]
    true_tags = [tag for statement in test for tag in statement["tags"]]
    return torch.tensor(list(map(TAGS.index, most_frequent))), torch.tensor(list(map(TAGS.index, true_tags)))


def report(name: str, guesses: Tensor, labels: Tensor) -> None:
    """Print the accuracy of tags, for all words and for names."""
    right, is_name = guesses == labels, labels < len(ROLES)
    print(f"{name}: {right.float().mean():.1%} of {len(labels):,} words right, {right[is_name].float().mean():.1%} of names")


def main() -> None:
    """Train on some modules, and tag the words of other modules."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", type=int, default=120, help="number of modules of the standard library to read")
    parser.add_argument("--steps", type=int, default=300, help="number of training steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    modules = read_modules(options.modules)
    train, test = (list(itertools.chain(*part)) for part in (modules[HELD_OUT:], modules[:HELD_OUT]))
    print(f"{len(train):,} statements to train on, {len(test):,} of other modules to test on", flush=True)
    report("the most frequent tag of each word", *most_frequent_tags(train, test))

    model = Tagger()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    loader = make_loader(train, epochs=None)
    for batch in itertools.islice(loader, options.steps):
        logits, labels = model(batch)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum") / batch.num_label_tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        guesses, labels = (torch.cat(parts) for parts in zip(*map(model, make_loader(test)), strict=True))
    report(f"the tagger, after {options.steps} steps", guesses.argmax(1), labels)
    print(loader.stats)


if __name__ == "__main__":
    main()
