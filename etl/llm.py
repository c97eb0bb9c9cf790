"""One closed question to an OpenAI-compatible endpoint: a choice from a list, as JSON, asked once and remembered.

Works with servers that take `json_schema`, with those that only take `json_object`, and with those that take neither;
an answer that does not fit is shown to the model once more. Only `labels suggest` and `labels evaluate` use this.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from etl.errors import Failure, UsageError

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


class _Lost(Exception):  # noqa: N818
    """No answer came: a time-out, a lost connection or an endless 5xx; not remembered, so the next run asks again."""


@dataclass
class Cache:
    """Replies by the digest of the question, one JSON line each; a broken last line is skipped."""

    path: Path
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["key"]] = row
                except (ValueError, KeyError, TypeError):
                    continue

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Remember one reply, on disk at once."""
        with self.lock:
            self.known[key] = row
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, **row}, ensure_ascii=False) + "\n")


def endpoint() -> bool:
    """Whether the environment names an endpoint."""
    return bool(os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_KEY"))


class Chooser:
    """A client for one endpoint. Thread-safe. `retries` and `timeout_s` hold for each request."""

    def __init__(self, cache: Cache, *, timeout_s: float = 60, retries: int = 4) -> None:
        if not endpoint():
            raise UsageError("no endpoint: set OPENAI_BASE_URL (a local server) or OPENAI_API_KEY, or give no --model")
        import openai

        self.cache = cache
        self.base_url = os.environ.get("OPENAI_BASE_URL", "")
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self.errors: Any = openai
        self.client: Any = openai.OpenAI(
            api_key=key, base_url=self.base_url or None, timeout=timeout_s, max_retries=retries
        )
        self.format: dict[str, str] = {}
        self.lost = 0

    def choose(self, model: str, messages: Messages, choices: Sequence[str], sample: int = 0) -> Reply:
        """The model's choice; the same question (model, text, choices, sample) is sent once in the cache's life."""
        question = [self.base_url, model, messages, list(choices), sample]
        key = hashlib.sha256(json.dumps(question, ensure_ascii=False).encode()).hexdigest()
        row = self.cache.known.get(key)
        if row is not None:
            answer = Answer.model_validate(row["answer"]) if row["answer"] else None
            return Reply(answer, row["problem"], sent=False)
        if self.lost >= 3:
            return Reply(None, "the endpoint did not answer three times in a row; not asked again", sent=False)
        try:
            reply = self._ask(model, messages, choices, sample)
        except _Lost as error:
            self.lost += 1
            return Reply(None, str(error))
        self.lost = 0
        answered = reply.answer.model_dump() if reply.answer else None
        usage = {"tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
        self.cache.add(key, {"model": model, "answer": answered, "problem": reply.problem, **usage})
        return reply

    def _ask(self, model: str, messages: Messages, choices: Sequence[str], sample: int) -> Reply:
        talk, tokens_in, tokens_out, problem = list(messages), 0, 0, ""
        limit = _TOKENS
        for _ in range(2):  # the question, and one repair
            try:
                response = self._send(model, talk, choices, limit, sample)
            except (ValueError, self.errors.APIResponseValidationError):
                response = None  # a gateway's page in place of JSON
            usage = getattr(response, "usage", None)
            tokens_in += int(getattr(usage, "prompt_tokens", 0) or 0)
            tokens_out += int(getattr(usage, "completion_tokens", 0) or 0)
            if not getattr(response, "choices", None):
                problem = _NO_ANSWER
                continue
            choice = response.choices[0]
            if getattr(choice.message, "refusal", None) or choice.finish_reason == "content_filter":
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
            raise _Lost(problem)
        return Reply(None, problem, True, tokens_in, tokens_out)

    def _send(self, model: str, talk: Messages, choices: Sequence[str], limit: int, sample: int) -> Any:
        """One request, in the richest form that the endpoint takes for this model."""
        start = _FORMATS.index(self.format.get(model, _FORMATS[0]))
        for form in _FORMATS[start:]:
            try:
                response = self._create(model, talk, _response_format(form, choices), limit, sample)
            except (self.errors.BadRequestError, self.errors.UnprocessableEntityError) as error:
                if form == _FORMATS[-1]:
                    raise Failure(f"{model}: the endpoint refuses the request: {error}") from error
                continue
            self.format[model] = form
            return response
        raise AssertionError("unreachable")

    def _create(self, model: str, talk: Messages, form: dict[str, Any] | None, limit: int, sample: int) -> Any:
        more: dict[str, Any] = {"response_format": form} if form else {}
        if sample:
            more["temperature"] = 1.0
        try:
            return self.client.chat.completions.create(model=model, messages=talk, max_tokens=limit, **more)
        except (self.errors.AuthenticationError, self.errors.PermissionDeniedError, self.errors.NotFoundError) as error:
            raise Failure(f"{model}: {error}; check OPENAI_BASE_URL, OPENAI_API_KEY and --model") from error
        except (self.errors.BadRequestError, self.errors.UnprocessableEntityError) as error:
            if "max_completion_tokens" not in str(error):
                raise
            return self.client.chat.completions.create(
                model=model, messages=talk, max_completion_tokens=limit, **more
            )
        except self.errors.APIResponseValidationError:
            raise
        except self.errors.OpenAIError as error:  # 429 and 5xx after all retries, time-outs, lost connections
            raise _Lost(f"no answer: {type(error).__name__}") from error


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
