"""Sentences of real English whose verbs agree with their subjects, read as questions to a model of `grammar`.

kdrun ships none of them; the files are read from `ROOT/agreement/`, as their authors publish them:

- `subj_agr_filtered.text` and `.gold`: sentences of Wikipedia (Linzen, Dupoux and Goldberg 2016) in the form of
  Gulordava et al. (2018).
- `PARADIGM.jsonl`: six paradigms of BLiMP (Warstadt et al. 2020).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kdrun.data import DataError
from kdrun.files import MIB, parse_json, read_regular
from kdrun.papers.abnar2020.grammar import Question
from kdrun.papers.abnar2020.lexicon import VERBS, encode, verb_ids, with_s

BLIMP_ONE_PREFIX = (
    "distractor_agreement_relational_noun",
    "distractor_agreement_relative_clause",
    "irregular_plural_subject_verb_agreement_1",
    "regular_plural_subject_verb_agreement_1",
)
"""Paradigms that ask for the form of the verb."""

BLIMP_TWO_PREFIXES = (
    "irregular_plural_subject_verb_agreement_2",
    "regular_plural_subject_verb_agreement_2",
)
"""Paradigms that ask for the subject; the form of the verb is given."""

_Item = TypeVar("_Item")
_Line = TypeVar("_Line")

_DIRECTORY = "agreement"
_LIMIT = 64 * MIB
"""Bytes of a file, at most; the largest published one has 1 MB."""
_LINZEN_FILES = ("subj_agr_filtered.text", "subj_agr_filtered.gold")
_LINZEN_SOURCE = "Linzen et al. (2016) in the form of Gulordava et al. (2018), https://github.com/facebookresearch/colorlessgreenRNNs"
_BLIMP_SOURCE = "BLiMP, Warstadt et al. (2020), https://github.com/alexwarstadt/blimp"
_PLURAL = {form: bool(number) for pair in VERBS for number, form in enumerate(pair)}
_PAIR_OF = {form: pair for pair in VERBS for form in pair}
_TOKEN = re.compile(r"'s\b|\w+(?:[-'](?!s\b)\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Contrast:
    """A verb form and two subjects, of which it agrees with one.

    A language model is right if `good.right` is more probable after `good.prefix` than after `bad.prefix` (it is
    `bad.wrong`), a model that tells the number of the next verb if that form's number is.

    Attributes:
        good: the question after the subject that the form agrees with.
        bad: the question after the other subject.
    """

    good: Question
    bad: Question


def linzen(root: Path) -> list[Question]:
    """The questions of Linzen et al. (2016), in the order of the file, with their numbers of attractors.

    Lines whose two forms are not a singular and a plural ask for no number and are left out (4 of the 7,489).

    Raises:
        DataError: a file is absent or damaged; the message names the line.
    """
    text, gold = (_lines(root, name, _LINZEN_FILES, _LINZEN_SOURCE) for name in _LINZEN_FILES)
    if len(text) != len(gold):
        raise DataError(
            f"{root / _DIRECTORY}: {len(text)} lines in {_LINZEN_FILES[0]} and {len(gold)} in {_LINZEN_FILES[1]}; "
            "they must correspond"
        )
    return _each(
        root / _DIRECTORY / _LINZEN_FILES[1],
        list(zip(text, gold, strict=True)),
        lambda lines: _linzen_question(lines[0].lower().split(), lines[1].lower().split("\t")),
    )


def blimp(root: Path) -> dict[str, list[Question]]:
    """The questions of `BLIMP_ONE_PREFIX`, by paradigm, in the order of the files.

    The two forms may differ in tense too (are, was). Of a verb of several words (looks like) the first is asked for.
    Lines whose forms are not a singular and a plural are left out (sing and singing, 1 of the 4,000).

    Raises:
        DataError: a file is absent or damaged; the message names the line.
    """
    return {name: _paradigm(root, name, _blimp_question) for name in BLIMP_ONE_PREFIX}


def blimp_contrasts(root: Path) -> dict[str, list[Contrast]]:
    """The contrasts of `BLIMP_TWO_PREFIXES`, by paradigm, in the order of the files.

    Those whose two subjects are the same in `VOCABULARY` (louse, lice) are left out: 29 of the 2,000.

    Raises:
        DataError: a file is absent or damaged; the message names the line.
    """
    return {name: _paradigm(root, name, _blimp_contrast) for name in BLIMP_TWO_PREFIXES}


def _linzen_question(words: Sequence[str], columns: Sequence[str]) -> Question | None:
    if len(columns) != 4 or not (columns[0].isdecimal() and columns[3].isdecimal()):
        raise ValueError("must have four columns: position, right form, wrong form, number of attractors")
    position, (right, wrong) = int(columns[0]), columns[1:3]
    if not 0 < position < len(words) or words[position] != right:
        raise ValueError(f"{right!r} is not the word at position {position} (from 0) of the same line of the text")
    return _question(words[:position], right, wrong, attractors=int(columns[3]))


def _blimp_question(entry: Mapping[str, str]) -> Question | None:
    right, wrong = (_tokens(entry, f"one_prefix_word_{which}")[0] for which in ("good", "bad"))
    return _question(_tokens(entry, "one_prefix_prefix"), right, wrong)


def _blimp_contrast(entry: Mapping[str, str]) -> Contrast | None:
    form = _tokens(entry, "two_prefix_word")[0]
    plural = _is_plural(form)
    other = _PAIR_OF[form][not plural] if form in _PAIR_OF else ""  # "" is an unknown form, as `form` is
    good, bad = (_tokens(entry, f"two_prefix_prefix_{which}") for which in ("good", "bad"))
    contrast = Contrast(_asked(good, form, other, plural=plural), _asked(bad, other, form, plural=not plural))
    return contrast if contrast.good.prefix != contrast.bad.prefix else None


def _question(words: Sequence[str], right: str, wrong: str, attractors: int | None = None) -> Question | None:
    """None where the forms are not a singular and a plural."""
    if right in _PLURAL and wrong in _PLURAL:
        plural = _PLURAL[right]
        different = plural != _PLURAL[wrong]
    else:
        plural = with_s(right) == wrong
        different = plural or with_s(wrong) == right
    return _asked(words, right, wrong, plural=plural, attractors=attractors) if different else None


def _asked(words: Sequence[str], right: str, wrong: str, *, plural: bool, attractors: int | None = None) -> Question:
    ids = verb_ids(*((wrong, right) if plural else (right, wrong)))
    return Question(tuple(encode(words)), ids[plural], ids[not plural], plural, attractors)


def _is_plural(form: str) -> bool:
    """Number of a verb in the present tense by its ending, where it is unknown."""
    return _PLURAL.get(form, not form.endswith("s") or form.endswith("ss"))


def _tokens(entry: Mapping[str, str], key: str) -> list[str]:
    """Lower-case words of a text, with 's and punctuation by themselves, as in the other files; at least one."""
    text = entry.get(key) if isinstance(entry, dict) else None
    tokens = _TOKEN.findall(text.lower()) if isinstance(text, str) else []
    if not tokens:
        raise ValueError(f"must be a JSON object with a text {key!r}")
    return tokens


