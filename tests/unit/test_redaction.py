"""Secrets are taken out in one place."""

import pytest

from schemas.redaction import redact


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@host:6379/0",
        "redis://user:se@cret@host/0",
        "rediss://:se/cret@host",
        "redis+socket://:secret@/tmp/x.sock?virtual_host=0",
        "https://host/path?token=secret",
        "s3://bucket/key#secret",
    ],
)
def test_no_part_of_a_secret_is_left(url: str) -> None:
    """User info, query and fragment go; host and path may stay."""
    told = redact(f"cannot reach {url}: refused")

    assert "cret" not in told
    assert told.startswith("cannot reach ")
