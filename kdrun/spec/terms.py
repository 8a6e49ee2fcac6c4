"""The terms of a sum as options of a spec: the method of each, and its defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kdrun.methods import Method, shipped_methods
from kdrun.methods.base import Distillation
from kdrun.methods.facts import INJECTED
from kdrun.methods.sum import check_term, shipped_terms, term_weight
from kdrun.spec.own_code import sources
from kdrun.spec.signature import bind, unknown, without_defaults

MethodOf = Callable[[str], type[Method]]
"""The class of a method's `_target_`; raises `ValueError` for a name that is not trusted, or of no method."""
Terms = Mapping[str, Mapping[str, Any] | None]
"""The options of each term by its name; a term that is None is left out."""


def bound_terms(
    terms: Terms, place: str, problems: list[str], method_of: MethodOf
) -> tuple[dict[str, Any], dict[str, str]]:
    """Binds the options of each term to its method.

    Returns:
        The terms in the order of their names, without what is at its default; and the code from outside kdrun that
        they depend on, see `sources`: it is part of the run's identity as that of a method is.
    """
    bound: dict[str, Any] = {}
    code: dict[str, str] = {}
    for name, options in _given(terms):
        try:
            kind = _term(name, options, method_of)
        except ValueError as error:
            problems.append(f"{place}.{name}: {error}")
            continue
        own = {option: value for option, value in options.items() if option != "_target_"}
        named = {} if kind is shipped_methods().get(name) else {"_target_": options["_target_"]}
        bound[name] = {**named, **_bound_options(kind, own, f"{place}.{name}", problems)}
        code |= sources(kind, named.get("_target_", ""), {**kind.term_options(), **own}) or {}
    return bound, code


def whole_terms(terms: Terms, method_of: MethodOf) -> dict[str, Any]:
    """The terms with all their options, those at their default too."""
    return {name: {**_term(name, given, method_of).term_options(), **given} for name, given in _given(terms)}


def terms_with_classes(terms: Terms, method_of: MethodOf) -> dict[str, Any]:
    """The terms with classes instead of their names, as the sum takes them."""
    return {
        name: {**given, **({"_target_": method_of(given["_target_"])} if "_target_" in given else {})}
        for name, given in _given(terms)
    }


def _given(terms: Terms) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, options) for name, options in sorted(terms.items()) if options is not None]


def _term(name: str, options: Mapping[str, Any], method_of: MethodOf) -> type[Distillation]:
    """The method of a term: what its `_target_` names, or kdrun's of the term's name.

    Raises:
        ValueError: there is none, or it cannot be a term.
    """
    if "_target_" in options:
        return check_term(name, method_of(str(options["_target_"])))
    if name not in shipped_methods():
        raise ValueError(f"{unknown(name, shipped_terms(), 'term')}; one of your own: _target_=PACKAGE.CLASS")
    return check_term(name, shipped_methods()[name])


def _bound_options(
    kind: type[Distillation], options: Mapping[str, Any], place: str, problems: list[str]
) -> dict[str, Any]:
    """The options of a sum's term that are not at their default, and its weight where that is not the method's own."""
    known = kind.term_options()
    weight, own = {}, {}
    for option, value in options.items():
        if option == "weight":
            weight = {option: value}
        elif option in known:
            own[option] = value
        elif option in kind.alone:
            problems.append(
                f"{place}.{option}: has no meaning in a sum, where a term's weight is {place}.weight, that of the "
                f"labels hard_weight, and there is one stage; Allowed: {', '.join(sorted(known))}"
            )
        else:
            problems.append(f"{place}.{option}: {unknown(option, known, 'option')}")
    bound = bind(term_weight, weight, place, problems)
    if bound.get("weight") in (None, kind.default_weight()):
        bound = {}
    return {**bound, **without_defaults(kind, bind(kind, own, place, problems, injected=INJECTED))}