def _paradigm(root: Path, name: str, parse: Callable[[Mapping[str, str]], _Item | None]) -> list[_Item]:
    files = [f"{paradigm}.jsonl" for paradigm in BLIMP_ONE_PREFIX + BLIMP_TWO_PREFIXES]
    lines = _lines(root, f"{name}.jsonl", files, _BLIMP_SOURCE)
    return _each(root / _DIRECTORY / f"{name}.jsonl", lines, lambda line: parse(parse_json(line)))


def _each(path: Path, lines: Sequence[_Line], parse: Callable[[_Line], _Item | None]) -> list[_Item]:
    """Reads every line; what is wrong with one becomes a `DataError` that names it. None is left out."""
    items = []
    for number, line in enumerate(lines, start=1):
        try:
            item = parse(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        if item is not None:
            items.append(item)
    if not items:
        raise DataError(f"{path} has nothing to ask: no line whose forms, or whose subjects, are of two numbers")
    return items


def _lines(root: Path, name: str, files: Sequence[str], source: str) -> list[str]:
    """Lines of a file, of which there must be some."""
    directory = root / _DIRECTORY
    path = directory / name
    try:
        lines = read_regular(path, _LIMIT).decode().rstrip("\n").split("\n")
    except FileNotFoundError:
        raise DataError(
            f"{directory} has no {name}, and kdrun ships no sentences of others; expected there, under dataset.root or "
            f"$KDRUN_DATA, are {', '.join(files)}, from {source}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if lines == [""]:
        raise DataError(f"{path} is empty")
    return lines
