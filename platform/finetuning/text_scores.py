"""How much a text resembles a reference: ROUGE, chrF and the counts that BLEU is made of.

All scores are parts of 1. chrF and BLEU are sacrebleu's. ROUGE counts overlapping n-grams (C.-Y. Lin, "ROUGE: A
Package for Automatic Evaluation of Summaries", 2004) of words as the usual implementation takes them, in lower case
and without punctuation; of scripts that write no spaces every character is a word, where that implementation sees
none at all.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import regex
from rapidfuzz.distance import LCSseq
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

_SPACELESS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_WORD = regex.compile(rf"{_SPACELESS}|[[\p{{L}}\p{{M}}\p{{N}}]--{_SPACELESS}]+", regex.V1)
_HAN = regex.compile(r"\p{Han}")

_CHRF = CHRF()
_BLEU = BLEU(effective_order=True)
_BLEU_OF_CHINESE = BLEU(effective_order=True, tokenize="zh")
_CACHES = (Tokenizer13a, TokenizerZh, TokenizerRegexp)


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """Of one text."""

    rouge_1: float
    rouge_2: float
    rouge_l: float
    chrf: float
    bleu_counts: tuple[int, ...]
    """Length, reference's length, n-grams found, n-grams there are (each for n = 1 to 4): add up over texts."""


def score_text(*, text: str, reference: str) -> TextScores:
    """ROUGE is the F-measure, chrF with sacrebleu's defaults (character 6-grams, beta 2)."""
    words, expected = _WORD.findall(text.lower()), _WORD.findall(reference.lower())
    bleu = (_BLEU_OF_CHINESE if _HAN.search(reference) else _BLEU).sentence_score(text, [reference])
    for tokenizer in _CACHES:  # which would keep customers' texts in memory
        tokenizer.__call__.cache_clear()
    return TextScores(
        rouge_1=_overlap(words, expected, 1),
        rouge_2=_overlap(words, expected, 2),
        rouge_l=_f_measure(LCSseq.similarity(words, expected), len(words), len(expected)),
        chrf=_CHRF.sentence_score(text, [reference]).score / 100,
        bleu_counts=(bleu.sys_len, bleu.ref_len, *bleu.counts, *bleu.totals),
    )


def corpus_bleu(counts: Iterable[float]) -> float:
    """BLEU of all texts whose counts were added up, with sacrebleu's default smoothing."""
    sys_len, ref_len, *grams = (int(count) for count in counts)
    score = BLEU.compute_bleu(correct=grams[:4], total=grams[4:], sys_len=sys_len, ref_len=ref_len, smooth_method="exp")
    return float(score.score) / 100


def _overlap(words: list[str], expected: list[str], size: int) -> float:
    found, wanted = _grams(words, size), _grams(expected, size)
    return _f_measure((found & wanted).total(), found.total(), wanted.total())


def _grams(words: list[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(size)), strict=False))


def _f_measure(shared: int, found: int, wanted: int) -> float:
    return 2 * shared / (found + wanted) if shared else 0.0
