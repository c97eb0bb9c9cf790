"""What may leave: names become keyed hashes, and messages lose what files say.

Metadata need no filter: the dataset's columns are a whitelist (`etl/release/shards.py`), none copies a header.
"""

from __future__ import annotations

import hmac
import logging
import os
import re

from etl.errors import UsageError

KEY = "MEDGLIP_SUBJECT_KEY"
PSEUDONYM_DIGITS = 32
MESSAGE_LETTERS = 160
LIBRARIES = ("pydicom", "nibabel", "PIL", "tifffile", "imagecodecs", "fsspec", "s3fs", "botocore", "urllib3")


def quiet() -> None:
    """Libraries log nothing any more: their warnings quote what stands in headers."""
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False


def message(error: BaseException) -> str:
    """What an error of a library says, without what it quotes: values, names, paths, addresses, long numbers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    text = re.sub(r"""(?<!\w)[bru]?['"“].*['"”]""", "…", text)
    text = re.sub(r"(\s*\()?0x[0-9a-fA-F]+\)?", "", text)
    text = re.sub(r"\S*[/\\^@]\S*", "…", text)
    text = re.sub(r"\d{6,}", "…", text)
    return text[:MESSAGE_LETTERS]


def subject_key() -> bytes:
    """The key of pseudonyms.

    Raises:
        UsageError: there is none; says how to make one.
    """
    key = os.environ.get(KEY, "")
    if not key:
        raise UsageError(
            f"a source with `pseudonymize: true` needs a secret key in {KEY}; make one and keep it, another key gives "
            f'other names: export {KEY}=$(python3 -c "import secrets; print(secrets.token_hex(32))")'
        )
    return key.encode()


def pseudonym(key: bytes, family: str, what: str, name: str) -> str:
    """The name of a subject or case (`what`) as HMAC-SHA256, 32 hexadecimal digits; one per family, name and key."""
    text = "\0".join((family, what, name))
    return hmac.new(key, text.encode("utf-8", "surrogateescape"), "sha256").hexdigest()[:PSEUDONYM_DIGITS]
