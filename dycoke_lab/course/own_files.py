"""Method classes from a folder of files, one in each."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path

from dycoke_lab.methods import METHODS, Method


def methods_in(folder: Path) -> tuple[dict[str, type[Method]], dict[str, str]]:
    """Run each .py file of a folder, in order of their names, and return two dicts by the files' names:
    the method class that each has, and why there is none. Files whose names begin with "_" are left out.

    Raises FileNotFoundError for a folder without such files.
    """
    paths = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .py files: give a folder with one method class in each")
    found: dict[str, type[Method]] = {}
    wrong: dict[str, str] = {}
    for path in paths:
        known = dict(METHODS)
        try:
            found[path.stem] = method_in(path)
        except (Exception, SystemExit) as error:  # of any kind: it is the file's
            wrong[path.stem] = said(error)
        finally:  # a file may put its method there, or in place of another
            METHODS.clear()
            METHODS.update(known)
    return found, wrong


def method_in(path: Path) -> type[Method]:
    """Return the one method class that a file defines. Raises ValueError if there is none, or several,
    and what the file raises."""
    name = f"own_methods.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == name
        and not inspect.isabstract(value)
        and not value.__name__.startswith("_")
    ]
    if len(classes) != 1:
        names = ", ".join(kind.__name__ for kind in classes) or "none"
        raise ValueError(f"it must define one method class (Selector or PrefillReducer), not {names}")
    return classes[0]


def said(error: BaseException) -> str:
    """Return an error in one line."""
    return " ".join(f"raises {type(error).__name__}: {error}".split())
