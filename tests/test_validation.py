"""Every declared check of an argument: tests generated from the declarations."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import numpy as np
import pytest

import xai_patchshap
from xai_patchshap import OwenBPT, PatchShapError, _validation
from xai_patchshap._validation import (
    DECLARED,
    a_function,
    checked,
    finite,
    ids,
    list_of_names,
    maybe,
    one_of,
    pair,
    whole,
)

for module in pkgutil.walk_packages(xai_patchshap.__path__, "xai_patchshap."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)

OF_ALL_KINDS = {
    "whole": whole(1),
    "whole within": whole(2, 9, also=0, unit=" pixels"),
    "finite": finite(),
    "share": finite(least=0, below=1),
    "above": finite(above=0),
    "one of": one_of("a", "b", 3),
    "maybe": maybe(whole(0)),
    "pair": pair(finite(least=0)),
    "function": a_function("abs"),
    "names": list_of_names(),
    "ids": ids(),
    "closed ids": ids(gaps=False),
}
CASES = [
    pytest.param(function, name, constraint, id=f"{function.__qualname__}-{name}")
    for function, constraints in DECLARED
    for name, constraint in constraints.items()
]


def filled(function, **given):
    """Arguments with something for each that has no default."""
    wanted = inspect.signature(function).parameters.values()
    return {
        p.name: object()
        for p in wanted
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    } | given


@pytest.mark.parametrize(("function", "name", "constraint"), CASES)
def test_every_declared_argument_is_refused_by_its_name(function, name, constraint):
    others = dict(next(c for f, c in DECLARED if f is function))
    good = {other: c.good[0] for other, c in others.items() if other != name}
    for value in constraint.wrong:
        with pytest.raises(PatchShapError) as error:
            function(**filled(function, **{**good, name: value}))
        said = str(error.value)
        assert said.startswith(f"{name}: got "), said
        assert constraint.expected in said
        assert constraint.mend in said


@pytest.mark.parametrize(("function", "name", "constraint"), CASES)
def test_every_default_of_a_declared_argument_is_taken(function, name, constraint):
    default = inspect.signature(function).parameters[name].default
    if default is not inspect.Parameter.empty:
        constraint(name, default)


@pytest.mark.parametrize("kind", OF_ALL_KINDS)
def test_constraints_take_their_good_examples_and_refuse_their_wrong_ones(kind):
    constraint = OF_ALL_KINDS[kind]
    for value in constraint.good:
        constraint("argument", value)
    assert constraint.wrong
    for value in constraint.wrong:
        with pytest.raises(PatchShapError, match=r"^argument: got .*; expected .*\."):
            constraint("argument", value)


def test_what_is_taken_comes_back_as_plain_python():
    assert type(whole(1)("n", np.int64(3))) is int
    assert type(finite()("x", np.float32(0.5))) is float
    assert type(one_of(1, 3)("channels", np.int64(3))) is int
    assert pair(whole(1))("size", np.int16(4)) == (4, 4)
    assert pair(whole(1))("size", [4, 5]) == (4, 5)
    assert list_of_names()("names", (name for name in "ab")) == ["a", "b"]
    assert maybe(whole(1))("n", None) is None
    assert ids()("mask", [[0.0, 2.0]]).dtype == np.int64


def test_numbers_of_any_length_are_refused_in_few_letters():
    with pytest.raises(PatchShapError, match="about 2\\*\\*"):
        whole(0, 9)("n", 10**6000)
    with pytest.raises(PatchShapError, match="about -2\\*\\*"):
        whole(0, 9)("n", -(10**6000))


def test_checked_functions_keep_their_signature_and_python_refuses_wrong_calls():
    @checked(b=whole(1))
    def function(a, b=1, *, c=2):
        """Say what came."""
        return a, b, c

    assert function(5, np.int64(2), c=3) == (5, 2, 3)
    assert function.__doc__ == "Say what came."
    assert inspect.getfullargspec(function).args == ["a", "b"]  # which shap's load asks
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'a'"):
        function()
    with pytest.raises(TypeError, match="unexpected keyword argument 'd'"):
        function(1, d=2)
    with pytest.raises(TypeError, match="no arguments"):
        checked(d=whole(1))(lambda a: a)


def test_constructors_show_their_parameters():
    assert "n_trees" in inspect.getfullargspec(OwenBPT.__init__).args
    assert "n_trees" in inspect.signature(OwenBPT).parameters


def test_checks_load_no_torch():
    file = _validation.__file__
    code = (
        "import importlib.util as u, sys, types\n"
        "package = types.ModuleType('p'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['p'] = package\n"
        "import p._validation\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, file.rsplit("/", 1)[0]], check=True)
