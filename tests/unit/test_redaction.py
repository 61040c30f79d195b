"""Secrets, and what rows hold, are taken out in one place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.redaction import redact, unquoted

#: Of letters that no notation escapes.
SECRETS = st.text("abcXYZ0189", min_size=8, max_size=30).map(lambda text: f"Q{text}")
AROUND = st.sampled_from(
    [
        "https://host/a?X-Amz-Signature={}",
        "https://host/a?b=c&X-Amz-Credential={}/20260101/us-east-1&d=e",
        "https://me:{}@host:443/a",
        "s3://bucket/key#{}",
        "host/a.png?X-Amz-Security-Token={}&a=b",
        "Authorization: Bearer {}",
        "authorization=Basic {}",
        "'Proxy-Authorization': '{}'",
        '{{"access_token": "{}", "n": 1}}',
        "AWS_SECRET_ACCESS_KEY={}",
        "aws_access_key_id = {}",
        "password: {}",
        "api_key={}, retry",
        "?sig={}&se=2026",
        "EMBEDMILL_MESSAGE_KEY={}",
        "AccountName=a;AccountKey={};b",
        "AZURE_STORAGE_ACCOUNT_KEY={}",
        "Cookie: {}",
    ]
)


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


@given(secret=SECRETS, around=AROUND, before=st.text(max_size=20), after=st.text(max_size=20))
def test_1000_messages_with_a_secret_keep_none(secret: str, around: str, before: str, after: str) -> None:
    """In URLs, parameters, headers and settings, whatever stands around."""
    assert secret not in redact(f"{before} {around.format(secret)} {after}")


@pytest.mark.parametrize(
    "message",
    [
        "waited 5 s in vain for the lease of shard 3",
        "3 tokens, over the 2 that stand in for a device's memory",
        "the password of the monitor has 5 characters; take 12 or more",
        "images/cat.png?size=2: no such file",
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    ],
)
def test_plain_words_stay(message: str) -> None:
    """What is no secret is told."""
    assert redact(message) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my PIN is 4711, keep it", "KeyError: 'my PIN is 4711, keep it'"),
        ("my PIN is 4711, keep it", "ValueError: no words PIN is 4711, here"),
        ("a\nb \u2028 Gr\u00fc\u00dfe 4711", "ValueError: " + ascii("a\nb \u2028 Gr\u00fc\u00dfe 4711")),
        ("Gr\u00fc\u00dfe 4711", "ValueError: " + repr("Gr\u00fc\u00dfe 4711".encode())),
        ("4711", "ValueError: 4711"),
    ],
)
def test_a_message_does_not_quote_the_row(text: str, message: str) -> None:
    """As it is, in part, or escaped; what stands before is kept."""
    told = unquoted(message, [text])

    assert "4711" not in told
    assert told.startswith(message.partition(":")[0])


def test_a_message_that_quotes_nothing_is_kept() -> None:
    """Words that a text shares with it by chance are too short to count."""
    message = "RuntimeError: the shapes of a and b cannot be multiplied"

    assert unquoted(message, ["", "a", "an a and a b", "multiple shapes"]) == message


@pytest.mark.parametrize("long", ["z", "://", "token", "a@", "sig= ", "-", "://a@b?"])
def test_a_text_is_searched_once_however_long_it_is(long: str) -> None:
    """Texts of a million characters that look like the beginning of a secret, again and again, end."""
    text = long * (1_000_000 // len(long))

    shown = redact(text)

    assert len(shown) <= 2 * len(text)
