"""`l2m train encoder`: an encoder learns to see in 3D, from photographs alone (L2M's stage 1).

    l2m train encoder --photographs PHOTOS --minutes 30                   lite's encoder
    l2m train encoder --model xfeat --photographs PHOTOS --depth DEPTHS   XFeat's, with known depth
    l2m train encoder --model dinov2=FILE --photographs PHOTOS --device cuda
    l2m train encoder --minutes 2                                         a trial on rendered worlds

Without --minutes and --steps every photograph is seen once. The folder of the run (--out) gets
checkpoint.pt, log.csv, validation.csv, the weights (matcher.safetensors, xfeat.pt or
vit.safetensors) and encoder.json with the figures before and after.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2m_ros.errors import InvalidInput

if TYPE_CHECKING:
    from torch import nn

    from l2m_ros.workshop.encoder.nearest import ViewChange
    from l2m_ros.workshop.encoder.patch_encoders import PatchEncoder
    from l2m_ros.workshop.encoder.photographs import Photograph
    from l2m_ros.workshop.encoder.stage import EncoderOptions
    from l2m_ros.workshop.lifting.depth import DepthSource

MEASURED = 24  # held-out photographs at most
RENDERED_FRAMES, HELD_OUT_FRAMES = 16, 6  # of each world
HFOV_DEG = 70.0
SIZE_TO_MEASURE = (320, 256)
FRAME_PX = (480, 360)


@dataclass(frozen=True, eq=False)
class Material:
    """What is learnt from and what is measured on."""

    photographs: list[Photograph]
    held_out: list[Photograph]
    depth: DepthSource
    indoors: bool = False  # no sky is looked for
    field_of_view_deg: tuple[float, float] | None = None  # where the camera is known


def add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--depth", type=Path, metavar="DIR",
        help="encoder: depth maps with the photographs' paths (default: made-up depth)",
    )  # fmt: skip
    parser.add_argument(
        "--depth-model", type=Path, metavar="FILE.onnx",
        help="encoder: a monocular network that gives disparity",
    )  # fmt: skip


def run_encoder(args: argparse.Namespace) -> int:
    from l2m_ros.workshop.encoder.patch_encoders import features_of, load_encoder
    from l2m_ros.workshop.encoder.stage import FeatureLifting, train_encoder
    from l2m_ros.workshop.gaussians.choice import load_rasterizer
    from l2m_ros.workshop.lifting.sky import no_sky, sky_by_rule

    encoder = load_encoder(args.model)
    folder = args.out or Path("runs") / f"encoder-{encoder.label}"
    material = _material(args, folder)
    options = _options(args, encoder, material)
    changes = _changes(material, encoder)

    measured: list[dict[str, float]] = []

    def validate(model: nn.Module) -> dict[str, float]:
        found = _figures(lambda rgb: features_of(model, rgb), changes)  # type: ignore[arg-type]
        measured.append(found)
        return found

    encoder.to(options.loop.device)
    before = validate(encoder)
    if options.method == "contrast":
        from l2m_ros.workshop.encoder.pair_contrast import contrast_pairs, pair_contrast_loss

        if args.depth or args.depth_model:
            raise InvalidInput("method contrast makes up its depth: leave --depth out")
        pairs = contrast_pairs([p.image for p in material.photographs], options)
        run = train_encoder(options, encoder, pairs, folder, validate, pair_contrast_loss)
    else:
        sky = no_sky if material.indoors else sky_by_rule
        batches = FeatureLifting(
            material.photographs, encoder, load_rasterizer("cpu"), options, material.depth, sky
        )
        run = train_encoder(options, encoder, batches, folder, validate)  # the last thing it does
        for name, reason in batches.skipped.items():
            say(f"left out: {name}: {reason}")
    if run.processes.leads:
        path = _write(folder, args.model, encoder, options, before, measured[-1])
        print(path)
    return 0


def _options(args: argparse.Namespace, encoder: PatchEncoder, material: Material) -> EncoderOptions:
    """The config file's, with what the command line says instead."""
    from l2m_ros.commands.train_input import config_folder, loop_settings, settings_of
    from l2m_ros.workshop.encoder.stage import options_from
    from l2m_ros.workshop.training.processes import local_device

    settings = settings_of(args.config or config_folder() / "encoder.yaml")
    loop = {"learning_rate": encoder.learning_rate, **loop_settings(args, settings)}
    if not {"minutes", "steps"} & set(loop):  # one pass
        each = int(settings.get("photographs_per_step", 2))
        loop["steps"] = math.ceil(len(material.photographs) / each)
    options = options_from({**settings, "loop": loop})
    views, multiple = options.views, encoder.multiple
    width, height = (max(1, s // multiple) * multiple for s in (views.width, views.height))
    views = replace(views, width=width, height=height)
    if material.field_of_view_deg is not None:
        views = replace(views, field_of_view_deg=material.field_of_view_deg)
    device = local_device(options.loop.device)
    return replace(options, views=views, loop=replace(options.loop, device=device))


def _material(args: argparse.Namespace, folder: Path) -> Material:
    from l2m_ros.commands.train_input import split, unpacked
    from l2m_ros.workshop.encoder.photographs import Photograph, photographs_of
    from l2m_ros.workshop.lifting import depth
    from l2m_ros.workshop.lifting.photographs import find_photographs
    from l2m_ros.workshop.training.data import usable_photographs

    if args.photographs is None:
        if args.depth or args.depth_model:
            raise InvalidInput("--depth and --depth-model go with --photographs")
        return _rendered()
    source: DepthSource = depth.ProceduralDepth()
    if args.depth is not None:
        source = depth.DepthFiles(args.depth)
    elif args.depth_model is not None:
        source = depth.MonocularDepth(args.depth_model)
    photographs = unpacked(args.photographs, folder)
    found = usable_photographs(find_photographs(photographs), say)
    kept, held_out = split(found)
    if len(found) == 1:
        named = [[Photograph(found[0].name, half)] for half in (kept[0], held_out[0])]
        return Material(named[0], named[1], source)
    return Material(
        photographs_of(photographs, kept), photographs_of(photographs, held_out), source
    )


def _rendered() -> Material:
    """Frames of rendered worlds with their true depth; held out: frames of other worlds."""
    from l2m_ros.commands.train_input import HELD_OUT_SEED
    from l2m_ros.progress import track
    from l2m_ros.workshop.encoder.photographs import KnownDepth, Photograph
    from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

    say("no --photographs: rendered worlds with their true depth, good for a trial only")
    depths: dict[str, Any] = {}
    sets: list[list[Photograph]] = [[], []]
    for chosen, seed, count in ((0, 0, RENDERED_FRAMES), (1, HELD_OUT_SEED, HELD_OUT_FRAMES)):
        for scene in ("room", "corridor", "yard"):
            options = SimulationOptions(
                scene=scene, frames=count, rate_hz=1.0, stereo=False, seed=seed, scene_seed=seed,
                width=FRAME_PX[0], height=FRAME_PX[1], hfov_deg=HFOV_DEG,
            )  # fmt: skip
            for index, one in enumerate(track(simulate(options), f"rendering {scene}", count)):
                name = f"{scene}-{seed}-{index}"
                depths[name] = one.frame.depth
                sets[chosen].append(Photograph(name, one.frame.rgb))
    return Material(*sets, KnownDepth(depths), indoors=True, field_of_view_deg=(HFOV_DEG,) * 2)


def _changes(material: Material, encoder: PatchEncoder) -> dict[float, list[ViewChange]]:
    """Held-out photographs seen from 10, 30 and 60 degrees aside."""
    from l2m_ros.workshop.encoder.nearest import ANGLES_DEG, lifted_changes

    few = material.held_out[:: max(1, len(material.held_out) // MEASURED)][:MEASURED]
    size = [max(1, s // encoder.multiple) * encoder.multiple for s in SIZE_TO_MEASURE]
    return {
        angle: list(lifted_changes(few, angle, (size[0], size[1]), depth=material.depth))
        for angle in ANGLES_DEG
    }


def _figures(features: Any, changes: dict[float, list[ViewChange]]) -> dict[str, float]:
    from l2m_ros.workshop.encoder.nearest import nearest_shares

    return {
        f"{name}_{angle:g}deg": round(value, 2)
        for angle, some in changes.items()
        for name, value in nearest_shares(features, some).percent().items()
    }


def _write(
    folder: Path,
    source: str,
    encoder: PatchEncoder,
    options: EncoderOptions,
    before: dict[str, float],
    after: dict[str, float],
) -> Path:
    """Weights as other commands read them, and what was measured."""
    import torch

    from l2m_ros.files import whole_file, write_whole
    from l2m_ros.networks.checkpoint import save_tensors

    state = {name: value.cpu().contiguous() for name, value in encoder.state_to_ship().items()}
    path = folder / encoder.file_name
    if path.suffix == ".pt":
        with whole_file(path) as partial:
            torch.save(state, partial)
    else:
        save_tensors(path, state)
    report = {"from": source, "before": before, "after": after, "options": asdict(options)}
    write_whole(folder / "encoder.json", json.dumps(report, indent=1).encode())
    for name, value in before.items():
        change = 100.0 * (after[name] / value - 1.0) if value else math.nan
        say(f"{name}: {value:.1f} % -> {after[name]:.1f} % ({change:+.1f} % relative)")
    return path


def say(words: str) -> None:
    print(f"l2m train: {words}", file=sys.stderr, flush=True)
