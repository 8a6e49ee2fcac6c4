"""The papers' tables as data (the YAML files beside this one), what a definition may say, and the controls."""

from kdrun.tables.definition import Definition, Published, Row, TableError, read_definition, select
from kdrun.tables.entry import Entry

__all__ = ["Definition", "Entry", "Published", "Row", "TableError", "read_definition", "select"]
