"""Content hashes: the name of what a row is made of; rows of one name have one vector in each space."""

import hashlib
from collections.abc import Sequence

from schemas.rows import Modality

#: Bytes of a content hash.
CONTENT_BYTES = 16


def text_content(text: str) -> bytes:
    """The content hash of a text: of its UTF-8 bytes, as written."""
    return hashlib.blake2b(text.encode(), digest_size=CONTENT_BYTES, person=b"text").digest()


def media_content(modality: Modality, data: bytes) -> bytes:
    """The content hash of a medium: of its bytes as fetched, unpacked where they were gzipped."""
    return hashlib.blake2b(data, digest_size=CONTENT_BYTES, person=str(modality).encode()).digest()


def mixed_content(parts: Sequence[bytes]) -> bytes:
    """The content hash of a mixed row, of those of its parts in PART_ORDER."""
    return hashlib.blake2b(b"".join(parts), digest_size=CONTENT_BYTES, person=b"mixed").digest()
