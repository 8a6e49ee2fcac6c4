"""The papers' tables as data (the YAML files beside this one), what a definition may say, and the controls."""

from kdrun.tables.definition import Definition, Entry, Grid, Published, Row, TableError, read_definition, select

__all__ = ["Definition", "Entry", "Grid", "Published", "Row", "TableError", "read_definition", "select"]
