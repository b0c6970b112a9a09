"""Train a matcher from a folder of photographs.

    l2m train decoder --photographs PHOTOS --minutes 30 --out runs/lite
    torchrun --nproc-per-node 2 -m l2m_ros.commands.train decoder ...   several processes

The same command resumes a run that was interrupted: by its folder's checkpoint.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from l2m_ros.errors import InvalidInput

CONFIGS = Path(__file__).resolve().parents[2] / "config" / "train"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("stage", choices=["decoder"], help="decoder: the matching stage")
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR")
    parser.add_argument("--config", type=Path, help="YAML; the default is that of --model")
    parser.add_argument("--model", default="lite", help="lite (default) or l2m")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/<model>)")
    parser.add_argument("--minutes", type=float, help="training time")
    parser.add_argument("--steps", type=int, help="or the number of steps")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--start", type=Path, help="a checkpoint.pt to begin with")
    parser.add_argument("--scenes", type=Path, help="real scenes to validate on during training")


def run(args: argparse.Namespace) -> int:
    from l2m_ros.lifting.photographs import find_photographs
    from l2m_ros.training.data import PhotographPairs
    from l2m_ros.training.decoder import split_photographs, train_decoder

    options = _options(args)
    kept, held_out = split_photographs(find_photographs(args.photographs))
    folder = args.out or Path("runs") / options.model
    network = _network(options)
    train_decoder(
        options,
        network,
        PhotographPairs(kept, options.loop.seed),
        PhotographPairs(held_out, seed=999),
        folder,
        _scenes(args.scenes),
    )
    print(folder)
    return 0


def _options(args: argparse.Namespace) -> Any:
    import yaml

    from l2m_ros.training.decoder import options_from

    path = args.config or CONFIGS / f"{args.model}.yaml"
    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise InvalidInput(f"{path}: no such config: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    loop = dict(settings.get("loop") or {})
    if args.minutes is not None or args.steps is not None:
        loop.pop("minutes", None)
        loop.pop("steps", None)
    for name in ("minutes", "steps", "seed", "device"):
        if getattr(args, name) is not None:
            loop[name] = getattr(args, name)
    return replace(options_from({**settings, "loop": loop}), start=args.start)


def _network(options: Any) -> Any:
    import torch

    from l2m_ros.network.lite import build_lite

    torch.manual_seed(options.loop.seed)
    return build_lite(**options.network)


def _scenes(folder: Path | None) -> Any:
    return None


if __name__ == "__main__":
    import sys

    from l2m_ros.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
