"""Train a matcher from photographs, each lifted to 3D and seen by two cameras; or a part of one.

    l2m train decoder --photographs PHOTOS --minutes 60
    l2m train decoder --minutes 2                    a trial on rendered worlds (docs/training.md)
    l2m train depth --minutes 10                     a head that reads metres (docs/metric.md)
    l2m train metric --minutes 30                    the same, from relative poses (docs/metric.md)
    l2m train encoder --minutes 30                   features that agree in 3D (docs/encoder.md)
    l2m train align --pairs SCENE.ply --minutes 10   patches and Gaussians (docs/gaussians.md)
    torchrun --nproc-per-node 2 -m l2m_ros.commands.train decoder --photographs PHOTOS ...

The folder of the run (--out) receives checkpoint.pt, log.csv, validation.csv, curves.png and
TensorBoard's files. At the end OUT/model receives the mean weights, a model card and ONNX graphs;
every command takes that folder as a model. The same command resumes an interrupted
run from its folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from l2m_ros.commands.train_align import run_align
from l2m_ros.commands.train_decoder import run_decoder
from l2m_ros.commands.train_depth import run_depth
from l2m_ros.commands.train_encoder import add_encoder_arguments, run_encoder
from l2m_ros.commands.train_input import check_amounts, check_device
from l2m_ros.commands.train_metric import run_metric
from l2m_ros.errors import InvalidInput
from l2m_ros.files import check_input_folder, check_readable, is_bag
from l2m_ros.output_paths import check_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "stage", choices=["decoder", "metric", "depth", "encoder", "align"],
        help="decoder: a matcher; depth: a head that reads metres off lite's features; metric: "
        "such a head, from relative poses; encoder: features that agree in 3D; align: a head that "
        "knows a Gaussian from every view",
    )  # fmt: skip
    parser.add_argument(
        "--sequences", type=Path, metavar="DIR",
        help="metric: posed recordings to learn from, bags too; depth: RGB-D recordings",
    )  # fmt: skip
    parser.add_argument(
        "--measure", type=Path, metavar="DIR",
        help="depth: recordings that the sigmas are measured on; align: a scene of Gaussians",
    )  # fmt: skip
    parser.add_argument(
        "--photographs",
        type=Path,
        metavar="DIR",
        help="a folder, with its subfolders; or a zip or tar",
    )
    parser.add_argument(
        "--model", default="lite",
        help="decoder: the architecture: lite (default) or l2m; "
        "encoder: lite, xfeat or LABEL=FILE",
    )  # fmt: skip
    parser.add_argument(
        "--config", type=Path, help="YAML of settings (default config/train/<model>.yaml)"
    )
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/<model>)")
    parser.add_argument("--minutes", type=float, help="how long to train; or give --steps")
    parser.add_argument("--steps", type=int, help="how many steps to train")
    parser.add_argument("--seed", type=int, help="of weights and pairs")
    parser.add_argument("--device", help="cpu (default) or cuda")
    parser.add_argument("--start", type=Path, metavar="CHECKPOINT", help="weights to start from")
    parser.add_argument(
        "--xfeat", type=Path, metavar="FILE",
        help="lite: XFeat's published weights as eyes (default: the eyes of the lite that ships)",
    )  # fmt: skip
    parser.add_argument(
        "--carry", type=Path, metavar="FILE", help="go on from another run: its carry.safetensors"
    )
    parser.add_argument("--scenes", type=Path, metavar="DIR", help="real scenes to validate on")
    parser.add_argument(
        "--pairs", type=Path, action="append", default=[], metavar="DIR|SCENE.ply",
        help="shards of l2m lift or l2m splat pairs, scenes with depth and poses (l2m simulate), "
        "or a scene of Gaussians to draw from; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--pairs-share",
        type=float,
        default=0.5,
        help="share of the pairs that come from --pairs, beside --photographs (default 0.5)",
    )
    parser.add_argument(
        "--taught-share",
        type=float,
        default=0.2,
        metavar="S",
        help="share of l2m teach's pairs among all --pairs (default 0.2)",
    )
    parser.add_argument(
        "--camera-height", type=float, metavar="M",
        help="metric: of one robot's camera above the floor; worlds are then seen from there alone",
    )  # fmt: skip
    parser.add_argument(
        "--camera-pitch", type=float, metavar="DEG", help="metric: of that camera, up (default 0)"
    )
    parser.add_argument(
        "--align", type=Path, metavar="HEAD",
        help="lite: join the frozen head that l2m train align made",
    )  # fmt: skip
    add_encoder_arguments(parser)


# What an option is for; in vain it would say that something was learnt from which was not read.
STAGES_OF = {
    "sequences": ("metric", "depth"),
    "measure": ("metric", "depth", "align"),
    "photographs": ("decoder", "depth", "encoder"),
    "model": ("decoder", "encoder", "align"),
    "start": ("decoder", "metric", "depth"),
    "pairs": ("decoder", "metric", "depth", "align"),
    **dict.fromkeys(("xfeat", "carry", "scenes", "align"), ("decoder",)),
    **dict.fromkeys(("camera_height", "camera_pitch"), ("metric",)),
    **dict.fromkeys(("depth", "depth_model"), ("encoder",)),
}


def _refuse_unused(args: argparse.Namespace) -> None:
    for name, stages in STAGES_OF.items():
        if args.stage not in stages and getattr(args, name) not in (None, [], "lite"):
            raise InvalidInput(
                f"--{name.replace('_', '-')} is for l2m train {' and '.join(stages)}: "
                f"{args.stage} does not read it, leave it out"
            )


def run(args: argparse.Namespace) -> int:
    _refuse_unused(args)
    given = [args.sequences, args.measure, args.photographs, args.scenes, args.depth, args.align]
    read = [*given, *args.pairs]
    check_outputs([], read, [args.out])
    check_amounts(args)
    for file in (args.start, args.xfeat, args.carry, args.depth_model, args.align):
        check_readable(file)
    scene = args.measure if args.stage == "align" else None
    check_readable(scene)
    recordings = None if scene else args.measure
    bag = args.stage == "metric" and args.sequences is not None and is_bag(args.sequences)
    sequences = None if bag else args.sequences
    for folder in (sequences, recordings, args.scenes, args.depth):
        check_input_folder(folder)
    if args.stage == "decoder":
        return run_decoder(args)  # its config may name the device
    check_device(args.device or "cpu")
    if args.stage == "metric":
        return run_metric(args, args.config)
    if args.stage == "encoder":
        return run_encoder(args)
    if args.stage == "align":
        return run_align(args)
    return run_depth(args, args.config)


if __name__ == "__main__":
    from l2m_ros.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
