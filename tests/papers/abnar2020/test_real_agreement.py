"""The published files of agreement questions, written small: what is read, what is left out, what is refused."""

import json
from pathlib import Path

import pytest

from kdrun.data import DataError
from kdrun.papers.abnar2020.grammar import Question
from kdrun.papers.abnar2020.lexicon import encode
from kdrun.papers.abnar2020.real_agreement import (
    BLIMP_ONE_PREFIX,
    BLIMP_TWO_PREFIXES,
    Contrast,
    blimp,
    blimp_contrasts,
    linzen,
)

SENTENCES = [
    ("the keys to the cabinet are on the table . <eos>", "5\tare\tis\t1"),
    ("the village , with two churches , undergoes changes . <eos>", "7\tundergoes\tundergo\t1"),
    ("The House wherein the people live . <eos>", "2\twherein\twherein\t0"),
    ("the members of We Are are here . <eos>", "4\tAre\tIs\t0"),
    ("the author has it . <eos>", "2\thas\thave\t0"),
]
ONE_PREFIX = [
    ("A newspaper about the Borgias", "has", "have"),
    ("Becca's friends", "were", "isn't"),
    ("Those radii", "look like", "looks like"),
    ("All patients that hurt Steven", "sing", "singing"),
]
TWO_PREFIXES = [("The woman", "The women", "isn't"), ("The boys", "The boy", "kiss"), ("The lice", "The louse", "are")]


def ids(text: str) -> tuple[int, ...]:
    return tuple(encode(text.split()))


def question(prefix: str, right: str, wrong: str, plural: bool, attractors: int | None = None) -> Question:
    return Question(ids(prefix), *ids(right), *ids(wrong), plural, attractors)


def write_linzen(root: Path, lines: list[tuple[str, str]]) -> None:
    for column, name in enumerate(("text", "gold")):
        text = "".join(f"{line[column]}\n" for line in lines)
        (root / "agreement" / f"subj_agr_filtered.{name}").write_text(text, encoding="utf-8")


def write_blimp(root: Path) -> None:
    one = [
        {"one_prefix_prefix": prefix, "one_prefix_word_good": good, "one_prefix_word_bad": bad, "pairID": "0"}
        for prefix, good, bad in ONE_PREFIX
    ]
    two = [
        {"two_prefix_prefix_good": good, "two_prefix_prefix_bad": bad, "two_prefix_word": word}
        for good, bad, word in TWO_PREFIXES
    ]
    for names, entries in ((BLIMP_ONE_PREFIX, one), (BLIMP_TWO_PREFIXES, two)):
        for name in names:
            path = root / "agreement" / f"{name}.jsonl"
            path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "agreement").mkdir()
    write_linzen(tmp_path, SENTENCES)
    write_blimp(tmp_path)
    return tmp_path


def test_linzen(root):
    assert linzen(root) == [
        question("the keys to the cabinet", "are", "is", True, 1),
        question("the <unk> , with two churches ,", "<unk-s>", "<unk>", False, 1),
        question("the members of we", "are", "is", True, 0),
        question("the author", "has", "have", False, 0),
    ]


def test_blimp(root):
    found = blimp(root)
    assert tuple(found) == BLIMP_ONE_PREFIX
    for questions in found.values():
        assert questions == [
            question("a <unk> about the <unk-s>", "has", "have", False),
            question("<unk> 's friends", "were", "isn't", True),
            question("those radii", "look", "looks", True),
        ]


def test_blimp_contrasts(root):
    found = blimp_contrasts(root)
    assert tuple(found) == BLIMP_TWO_PREFIXES
    for contrasts in found.values():
        assert contrasts == [
            Contrast(
                good=question("the woman", "isn't", "aren't", False), bad=question("the women", "aren't", "isn't", True)
            ),
            Contrast(
                good=question("the boys", "<unk>", "<unk-s>", True), bad=question("the boy", "<unk-s>", "<unk>", False)
            ),
        ]


@pytest.mark.parametrize("read", [linzen, blimp, blimp_contrasts])
def test_absent_files_are_told_with_their_place_and_source(tmp_path, read):
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert f"{tmp_path / 'agreement'} has no " in message
    expected = ["subj_agr_filtered.text", "subj_agr_filtered.gold", "colorlessgreenRNNs", "Linzen", "Gulordava"]
    if read is not linzen:
        expected = [f"{name}.jsonl" for name in BLIMP_ONE_PREFIX + BLIMP_TWO_PREFIXES] + ["BLiMP", "Warstadt"]
    for words in expected:
        assert words in message


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        ("5\tare\tis", "four columns"),
        ("-5\tare\tis\t1", "four columns"),
        ("4\tare\tis\t1", "'are' is not the word at position 4"),
        ("50\tare\tis\t1", "'are' is not the word at position 50"),
    ],
)
def test_a_damaged_line_of_linzen_is_told_by_its_number(root, gold, reason):
    write_linzen(root, [SENTENCES[-1], (SENTENCES[0][0], gold), SENTENCES[-1]])
    with pytest.raises(DataError, match=rf"subj_agr_filtered\.gold, line 2: .*{reason}"):
        linzen(root)


def test_files_that_do_not_correspond_are_refused(root):
    path = root / "agreement" / "subj_agr_filtered.gold"
    path.write_text(path.read_text() + "5\tare\tis\t1\n")
    with pytest.raises(DataError, match=r"5 lines in subj_agr_filtered\.text and 6 in subj_agr_filtered\.gold"):
        linzen(root)


def test_a_file_with_nothing_to_ask_is_refused(root):
    write_linzen(root, [SENTENCES[2]])
    with pytest.raises(DataError, match="nothing to ask"):
        linzen(root)
    write_linzen(root, [])
    with pytest.raises(DataError, match="is empty"):
        linzen(root)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        100_000 * "[",
        '{"one_prefix_prefix": "The boy", "one_prefix_word_good": "is"}',
        '{"one_prefix_prefix": "The boy", "one_prefix_word_good": "is", "one_prefix_word_bad": 1}',
        '{"one_prefix_prefix": " ", "one_prefix_word_good": "is", "one_prefix_word_bad": "are"}',
    ],
    ids=lambda line: line[:60],
)
@pytest.mark.parametrize(("read", "name"), [(blimp, BLIMP_ONE_PREFIX[1]), (blimp_contrasts, BLIMP_TWO_PREFIXES[1])])
def test_a_damaged_line_of_blimp_is_told_by_its_number(root, read, name, line):
    path = root / "agreement" / f"{name}.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([first, line, *others]))
    with pytest.raises(DataError, match=rf"{name}\.jsonl, line 2: "):
        read(root)
