"""One closed question to an OpenAI-compatible endpoint: a choice from a list, as JSON, asked once and remembered.

Works with servers that take `json_schema`, with those that only take `json_object`, and with those that take neither;
an answer that does not fit is shown to the model once more. Only `labels suggest` and `labels evaluate` use this.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from etl.endpoint import Cache, Endpoint, Lost, refused, tokens
from etl.errors import Failure

Messages = list[dict[str, str]]
_FORMATS = ("json_schema", "json_object", "text")
_NO_ANSWER = "no answer: the reply holds no choice"
_TOKENS = 600  # enough for a choice and its reason; a truncated answer is asked once more with four times as many


class Answer(BaseModel):
    """What the model returns: one of the choices, how sure it is, and why."""

    model_config = ConfigDict(extra="ignore")
    label: str
    confidence: float = Field(ge=0, le=1)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer, or why there is none; `sent` is False if it came from the cache."""

    answer: Answer | None
    problem: str = ""
    sent: bool = True
    tokens_in: int = 0
    tokens_out: int = 0


class Chooser:
    """Asks one endpoint. Thread-safe. `timeout_s` holds for each request."""

    def __init__(self, cache: Cache, *, timeout_s: float) -> None:
        self.endpoint = Endpoint(cache, timeout_s=timeout_s)
        self.format: dict[str, str] = {}

    def choose(self, model: str, messages: Messages, choices: Sequence[str], sample: int = 0) -> Reply:
        """The model's choice; the same question (model, text, choices, sample) is sent once in the cache's life."""
        key = self.endpoint.key([model, messages, list(choices), sample])
        row = self.endpoint.cache.known.get(key)
        if row is not None:
            answer = Answer.model_validate(row["answer"]) if row["answer"] else None
            return Reply(answer, row["problem"], sent=False)
        if self.endpoint.dead:
            return Reply(None, "the endpoint did not answer three times in a row; not asked again", sent=False)
        try:
            reply = self._ask(model, messages, choices, sample)
        except Lost as error:
            self.endpoint.lost += 1
            return Reply(None, str(error))
        self.endpoint.lost = 0
        answered = reply.answer.model_dump() if reply.answer else None
        usage = {"tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
        self.endpoint.cache.add(key, {"model": model, "answer": answered, "problem": reply.problem, **usage})
        return reply

    def _ask(self, model: str, messages: Messages, choices: Sequence[str], sample: int) -> Reply:
        talk, tokens_in, tokens_out, problem = list(messages), 0, 0, ""
        limit = _TOKENS
        for _ in range(2):  # the question, and one repair
            try:
                response = self._send(model, talk, choices, limit, sample)
            except (ValueError, self.endpoint.errors.APIResponseValidationError):
                response = None  # a gateway's page in place of JSON
            used = tokens(response)
            tokens_in, tokens_out = tokens_in + used[0], tokens_out + used[1]
            if not getattr(response, "choices", None):
                problem = _NO_ANSWER
                continue
            choice = response.choices[0]
            if refused(choice):
                return Reply(None, "the model refused", True, tokens_in, tokens_out)
            text = choice.message.content or ""
            answer, problem = _read(text, choices)
            if answer is not None:
                return Reply(answer, "", True, tokens_in, tokens_out)
            if choice.finish_reason == "length":
                limit, problem = limit * 4, "the answer was cut off"
            else:
                hint = f"That was not usable: {problem}. Answer again with the JSON object only."
                talk = [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": hint}]
        if problem == _NO_ANSWER:
            raise Lost(problem)
        return Reply(None, problem, True, tokens_in, tokens_out)

    def _send(self, model: str, talk: Messages, choices: Sequence[str], limit: int, sample: int) -> Any:
        """One request, in the richest form that the endpoint takes for this model."""
        start = _FORMATS.index(self.format.get(model, _FORMATS[0]))
        errors = self.endpoint.errors
        for form in _FORMATS[start:]:
            wanted = _response_format(form, choices)
            more: dict[str, Any] = {"response_format": wanted} if wanted else {}
            if sample:
                more["temperature"] = 1.0
            try:
                response = self.endpoint.create(model, talk, limit, **more)
            except (errors.BadRequestError, errors.UnprocessableEntityError) as error:
                if form == _FORMATS[-1]:
                    raise Failure(f"{model}: the endpoint refuses the request: {error}") from error
                continue
            self.format[model] = form
            return response
        raise AssertionError("unreachable")


def _response_format(form: str, choices: Sequence[str]) -> dict[str, Any] | None:
    """Flat and strict: every key required, none extra, no bounds, which some servers refuse."""
    if form == "text":
        return None
    if form == "json_object":
        return {"type": "json_object"}
    properties = {
        "label": {"type": "string", "enum": list(choices)},
        "confidence": {"type": "number"},
        "reason": {"type": "string"},
    }
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "choice", "strict": True, "schema": schema}}


def _read(text: str, choices: Sequence[str]) -> tuple[Answer | None, str]:
    """(answer, problem): the JSON object in a text, also inside a code fence or after thinking aloud."""
    bare = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    start, end = bare.find("{"), bare.rfind("}")
    try:
        answer = Answer.model_validate_json(bare[start : end + 1])
    except ValidationError as error:
        first = error.errors()[0]
        return None, f"{'.'.join(str(p) for p in first['loc']) or 'the text'}: {first['msg']}"
    if answer.label not in choices:
        return None, f"'{answer.label}' is not in the list"
    return answer, ""
