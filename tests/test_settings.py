"""Budgets, and `name=value` settings checked against signatures."""

import inspect
import math
from typing import Any

import pytest

from jensen.errors import InputError
from jensen.models import MODELS, model_class
from jensen.models.model import settings_of
from jensen.settings import check, parse, seconds


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1h1m1s", 3661), (" 2h ", 7200)]
)
def test_budgets_are_read(text: str, value: float):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "-5m", "1.5h", "30m1h", "5M", "５m5", "NaN"])
def test_other_words_are_no_budgets(text: str):
    with pytest.raises(InputError, match=r"like 90s, 5m or 1h30m, got '"):
        seconds(text)


@pytest.mark.parametrize("text", ["0s", "0h0m", "721h", "99999999999999999999h"])
def test_budgets_have_bounds(text: str):
    with pytest.raises(InputError, match=f"between 1s and 720h, got '{text}'"):
        seconds(text)


def test_pairs_are_json_or_words():
    pairs = [
        "j=1e3",
        "k=1e20",
        "l=[2e0]",
        "a=1",
        "b=0.5",
        "c=true",
        "d=word",
        "e=[0.1, 0.2]",
        "f=null",
        "g=a=b",
        'h="5"',
        "i=",
    ]
    found = {
        "j": 1000,
        "k": 1e20,
        "l": [2],
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "word",
        "e": [0.1, 0.2],
        "f": None,
        "g": "a=b",
        "h": "5",
        "i": "",
    }
    assert parse(pairs) == found
    assert [type(parse(pairs)[name]) for name in "jk"] == [int, float]


@pytest.mark.parametrize("pair", ["a", "=1", ""])
def test_what_is_no_pair_is_refused(pair: str):
    with pytest.raises(InputError, match=f"--set takes name=value, got '{pair}'"):
        parse([pair])


def test_names_are_given_once():
    with pytest.raises(InputError, match="gives a twice"):
        parse(["a=1", "a=2"])


def test_nesting_without_end_is_a_word():
    assert parse(["a=" + "[" * 100_000])["a"].startswith("[[[")


def known(kind: Any) -> dict[str, inspect.Parameter]:
    return {"x": inspect.Parameter("x", inspect.Parameter.KEYWORD_ONLY, annotation=kind)}


@pytest.mark.parametrize(
    ("kind", "good", "bad", "rule"),
    [
        (int, [1, -1, 10**30], [1.0, True, "1", None], "a whole number"),
        (float, [1, 0.5], [True, "1", None, math.nan, math.inf, 10**400], "a finite number"),
        (bool, [True], [1, "true"], "true or false"),
        (str, ["a"], [1, None], "a word"),
        (int | None, [None, 1], ["a", 0.5], "a whole number"),
        (list[float] | None, [None, [1, 0.5], []], [[None], "1", [math.nan]], "a list of finite numbers"),
        (str | float, ["a", 1.0], [None, [1]], "a word or a finite number"),
    ],
)
def test_values_have_types(kind: Any, good: list[Any], bad: list[Any], rule: str):
    for value in good:
        check({"x": value}, known(kind), "it")
    for value in bad:
        with pytest.raises(InputError, match=f"setting x must be {rule}, got "):
            check({"x": value}, known(kind), "it")


def test_unknown_names_are_told_the_known_ones():
    with pytest.raises(InputError, match="it has no setting 'y'; it has x"):
        check({"y": 1}, known(int), "it")
    with pytest.raises(InputError, match="it has none"):
        check({"y": 1}, {}, "it")


@pytest.mark.parametrize("word", MODELS)
def test_every_default_passes_its_own_check(word: str):
    parameters = settings_of(model_class(word))
    check({name: p.default for name, p in parameters.items()}, parameters, word)
    for name in parameters:
        with pytest.raises(InputError, match=rf"setting {name} must be .*, got \{{1\}}"):
            check({name: {1}}, parameters, word)
    with pytest.raises(InputError, match=f"{word} has no setting 'bogus'"):
        check({"bogus": 1}, parameters, word)
