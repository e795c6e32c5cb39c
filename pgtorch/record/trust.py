"""Which modules a run's folder may import: those that the caller has imported, allowed or installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Collection
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from pathlib import Path

from pgtorch.environment.build import import_named


class UntrustedModuleError(ImportError):
    """A run's folder names a module that is not trusted; it was not imported."""


def require_trusted(name: str, folder: Path, allow_import: Collection[str] = ()) -> None:
    """Check the module of an environment id or a policy before it is imported for a folder that may not be trusted.

    Args:
        name: `module:Id` or `module:Class`; without a colon nothing is imported or checked.
        folder: The folder of the run.
        allow_import: Modules that the caller allows.

    Raises:
        UntrustedModuleError: If the module is neither imported already, nor allowed, nor installed outside the current
            folder and the run's.
    """
    module, colon, _ = name.rpartition(":")
    top = module.partition(".")[0]
    if not colon or module in allow_import or top in allow_import or module in sys.modules:
        return
    if not _is_installed(module, folder):
        raise UntrustedModuleError(
            f"{str(folder)!r} names the module {module!r}, which is not installed and not imported: to run its code, "
            f"import it first, or allow it with --allow-import {module} (allow_import=[{module!r}])"
        )


def import_allowed(allow_import: Collection[str]) -> None:
    """Import the modules that the caller allows: one of them may register the environment of the run.

    Raises:
        ImportError: If there is no such module. The module itself may raise anything.
    """
    for module in allow_import:
        import_named(module)


def _is_installed(module: str, folder: Path) -> bool:
    """Whether the module that would be imported is also found without the current folder and the run's."""
    top = module.partition(".")[0]
    before, here, folder = sys.path, Path.cwd().resolve(), folder.resolve()
    paths = [(entry, Path(entry).resolve()) for entry in before if entry]
    trusted_path = [entry for entry, path in paths if path != here and not path.is_relative_to(folder)]
    try:
        found = _origin(module)
        sys.path = trusted_path
        trusted, trusted_top = _origin(module), importlib.util.find_spec(top)
    except (ImportError, ValueError, KeyError):  # not the name of a module, or one inside a namespace package
        return False
    finally:
        sys.path = before
    if trusted_top is None:  # installed from the current folder, in development mode
        return any(
            top in (installed.read_text("top_level.txt") or "").split()
            for installed in distributions(path=trusted_path)
        )
    return found is not None and found == trusted


def _origin(module: str) -> str | None:
    """The file of a module that may be in a package, found without running any code; None if there is none.

    A namespace package has parts in several folders, so its name alone says nothing about a module in it.
    """
    top, *inner = module.split(".")
    spec, name = importlib.util.find_spec(top), top
    for part in inner:
        name = f"{name}.{part}"
        spec = spec and PathFinder.find_spec(name, list(spec.submodule_search_locations or ()))
    return spec.origin if spec else None
