"""Prints what ``seqstream tokenize`` has written, and how to read it."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from seqstream.planning.bucket import Bucket
from seqstream.sources.token_files import TokenFiles
from seqstream.tuning.loader_code import write_call
from seqstream.writing.write_tokens import WrittenTokens

_MAX_TOKENS = 16_384


def print_written(written: WrittenTokens, seconds: float | None, console: Console) -> None:
    """Print rows, tokens, bytes, counts and speed, and code that reads the folder.

    Args:
        written: What was written.
        seconds: How long it took; ``None`` where an earlier call has written some of it.
        console: Where it is printed.
    """
    if not written.is_complete:
        console.print(Text(f"{written.num_rows:,} rows in {written.folder}, which others still write"), soft_wrap=True)
        return
    tokens = TokenFiles(written.folder)
    num_bytes = sum(path.stat().st_size for path in written.folder.iterdir())
    parts = [f"{tokens.num_rows:,} rows", f"{tokens.num_tokens:,} tokens", f"{num_bytes:,} bytes in {written.folder}"]
    parts += [f"{count:,} {name}" for name, count in written.counts.items()]
    if seconds is not None:
        parts.append(f"{(written.num_tokens or 0) / seconds:,.0f} tokens/s")
    console.print(Text(", ".join(parts)), soft_wrap=True)
    calls = "".join(f"    ss.{write_call(part)},\n" for part in (tokens, _budget(tokens)))
    console.print(Text(f"\nimport seqstream as ss\n\nloader = ss.Loader(\n{calls})", style="cyan"), soft_wrap=True)


def _budget(tokens: TokenFiles) -> Bucket:
    """Return a batch spec whose budget the longest row fits."""
    return Bucket(max_tokens=max(_MAX_TOKENS, tokens.token_info.max_length or 0))
