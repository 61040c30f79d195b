"""Parquet records: a column's values as Python's own types."""

import pyarrow as pa

from schemas.errors import ManifestError
from schemas.failures import one_line

#: What stands for a Parquet string that is not UTF-8.
NOT_UTF8 = object()


def column_values(column: pa.Array, name: str, manifest: str) -> list[object]:
    """The values of a Parquet column as Python's own types; those of odd types as text."""
    try:
        values: list[object] = _plain(column).to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]
    except (pa.ArrowException, ValueError, TypeError, ImportError, OverflowError) as err:
        raise ManifestError(
            f"{manifest}: column {one_line(name)} of type {column.type} cannot be read; write it as a string"
        ) from err
    return values


def _plain(column: pa.Array) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())  # Python's datetime has no nanoseconds
    return column


def _value(scalar: pa.Scalar) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return NOT_UTF8
