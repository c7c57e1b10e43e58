"""Sessions for contributors: pip install nox, then ``nox -l`` lists them, ``nox -s lint`` runs one.

``nox`` alone runs the quick ones: lint, types, tests.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The quick tests; arguments go to pytest."""
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """The slow tests, and the properties on more examples."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "slow or hypothesis", "--hypothesis-profile=full", *session.posargs)


@nox.session
def notebooks(session: nox.Session) -> None:
    """Every notebook, from the first cell to the last."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "notebook", "--dist", "load", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The examples of docstrings and the blocks of pages."""
    session.install("-e", ".[test]")
    session.run("pytest", "-m", "", "src", "tests/test_docs.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff, codespell, and the state of the notebooks."""
    session.install("ruff", "codespell")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("python", ".ci/notebooks", *session.posargs or _notebooks())


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session(venv_backend="uv", python="3.11")
def lowest(session: nox.Session) -> None:
    """The quick tests with the lowest versions that pyproject.toml allows."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    session.run("pytest", *session.posargs)


def _notebooks() -> list[str]:
    from pathlib import Path

    return sorted(str(path) for path in Path("notebooks").glob("*.ipynb"))
