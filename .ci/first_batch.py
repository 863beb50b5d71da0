"""Checks an installed seqstream: what is in its wheel and sdist, and a first batch from text; run outside of the checkout."""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import seqstream as ss


def expect(condition: bool, message: str) -> None:
    """End with a message unless a condition holds."""
    if not condition:
        sys.exit(message)


def check_files(root: Path, sdist: Path, wheel: Path) -> None:
    """Compare what was built with what git tracks: the wheel has the package and nothing else, the sdist all to test it."""
    tracked = subprocess.run(["git", "-C", root, "ls-files"], check=True, capture_output=True, text=True).stdout.splitlines()
    package = {name for name in tracked if name.startswith("seqstream/")}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    others = {name for name in in_wheel - package if ".dist-info/" not in name}
    expect("seqstream/py.typed" in package and package <= in_wheel, f"the wheel must have {sorted(package - in_wheel)}")
    expect(not others, f"the wheel must have nothing but the package, got {sorted(others)}")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    needed = {name for name in tracked if name.startswith(("seqstream/", "tests/", "examples/", "benchmarks/"))}
    needed |= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt", "constraints-oldest.txt"}
    expect(needed <= in_sdist, f"the sdist must have {sorted(needed - in_sdist)[:9]}")


def first_batch() -> ss.Batch:
    """Return the first batch of a few lines of text."""
    lines = [f"line {number} of the text " + "word " * (number % 9) for number in range(200)]
    tokenizer = Tokenizer(models.WordLevel(unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(lines, trainers.WordLevelTrainer(special_tokens=["?"], show_progress=False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "text.txt")
        path.write_text("\n".join(lines), encoding="utf-8")
        loader = ss.Loader(ss.TextFiles(path), ss.Tokenize(tokenizer, max_length=64), ss.Bucket(max_tokens=256))
        batches = list(loader)
    expect(sum(len(batch.lengths) for batch in batches) == len(lines), "an epoch must have every line once")
    return batches[0]


def main() -> None:
    """Run all checks."""
    root, *built = map(Path, sys.argv[1:])
    installed = Path(ss.__file__).parent
    expect(root not in installed.parents, f"the installed package must be imported, got that of the checkout, {installed}")
    expect((installed / "py.typed").is_file(), "py.typed must be installed")
    wheel, sdist = sorted(built, key=lambda path: path.suffix != ".whl")
    check_files(root, sdist, wheel)
    sys.stdout.write(f"seqstream {ss.__version__} from {wheel.name}: {first_batch()!r:.200}\n")


if __name__ == "__main__":
    main()
