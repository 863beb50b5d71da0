"""Texts by which engines are compared: hostile ones, on which engines have differed, and the first texts of the data."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import AddedToken

MAX_TEXTS = 2048
MAX_CHARS = 192 << 10
MAX_CHARS_PER_TEXT = 16 << 10

_HOSTILE = (
    "",
    " ",
    "   ",
    "\t",
    "\n",
    "\r\n",
    "a",
    " a",
    "a ",
    "  two  spaces  ",
    "\ttab\tseparated\t",
    "line\r\nline\rline\n\n\nline\n",
    "trailing newline\n",
    "\u00a0no-break\u202fspaces\u2003em\u200bzero\u3000wide\u2028line\u2029paragraph\x85next",
    "\ufeffbyte order mark",
    "nul\x00byte \x01\x02\x1b[0m\x7f\x80\x9f control",
    "soft\u00adhyphen \u200enon\u200dprinting\u2060",
    "e\u0301 decomposed, \u0301lone mark, o\u0308\u0323 reordered, \u0323\u0308\u0301",
    "é composed, Å Å ﬁ ﬀ ½ ² ™ ℌ Ⅳ ㎏ compatibility",
    "ÀÉÎÕÜ İıſß ΑΣς ԱԲ ᏣᎳᎩ ǅ case",
    "👩‍👩‍👧‍👦 👍🏽 🇫🇷🇯🇵 ❤️ ☎︎ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 1️⃣",
    "中文字符混合English和数字123。𠀀𪛖 㐀",
    "日本語テキスト、ｶﾀｶﾅ ﾊﾟ ガ ー",
    "한국어 문장 \u1112\u1161\u11ab\u1100\u1173\u11af ㄱㄴ",
    "ภาษาไทยไม่มีช่องว่าง กำ เก้า",
    "العَرَبِيَّةُ ﻻ لا ۱۲۳ ـــ",
    "עִבְרִית שָׁלוֹם",
    "हिन्दी क्षत्रिय বাংলা தமிழ் ខ្មែរ བོད་ཡིག မြန်မာ",
    "Ελληνικά Русский ещё й ქართული አማርኛ",
    "mixed кирилlicα 中a1ก한",
    "0 1 12 123 1234 12345 1,234.56 -7 +8 1e-9 0xFF ٣٤ ๕ Ⅻ ½",
    "snake_case __dunder__ camelCase HTTPServer2Go x_1 _ __",
    "I'll you're we've he'd it's I'm don't 'quoted' ’s DON'T I'LL 'S",
    "a.b,c;d:e!f?g-h–i—j…k/l\\m|n(o)[p]{q}<r>@s#t$u%v^w&x*y+z=~`\"'",
    "!!!???...---===***___### $$$",
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\dir\\file.txt",
    "def f(x):\n    return {'a': x[0]}  # comment\n\n\tif x:\n",
    "<s> </s> <pad> <unk> <mask> [CLS] [SEP] [PAD] [UNK] [MASK] <|endoftext|> <0x0A> <br/>",
    "▁ ▁▁word▁ Ġ Ċ ĠĠx ##ing ## # a##b",
    "\ufffd replacement \ue000 private \U0010ffff \ufdd0 \u0378 unassigned",
    "Z\u0351\u036b\u0343\u036aa\u0334\u0362\u031al\u0360go\u0489",
    "a" * 300,
    " " * 200,
    "ab" * 120,
    "=" * 150,
    "\n" * 70 + "x",
    "x" + " " * 90 + "\t" * 40 + "y",
    "é" * 80,
    "中" * 90,
    "👍" * 40,
    "1" * 100,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "the The THE tHe the.The,THE\tthe\nThe  the",
)

_AROUND_ONE = ("{0}", "a{0}b", " {0}  {0}x", "one {0} two\n{0}\n")
_AROUND_TWO = ("{0}{1}", "{0} {1}", "a{0}{1}b", "中{0}\u3000{1}\t", "\n{0}\t {1}{0}.", "{0}{0} {1}{1}", " {0}{1} .")
"""Patterns with one added token next to words and blanks, and with two: an engine that finds the first may miss the second."""

_MAX_TOKENS, _MAX_SURROUNDED, _MAX_PAIRED = 4096, 48, 24
"""Number of added tokens that are compared alone, in every pattern of one, and in every pattern of two."""


def hostile_texts(added: Sequence[str]) -> list[str]:
    """Return the fixed texts, and texts with a tokenizer's added tokens in every position and next to each other.

    Args:
        added: The added tokens, in the order of `by_class`: the first ones get more texts.
    """
    surrounded, paired = added[:_MAX_SURROUNDED], added[:_MAX_PAIRED]
    variants = [text for token in surrounded for text in (token, token.swapcase(), unicodedata.normalize("NFKD", token))]
    of_one = (pattern.format(token) for token in dict.fromkeys(variants) for pattern in _AROUND_ONE)
    of_two = (pattern.format(*pair) for pair in itertools.product(paired, repeat=2) for pattern in _AROUND_TWO)
    return [*_HOSTILE, *added[_MAX_SURROUNDED:_MAX_TOKENS], *of_one, "".join(surrounded), " ".join(surrounded), *of_two]


def by_class(tokens: Iterable[AddedToken]) -> list[str]:
    """Return the texts of added tokens, one of each class in turn, so that the first of them stand for all.

    Tokens of a class have the same flags and the same kinds of first and last letter: engines find them in the same way.
    """
    classes: dict[tuple[object, ...], list[str]] = {}
    for token in tokens:
        flags = (token.special, token.normalized, token.single_word, token.lstrip, token.rstrip)
        ends = (_kind(token.content[:1]), _kind(token.content[-1:]))
        classes.setdefault((*flags, *ends), []).append(token.content)
    rounds = itertools.zip_longest(*classes.values())
    return [text for one_of_each in rounds for text in one_of_each if text]


def _kind(letter: str) -> str:
    if letter.isspace():
        return "blank"
    return "word" if letter.isalnum() or letter == "_" else "punctuation"


def first_texts(texts: Iterable[str | None]) -> Iterator[str]:
    """Yield the first texts that are not ``None``, shortened, as many as the slowest engine encodes in about 0.1 s."""
    num_left = MAX_CHARS
    for text in itertools.islice(texts, MAX_TEXTS):
        if text is None:
            continue
        yield text[: min(num_left, MAX_CHARS_PER_TEXT)]
        num_left -= len(text)
        if num_left <= 0:
            return
