"""What the stages of `l2m train` have in common: settings, photographs, the device, words."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_yaml

HELD_OUT_SEED = 900  # of the worlds that are only measured on


def unpacked(photographs: Path | None, folder: Path) -> Path | None:
    """A folder of photographs; an archive is unpacked beside the run, once."""
    if photographs is None or not photographs.is_file():
        return photographs
    name = photographs.name.lower()
    if not name.endswith((".zip", ".tar", ".tar.gz", ".tgz")):
        return photographs
    out = folder / "photographs"
    if not out.is_dir():
        import shutil

        partial = folder / "photographs.partial"
        if name.endswith(".zip"):
            shutil.unpack_archive(photographs, partial)
        else:
            _unpack_tar(photographs, partial)
        partial.rename(out)
    return out


def _unpack_tar(archive: Path, folder: Path) -> None:
    """Nothing outside of the folder, no links, no devices; filters came with Python 3.11.4."""
    import tarfile

    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            plain = member.isfile() or member.isdir()
            if not plain or path.is_absolute() or ".." in path.parts:
                raise InvalidInput(f"{archive}: {member.name} is no plain file inside of a folder")
        safe: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(folder, **safe)


def config_folder() -> Path:
    """config/train of the checkout, or of the installed package."""
    checkout = Path(__file__).resolve().parents[2] / "config" / "train"
    installed = Path(sys.prefix) / "share" / "l2m_ros" / "config" / "train"
    return checkout if checkout.is_dir() else installed


def check_amounts(args: argparse.Namespace) -> None:
    """Before worlds are rendered for minutes: the numbers of the command line can be."""
    if args.minutes is not None and not 0 < args.minutes < math.inf:
        raise InvalidInput(f"training needs a positive number of minutes, got {args.minutes}")
    if args.steps is not None and args.steps < 1:
        raise InvalidInput(f"training needs a positive number of steps, got {args.steps}")
    if args.seed is not None and not 0 <= args.seed < 2**31:
        raise InvalidInput(f"seed {args.seed}: it lies from 0 to {2**31 - 1}")
    if not 0 <= args.pairs_share <= 1:
        raise InvalidInput(f"--pairs-share {args.pairs_share}: it lies from 0 to 1")
    if not 0 < args.taught_share < math.inf:
        raise InvalidInput(f"--taught-share {args.taught_share}: it is more than 0")


def settings_of(path: Path) -> dict[str, Any]:
    try:
        settings = read_yaml(path)
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in config_folder().glob("*.yaml")))
        raise InvalidInput(f"{path}: no such config (there are: {known})") from error
    if not isinstance(settings, dict):
        raise InvalidInput(f"{path}: expected names and values")
    return settings


def loop_settings(args: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """The config's `loop`, with what the command line says instead."""
    loop = dict(settings.get("loop") or {})
    if args.minutes is not None or args.steps is not None:
        loop = {k: v for k, v in loop.items() if k not in ("minutes", "steps")}
    given = {name: getattr(args, name) for name in ("minutes", "steps", "seed", "device")}
    return loop | {name: value for name, value in given.items() if value is not None}


def check_device(device: str) -> None:
    """Refuse a GPU that is not there; take this process' own before anything is put on it."""
    import torch

    from l2m_ros.workshop.training.processes import take_device

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidInput(f"device {device}: this torch sees no GPU; use --device cpu")
    take_device(device)


def split(found: list[Path]) -> tuple[list[Any], list[Any]]:
    """(to train on, held out) photographs; a single one is cut in two."""
    from l2m_ros.workshop.lifting.photographs import read_photograph
    from l2m_ros.workshop.training.decoder import halves, split_photographs

    if len(found) > 1:
        return split_photographs(found)
    kept, held_out = halves(read_photograph(found[0], longest_side=2048))
    return [kept], [held_out]


def rendered_images(frames: int, world: int) -> list[Any]:
    """Images of the simulator's worlds: enough to try the training, not to ship its result."""
    from l2m_ros.progress import track
    from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

    images = []
    for scene in ("room", "corridor", "yard"):
        options = SimulationOptions(
            scene=scene, frames=frames, rate_hz=1.0, stereo=False, seed=world, scene_seed=world
        )
        seen = track(simulate(options), f"rendering {scene}", total=frames)
        images += [frame.frame.rgb for frame in seen]
    return images


def say(words: str) -> None:
    print(f"l2m train: {words}", file=sys.stderr, flush=True)
