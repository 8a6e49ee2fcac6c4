"""What the shipped tables run and print, for the tests of each paper."""

import functools

import pytest

from kdrun.config.table import compose_table, load_table


@functools.cache
def entries(name, *overrides, num_seeds=1, patterns=()):
    """The entries of a composed table by row."""
    table = compose_table(load_table(name), overrides, num_seeds=num_seeds, patterns=patterns)
    return {entry.row.name: entry for entry in table.entries}


def composed(name, *overrides, **options):
    """The specs of each row that can be run, by its name."""
    return {row: entry.specs for row, entry in entries(name, *overrides, **options).items() if entry.specs}


def printed(name):
    """Published top-1 and ensemble by row."""
    return {row.name: (row.published.top1, row.published.ensemble) for row in load_table(name).rows}


def schedule(epochs, lr, milestones, gamma):
    """The learning rate as (until epoch, rate)."""
    ends = [*(share * epochs for share in milestones), epochs]
    return [(pytest.approx(end, abs=1), pytest.approx(lr * gamma**number)) for number, end in enumerate(ends)]


def of_recipe(recipe):
    return schedule(recipe.epochs, recipe.lr, recipe.milestones, recipe.gamma)
