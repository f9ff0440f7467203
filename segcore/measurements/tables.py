"""Tables: rows of objects -> *Parquet and CSV*, row group by row group."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from segcore.measurements.columns import Columns
from segcore.store import Objects

ROWS = 1 << 16
"""Of a row group."""
FORMULA = r"^[=+\-@\t\r]"
"""Text that a spreadsheet would take for a formula."""


def table_of(columns: Columns, image_id: str) -> pa.Table:
    """Rows of one image; a fraction that is not defined is null."""
    arrays = {"image": pa.array([image_id] * len(columns["object"]), pa.string())}
    for name, values in columns.items():
        if values.dtype == object:
            arrays[name] = pa.array(values.tolist(), pa.string())
        elif values.dtype.kind == "f":
            arrays[name] = pa.array(values, mask=np.isnan(values))
        else:
            arrays[name] = pa.array(values, pa.int64())
    return pa.table(arrays)


@contextmanager
def stored_table(objects: Objects, key: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet table that is written piece by piece, and then put under a key in one step."""
    with tempfile.TemporaryFile(prefix="segcore-") as file:
        with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
            yield writer
        file.seek(0)
        objects.put_file(key, file)


@contextmanager
def stored_csv(objects: Objects, key: str, schema: pa.Schema) -> Iterator[pa.csv.CSVWriter]:
    """The same as CSV."""
    with tempfile.TemporaryFile(prefix="segcore-") as file:
        with pa.csv.CSVWriter(file, schema) as writer:
            yield writer
        file.seek(0)
        objects.put_file(key, file)


def harmless(table: pa.Table) -> pa.Table:
    """Text that a spreadsheet would run gets an apostrophe before it, as OWASP advises."""
    for at, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            column = table.column(at)
            marked = pc.binary_join_element_wise(pa.scalar("'"), column, pa.scalar(""))
            is_formula = pc.match_substring_regex(column, FORMULA)
            table = table.set_column(at, field, pc.if_else(is_formula, marked, column))
    return table


def with_metadata(schema: pa.Schema, metadata: Mapping[str, str]) -> pa.Schema:
    """A schema that carries some text."""
    return schema.with_metadata({key.encode(): value.encode() for key, value in metadata.items()})


class Rows:
    """Gathers tables until they make a row group."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._waiting: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks(), row_group_size=ROWS)
        self._waiting = []


def opened_table(objects: Objects, key: str) -> pq.ParquetFile | None:
    """A table that was put; None if there is none, or it is damaged."""
    data = objects.open(key)
    if data is None:
        return None
    try:
        return pq.ParquetFile(data, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError):
        return None


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with the columns of a schema: null where it has none."""
    own = set(table.column_names)
    return pa.table(
        [table.column(field.name) if field.name in own else pa.nulls(len(table), field.type) for field in schema],
        schema=schema,
    )
