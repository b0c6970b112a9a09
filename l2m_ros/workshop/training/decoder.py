"""Stage 2, matching: a network, lifted pairs, the loss, the loop, put together in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.checkpoint import load_state, read_state, torch_tensors
from l2m_ros.spelling import nearest
from l2m_ros.types import ByteArray
from l2m_ros.workshop.training import checkpoint
from l2m_ros.workshop.training.carry import begin_from
from l2m_ros.workshop.training.data import Batch, Batches, PairMaker, Schedule, SizeShare
from l2m_ros.workshop.training.loop import LoopOptions, LossOf, Run, Validate, train
from l2m_ros.workshop.training.losses import LossOptions, matcher_loss
from l2m_ros.workshop.training.processes import Processes
from l2m_ros.workshop.training.rolled import RolledBatches, RollShare, check_shares
from l2m_ros.workshop.training.validation import LiftedValidation

T = TypeVar("T")


@dataclass(frozen=True)
class DecoderOptions:
    """A training of the matching stage; a config file gives any of these by name."""

    model: str = "lite"
    network: Mapping[str, Any] = field(default_factory=dict)  # the architecture's configuration
    sizes: tuple[SizeShare, ...] = (SizeShare(320, 256, 8, 1.0),)
    validation: tuple[tuple[int, int, int], ...] = ((320, 256, 24), (640, 480, 12))
    both_ways: bool = True  # every pair is matched in both directions
    rolls: tuple[RollShare, ...] = ()  # shares of the pairs whose query is rolled, and how far
    pairs_on_device: bool = False  # made by torch where the network is; on a GPU always
    steps_a_draw: int = 1  # steps that share one draw of pairs made on the device
    start: Path | None = None  # a checkpoint whose mean weights to begin with
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(steps=1))
    loss: LossOptions = field(default_factory=LossOptions)

    def __post_init__(self) -> None:
        if self.model not in LEVELS:
            raise InvalidInput(
                f"model {self.model!r} cannot be trained here (known: {', '.join(LEVELS)})"
            )
        check_shares(self.rolls)


def options_from(settings: Mapping[str, Any]) -> DecoderOptions:
    """The options of a parsed config file; unknown names fail with the nearest right one."""
    settings = dict(settings)
    _check_names(DecoderOptions, settings, "the config")
    parts = {
        "loop": filled(LoopOptions, settings.pop("loop", {}), "loop"),
        "loss": filled(LossOptions, settings.pop("loss", {}), "loss"),
    }
    sizes = settings.pop("sizes", None)
    if sizes is not None:
        parts["sizes"] = tuple(filled(SizeShare, size, "sizes") for size in sizes)
    if "rolls" in settings:
        rolls = settings.pop("rolls") or ()
        parts["rolls"] = tuple(filled(RollShare, roll, "rolls") for roll in rolls)
    if "validation" in settings:
        settings["validation"] = tuple(tuple(size) for size in settings["validation"])
    return filled(DecoderOptions, {**settings, **parts}, "the config")


def _check_names(kind: type, values: Any, where: str) -> None:
    known = {entry.name for entry in fields(kind)}
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{where}: expected names and values, got {values!r}")
    for name in values:
        if name not in known:
            hint = nearest(str(name), known) or f"; known: {', '.join(sorted(known))}"
            raise InvalidInput(f"{where}: unknown option {name!r}{hint}")


def filled(kind: type, values: Mapping[str, Any], where: str) -> Any:
    _check_names(kind, values, where)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{where}: {error}") from error


def encoded(model: nn.Module, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features of the queries and of the keyframes, every image through the encoder once."""
    count, matches = len(batch.query), len(batch.warp_px)
    features = model.encode(torch.cat([batch.query, batch.keyframe]))
    query = {name: value[:matches] for name, value in features.items()}
    keyframe = {name: value.roll(-count, 0)[:matches] for name, value in features.items()}
    return query, keyframe


def lite_levels(model: nn.Module, batch: Batch) -> list[dict[str, Tensor]]:
    """The global correlation, the same under its prior, then the refiners at 1/8 and 1/4."""
    query, keyframe = encoded(model, batch)
    levels: list[dict[str, Tensor]] = model.match_levels(query, model.reference(keyframe))
    return levels


