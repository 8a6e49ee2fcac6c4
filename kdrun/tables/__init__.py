"""The papers' tables as data (the YAML files beside this one), what a definition may say, and the controls."""

from kdrun.tables.definition import Definition, Grid, Published, Row, TableError, Waypoints, read_definition, select
from kdrun.tables.entry import Entry

__all__ = ["Definition", "Entry", "Grid", "Published", "Row", "TableError", "Waypoints", "read_definition", "select"]
