"""Overrides that Hydra cannot parse: what the message says to type is parsed, and is what was meant."""

import os
import shlex

import pytest

from kdrun.config.quoting import not_parsed, parsed, quoted

NAMES = [
    *("résultats", "a(b)", "~/x", "a=b", "a[b]", "a}b", "a'b", "a'b\"c", "#b", "a&b", "a`b", "a<b>"),
    *("a\\'b", 'a\\"b', "a'b\\", "(b\\", "${b", "a${b", "a:{b", "é$x"),
    *("C:\\Users\\é", "a,b(c)", "= ", "\u00a0x", "é\tb", "$(rm -rf x)é", "'", '"', "\\'"),
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_to_type_means_what_was_typed(name):
    key = "+dataset.root"
    text = f"{key}={name}"
    assert parsed(text) is None, "else there is nothing to say"
    meant = quoted(text)
    assert meant is not None
    assert shlex.quote(meant) in not_parsed(text)
    (word,) = shlex.split(shlex.quote(meant))
    override = parsed(word)
    assert override is not None
    assert override.get_key_element() == key
    assert str(override.value()).replace("\\${", "${") == name


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("[é]", ["é"]),
        ("[a(b), c]", ["a(b)", "c"]),
        ("[1,2,~x]", [1, 2, "~x"]),
        ("['a',é,null]", ["a", "é", None]),
    ],
)
def test_only_the_items_of_a_list_that_need_quotes_get_them(value, meant):
    override = parsed(quoted(f"dataset.drop_classes={value}") or "")
    assert override is not None
    assert override.value() == meant


@pytest.mark.parametrize("text", ["séed=1", "seed", "", "=é", " seed=(", "recipe.milestones=[0.3", "a={", "x={é:1"])
def test_where_quotes_do_not_help_none_are_suggested(text):
    assert quoted(text) is None


@pytest.mark.parametrize("name", ["résultats (1)", "a,b"])
def test_a_run_is_written_where_the_message_says_to_type_it(kdrun, here, name):
    wrong = f"runtime.output_root={name}"
    words = ("student=mlp", "teacher=none", "method=ce", "dataset=synthetic", "recipe.epochs=1", "runtime.device=cpu")
    said = kdrun(wrong, *words)
    assert said.code == 2
    assert os.listdir(here) == []
    assert "1 problem" in said.err
    right = shlex.quote(f'runtime.output_root="{name}"')
    assert right in said.err
    assert kdrun(*shlex.split(right), *words).code == 0
    assert os.listdir(here) == [name]


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("seed=${oc.env:X,3}", "an integer"),
        ("recipe.augmentation.flip=${oc.env:X}", "true or false"),
        ("method.temperature=${oc.env:X}", "a finite number"),
        ("teacher.seeds=[${oc.env:X},4]", "an integer"),
        ("teacher.recipe.lr=${oc.env:X}", "a finite number"),
    ],
)
def test_a_variable_of_the_environment_is_decoded_as_the_message_says(kdrun, monkeypatch, text, due):
    monkeypatch.setenv("X", "secret")
    said = kdrun(text, "--dry-run")
    assert said.code == 2
    assert "1 problem" in said.err
    assert text in said.err
    assert due in said.err
    assert "oc.decode" in said.err
    assert "secret" not in said.err
    monkeypatch.setenv("X", "true" if "flip" in text else "2")
    (right,) = shlex.split(said.err.partition("variable is text: ")[2].splitlines()[0])
    assert kdrun(right, "--cfg=job", "--resolve").code == 0
    words = ("method=kd_ensemble", "teacher=cnn") if "seeds" in text else ()
    assert kdrun(right, *words, "evaluation=[nothing]").err.count("problem") == 1, "only what is wrong beside it"


@pytest.mark.parametrize("value", ["2024", "[a]", "null"])
def test_a_directory_that_is_no_text_to_hydra_is_quoted(kdrun, value):
    said = kdrun(f"runtime.output_root={value}", "--dry-run")
    assert said.code == 2
    assert shlex.quote(f'runtime.output_root="{value}"') in said.err


@pytest.mark.parametrize(
    "words",
    ["dataset.root=é", "dataset.root=a,b", "dataset.rot=/x", "seed=("],
)
def test_data_is_not_missed_in_its_default_place_where_something_else_is_wrong(kdrun, monkeypatch, words):
    monkeypatch.setenv("KDRUN_DATA", "/default/place")
    assert "/default/place" in kdrun("dataset=folder").err
    said = kdrun("dataset=folder", words)
    assert said.code == 2
    assert "/default/place" not in said.err
    assert "KDRUN_DATA" not in said.err


def test_two_overrides_in_one_word_are_two(kdrun):
    said = kdrun("seed=1 student=mlp")
    assert said.code == 2
    assert "must be 2: seed=1 student=mlp" in said.err
    assert "seed=1" in kdrun("seed = 1").err
