"""Questions with pictures to any OpenAI-compatible multimodal endpoint: in parallel, remembered, asked once."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from etl.endpoint import IN_A_ROW, Endpoint, Lost, refused, tokens
from etl.errors import Failure

SYSTEM = "You are shown a medical image. Answer the question in as few words as possible, without a sentence around."
NO_ANSWER = "no answer: the reply holds no text"


@dataclass(frozen=True, slots=True)
class Ask:
    """One question as it is sent: text and pictures (PNG bytes), best made when it is sent, not before."""

    text: str
    pictures: Callable[[], Sequence[bytes]]


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer, or why there is none; `sent` is False if it came from memory or was not asked."""

    answer: str = ""
    problem: str = ""
    sent: bool = True
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Asker:
    """A model of an endpoint. `limit` is the most tokens of an answer."""

    endpoint: Endpoint
    model: str
    limit: int = 64

    def all(self, asks: Sequence[Ask], *, workers: int = 4) -> list[Reply]:
        """A reply for each, in order. The same text with the same pictures is sent once, also within one call.

        A question that got no answer is left open and asked again by the next run; after three lost in a row the
        endpoint is taken for dead, and the rest is not sent.
        """
        with ThreadPoolExecutor(workers) as pool:
            keys = list(pool.map(self._key, asks))
            first = dict(zip(keys, asks, strict=True))
            found = dict(zip(first, pool.map(self._one, first, first.values()), strict=True))
        out, seen = [], set[str]()
        for key in keys:
            reply = found[key]
            out.append(Reply(reply.answer, reply.problem, sent=False) if key in seen else reply)
            seen.add(key)
        return out

    def _key(self, ask: Ask) -> str:
        return self.endpoint.key([self.model, self._messages(ask), self.limit])

    def _one(self, key: str, ask: Ask) -> Reply:
        known = self.endpoint.cache.known.get(key)
        if known is not None:
            return Reply(known["answer"], known["problem"], sent=False)
        if self.endpoint.dead:
            return Reply(problem="the endpoint did not answer three times in a row; not asked", sent=False)
        try:
            reply = self._asked(ask)
        except Lost as error:
            self.endpoint.lost += 1
            return Reply(problem=str(error))
        except Failure:
            self.endpoint.lost = IN_A_ROW  # what is wrong with one question is wrong with all: send no more
            raise
        self.endpoint.lost = 0
        row = {"model": self.model, "text": ask.text, "answer": reply.answer, "problem": reply.problem}
        self.endpoint.cache.add(key, {**row, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out})
        return reply

    def _asked(self, ask: Ask) -> Reply:
        """The reply; a gateway's page or an empty completion is asked once more, then lost."""
        errors = self.endpoint.errors
        used = (0, 0)
        for _ in range(2):
            try:
                response: Any = self.endpoint.create(self.model, self._messages(ask), self.limit, temperature=0)
            except (errors.BadRequestError, errors.UnprocessableEntityError) as error:
                raise Failure(f"{self.model}: the request is refused; does it take images? {error}") from error
            except (ValueError, errors.APIResponseValidationError):
                continue
            more = tokens(response)
            used = used[0] + more[0], used[1] + more[1]
            if not getattr(response, "choices", None):
                continue
            choice = response.choices[0]
            if refused(choice):
                return Reply("", "the model refused", True, *used)
            text = (choice.message.content or "").rsplit("</think>", 1)[-1].strip()
            if text:
                return Reply(text, "", True, *used)
        raise Lost(NO_ANSWER)

    def _messages(self, ask: Ask) -> list[dict[str, Any]]:
        shown = [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(p).decode()}}
            for p in ask.pictures()
        ]
        return [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": [*shown, {"type": "text", "text": ask.text}]},
        ]
