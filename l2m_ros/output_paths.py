"""Where an output may be written: asked before the work begins.

refuse_overwriting   no output destroys an input
refuse_existing      earlier work is kept, unless by --force
check_outputs        files and folders can be written, and no input is destroyed
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from l2m_ros.errors import InvalidInput


def refuse_existing(*targets: Path | None, force: bool, remedy: str = "--force") -> None:
    """Earlier work is kept: a target that holds something is refused, or may go by force."""
    for target in targets:
        check_writable(target)
        if target is not None and not force and _holds_something(target):
            raise InvalidInput(f"{target} exists already: name another output or add {remedy}")


def _holds_something(path: Path) -> bool:
    """Not what mktemp makes, and no folder that is waiting to be filled."""
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0


def refuse_overwriting(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """No output may be an input, lie inside one, or hold one: it would be destroyed."""
    read = [path.resolve() for path in inputs if path is not None]
    for output in outputs:
        if output is None:
            continue
        written = output.resolve()
        for path in read:
            inner = written.parents if path.is_dir() else ()
            if written == path or written in path.parents or path in inner:
                raise InvalidInput(f"{output} would overwrite the input {path}: name another one")


def check_outputs(
    outputs: Iterable[Path | None],
    inputs: Iterable[Path | None],
    folders: Iterable[Path | None] = (),
) -> None:
    """Before the work begins: every output can be written, and none destroys an input.

    outputs: files. folders: outputs that files are added to; they may hold an input.
    """
    outputs, inputs, folders = list(outputs), list(inputs), list(folders)
    refuse_overwriting(outputs, inputs)
    holders = {path for one in inputs if one is not None for path in one.resolve().parents}
    refuse_overwriting([f for f in folders if f is None or f.resolve() not in holders], inputs)
    for output in outputs:
        check_file(output)
    for folder in folders:
        check_folder(folder)


def check_file(output: Path | None) -> None:
    """Before hours of work: a file of this name can be written."""
    if output is not None and output.is_dir():
        raise InvalidInput(f"{output} is a folder: name a file to write")
    check_writable(output)


def check_folder(output: Path | None) -> None:
    """Before hours of work: files can be written into this folder, which may not be there yet."""
    if output is not None and output.is_file():
        raise InvalidInput(f"{output} is a file: name a folder to write into")
    check_writable(output)
    if output is not None and output.is_dir() and not os.access(output, os.W_OK):
        raise InvalidInput(f"{output} cannot be written into: name another folder")


def check_writable(output: Path | None) -> None:
    """Before hours of work: the folder can be made and written."""
    if output is None:
        return
    _refuse_special(output)
    folder = output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InvalidInput(f"{output} cannot be written: {folder} is not a folder to write into")


def _refuse_special(path: Path) -> None:
    """A file renamed over /dev/null would take its place, for every program of the machine."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InvalidInput(f"{path} is a pipe or a device: name a file")
