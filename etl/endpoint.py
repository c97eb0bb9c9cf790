"""What all questions to an OpenAI-compatible endpoint share: the client, its errors, the memory of what was asked.

`openai` is imported here alone. A question that was answered once is never sent again; one that got no answer is.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etl.errors import Failure, UsageError

RETRIES = 4
"""Of a request that failed on the way, before its question is lost for this run."""
IN_A_ROW = 3
"""So many questions lost one after the other, and the endpoint is taken for dead."""


class Lost(Exception):  # noqa: N818
    """No answer came: a time-out, a lost connection or an endless 5xx; not remembered, so the next run asks again."""


@dataclass
class Cache:
    """Replies by the digest of the question, one JSON line each; a broken last line is skipped."""

    path: Path
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self.known[row["key"]] = row
            except (ValueError, KeyError, TypeError):
                continue
        if text and not text.endswith("\n"):  # a write was cut off: what follows begins a line of its own
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Remember one reply, on disk at once."""
        with self.lock:
            self.known[key] = row
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, **row}, ensure_ascii=False) + "\n")


class Endpoint:
    """A client for one endpoint. Thread-safe. `timeout_s` holds for each request."""

    def __init__(self, cache: Cache, *, timeout_s: float) -> None:
        self.base_url, key = os.environ.get("OPENAI_BASE_URL", ""), os.environ.get("OPENAI_API_KEY", "")
        if not (self.base_url or key):
            raise UsageError("no endpoint: set OPENAI_BASE_URL (a local server) or OPENAI_API_KEY, or give no --model")
        import openai

        self.cache = cache
        self.errors: Any = openai
        self.client: Any = openai.OpenAI(
            api_key=key or "none", base_url=self.base_url or None, timeout=timeout_s, max_retries=RETRIES
        )
        self.lost = 0

    @property
    def dead(self) -> bool:
        """Whether the last few questions all got no answer."""
        return self.lost >= IN_A_ROW

    def key(self, question: list[Any]) -> str:
        """What a question is remembered under."""
        return hashlib.sha256(json.dumps([self.base_url, *question], ensure_ascii=False).encode()).hexdigest()

    def create(self, model: str, messages: list[Any], limit: int, **more: Any) -> Any:
        """One chat completion of at most `limit` tokens.

        Raises:
            Lost: no answer came after all retries.
            Failure: the key, the address or the model is wrong.
            openai.BadRequestError, openai.UnprocessableEntityError: the endpoint refuses this form of request.
            openai.APIResponseValidationError, ValueError: something other than JSON came back.
        """
        completions = self.client.chat.completions
        try:
            return completions.create(model=model, messages=messages, max_tokens=limit, **more)
        except (self.errors.AuthenticationError, self.errors.PermissionDeniedError, self.errors.NotFoundError) as error:
            raise Failure(f"{model}: {error}; check OPENAI_BASE_URL, OPENAI_API_KEY and --model") from error
        except (self.errors.BadRequestError, self.errors.UnprocessableEntityError) as error:
            if "max_completion_tokens" not in str(error):
                raise
            return completions.create(model=model, messages=messages, max_completion_tokens=limit, **more)
        except self.errors.APIResponseValidationError:
            raise
        except self.errors.OpenAIError as error:  # 429 and 5xx after all retries, time-outs, lost connections
            raise Lost(f"no answer: {type(error).__name__}") from error


def refused(choice: Any) -> bool:
    """Whether a choice of a completion is a refusal."""
    return bool(getattr(choice.message, "refusal", None)) or choice.finish_reason == "content_filter"


def tokens(response: Any) -> tuple[int, int]:
    """(tokens in, tokens out) of a completion, 0 where it does not say."""
    usage = getattr(response, "usage", None)
    return int(getattr(usage, "prompt_tokens", 0) or 0), int(getattr(usage, "completion_tokens", 0) or 0)