def l2m_levels(model: nn.Module, batch: Batch) -> list[dict[str, Tensor]]:
    """The classifier's answer, then the refiners from stride 16 to 1."""
    query, keyframe = encoded(model, batch)
    reference = model.reference(keyframe)
    coarse = model.coarse(query, reference)
    refined = model.refined_from(coarse, query, reference)
    first = {"warp": coarse.flow, "anchors": coarse.logits, "certainty": coarse.certainty}
    return [first, *({"warp": level.flow, "certainty": level.certainty} for level in refined)]


LEVELS = {"lite": lite_levels, "l2m": l2m_levels}


def match_of(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The network's three steps, as everybody else calls them."""
    reference = model.reference(model.encode(batch.keyframe))
    match: dict[str, Tensor] = model.match(model.encode(batch.query), reference)
    return match


def train_decoder(
    options: DecoderOptions,
    network: nn.Module,
    pairs: PairMaker | Schedule,
    held_out: PairMaker,
    folder: Path,
    scenes: Validate | None = None,
    carry: Path | None = None,
) -> bool:
    """Train `network` on `pairs`; figures of `held_out` pairs and of `scenes` on the way.

    True in the process that wrote the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Processes.joined(options.loop.device) as processes:
        batches = pairs
        if not isinstance(batches, Schedule):
            batches = Batches(batches, options.sizes, options.loop.seed, options.both_ways)
        if options.rolls:
            batches = RolledBatches(batches, options.rolls)
        run = Run(network, _loss_of(options), batches, options.loop, processes)
        if carry is not None and processes.leads:
            begin_from(carry, folder, run.optimizer.state_dict()["param_groups"])
        processes.wait()
        lifted = LiftedValidation(
            held_out, match_of, options.validation, device=options.loop.device
        )

        def validate(model: nn.Module) -> dict[str, float]:
            return {**lifted(model), **(scenes(model) if scenes is not None else {})}

        train(run, folder, validate)
        return processes.leads


def _loss_of(options: DecoderOptions) -> LossOf:
    levels_of = LEVELS[options.model]

    def loss_of(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        levels = levels_of(model, batch)
        return matcher_loss(levels, batch.warp_px, batch.visible, batch.ignored, options.loss)

    return loss_of


def begin_with(network: nn.Module, path: Path, may_lack: Iterable[str] = ()) -> bool:
    """The mean weights of another run's checkpoint, or any file of weights: .safetensors, a bare
    state_dict. It may lack all of `may_lack`, which keep the network's values; whether it does."""
    if not path.is_file():
        raise InvalidInput(f"{path}: no such checkpoint to start from")
    state = None if path.suffix == ".safetensors" else torch_tensors(path)
    if isinstance(state, dict) and {*checkpoint.PARTS} <= set(state):
        weights = {**state["model"], **state["ema"]}
        weights.pop("steps", None)
        load = checkpoint.load_weights
    else:
        weights, load = dict(read_state(path)), load_state
    names = set(may_lack)
    lacks = not names & set(weights)
    own = {n: value for n, value in network.state_dict().items() if n in names} if lacks else {}
    load(network, own | weights, str(path))
    return lacks


def mean_weights(folder: Path) -> dict[str, Tensor]:
    """The weights that a run would ship."""
    state = checkpoint.load(folder)
    if state is None:
        raise InvalidInput(f"{folder}: holds no {checkpoint.NAME}: train first")
    checkpoint.require_parts(state, str(folder / checkpoint.NAME))
    means = {name: value for name, value in state["ema"].items() if name != "steps"}
    return {**state["model"], **means}  # whole numbers have no mean


def split_photographs(paths: Sequence[T], every: int = 20) -> tuple[list[T], list[T]]:
    """(to train on, held out): every twentieth, so that all folders are in both.

    Of fewer than twenty one is held out; a single one cannot be split (`halves` can).
    """
    if len(paths) < 2:
        raise InvalidInput("training and measuring take two photographs at least")
    every = min(every, len(paths))
    kept = [path for index, path in enumerate(paths) if index % every]
    return kept, list(paths[::every])


def halves(rgb: ByteArray) -> tuple[ByteArray, ByteArray]:
    """A single photograph cut across its longer side: one half to train on, one held out."""
    height, width = rgb.shape[:2]
    if width >= height:
        return rgb[:, : width // 2], rgb[:, width // 2 :]
    return rgb[: height // 2], rgb[height // 2 :]
