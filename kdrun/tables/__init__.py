"""A table from its definition to its files: rows, controls, comparison, columns; `render` writes them."""

from kdrun.tables.definition import Definition, Published, Row, TableError, read_definition, select
from kdrun.tables.entry import Entry

__all__ = ["Definition", "Entry", "Published", "Row", "TableError", "read_definition", "select"]
