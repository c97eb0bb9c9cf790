"""Words as numbers. 0 stands for padding, beginning and end, as in R2Gen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

UNKNOWN = "<unk>"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words in order; the first has number 1."""

    words: tuple[str, ...]
    numbers: dict[str, int]

    @staticmethod
    def of(texts: Iterable[str], *, least: int = 1) -> Vocabulary:
        """All words that occur at least `least` times, sorted, with one for unknown words among them."""
        counts = Counter(word for text in texts for word in text.split())
        words = tuple(sorted({w for w, n in counts.items() if n >= least} | {UNKNOWN}))
        return Vocabulary(words, {w: n for n, w in enumerate(words, 1)})

    def __len__(self) -> int:
        """Numbers in use, 0 among them."""
        return len(self.words) + 1

    def encode(self, text: str) -> list[int]:
        """The number of each word."""
        unknown = self.numbers[UNKNOWN]
        return [self.numbers.get(word, unknown) for word in text.split()]

    def decode(self, numbers: Sequence[int]) -> str:
        """The words up to the first 0."""
        out = []
        for number in numbers:
            if number == 0:
                break
            out.append(self.words[number - 1])
        return " ".join(out)
