"""`l2m splat build`: posed images become a scene of Gaussians.

    load images -> first Gaussians -> a tenth of the fit, photometric
                -> the rest with regularisers    (NAME.ply)
                -> the rest without regularisers (NAME.plain.ply, to compare with), as many steps

The state is stored every minute; the same command goes on where a run ended.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.progress import progress
from l2m_ros.workshop.gaussians.captures import Capture, Captures, HoldOut
from l2m_ros.workshop.gaussians.choice import load_rasterizer
from l2m_ros.workshop.gaussians.covering import points_in_holes
from l2m_ros.workshop.gaussians.fit import Fit, FitOptions, psnr_on
from l2m_ros.workshop.gaussians.initial import (
    MATCH_PX,
    Points,
    depth_from_matches,
    gaussians_on,
    joined,
    points_from_depth,
    points_from_matches,
)
from l2m_ros.workshop.gaussians.model import Gaussians
from l2m_ros.workshop.gaussians.ply import write_ply
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer
from l2m_ros.workshop.gaussians.record import plain_path, resume_path, write_record
from l2m_ros.workshop.gaussians.sources import load_captures
from l2m_ros.workshop.training.checkpoint import load, save

STORE_EVERY_S = 60.0
FIRST_SHARE = 0.5  # of the Gaussians that a scene may have, at the start
HOLE_SHARE = 0.1
LEAST_TRAINING = 2
LEAST_DEPTH_SHARE = 0.5  # of the views that must have depth for it to be used


@dataclass(frozen=True)
class BuildOptions:
    """What is built; `minutes` (of everything after matching) or `fit.steps`, whichever is less."""

    longest_px: int = 320
    views: int = 200
    hold_out: HoldOut = field(default_factory=HoldOut)
    minutes: float | None = None
    use_depth: bool = True
    matcher: str = "lite"
    sh_degree: int = 1
    plain: bool = True  # also fit without regularisers, to compare with
    rasterizer: str = "auto"
    fit: FitOptions = field(default_factory=FitOptions)

    def __post_init__(self) -> None:
        if self.longest_px < 32 or self.views < 3 or not 0 <= self.sh_degree <= 3:
            raise InvalidInput(
                "images need 32 px at least, a scene 3 views, a colour a degree from 0 to 3; got "
                f"{self.longest_px}, {self.views}, {self.sh_degree}"
            )
        if self.minutes is not None and not self.minutes > 0:
            raise InvalidInput(f"--minutes must be positive, got {self.minutes:g}")


@dataclass
class BuildReport:
    gaussians: int
    views: int
    held_out: int
    psnr: float | None  # of the held-out views, mean
    psnr_plain: float | None
    started_from: str  # "depth" or "matches"
    steps: int
    seconds: float


def build_scene(source: Path, out: Path, options: BuildOptions = BuildOptions()) -> BuildReport:
    """Writes out (.ply), its record, and the plain scene; returns what came of it."""
    if out.suffix != ".ply":
        raise InvalidInput(f"{out}: a scene is written as .ply")
    started = time.monotonic()
    captures = load_captures(source, longest_px=options.longest_px, limit=options.views)
    captures = captures.holding_out(options.hold_out)
    if len(captures.training) < LEAST_TRAINING:
        raise InvalidInput(
            f"{source}: of {len(captures.items)} views {len(captures.held_out)} are held out: hold "
            "out fewer (--hold-out), or give more images"
        )
    rasterizer = load_rasterizer(options.rasterizer)
    run = _Run(out, captures, rasterizer, options)
    scenes = run.finished()
    psnrs = {
        name: float(np.mean(psnr_on(scene, captures.held_out, rasterizer)))
        for name, scene in scenes.items()
        if captures.held_out
    }
    report = BuildReport(
        len(scenes["regularised"]), len(captures.items), len(captures.held_out),
        psnrs.get("regularised"), psnrs.get("plain"), run.started_from, run.steps,
        run.earlier_s + time.monotonic() - started,
    )  # fmt: skip
    if "plain" in scenes:
        write_ply(plain_path(out), scenes["plain"])
    else:  # an earlier build's is not of this fit
        plain_path(out).unlink(missing_ok=True)
    write_ply(out, scenes["regularised"])
    figures = asdict(report) | {"options": asdict(options)}
    write_record(out, captures, longest_px=options.longest_px, figures=figures)
    run.forget()
    return report


class _Run:
    """The stages of a build, with its state on disk."""

    def __init__(
        self, out: Path, captures: Captures, rasterizer: Rasterizer, options: BuildOptions
    ) -> None:
        self.out, self.options, self.captures = out, options, captures
        self.rasterizer, self.device = rasterizer, _device(rasterizer)
        self.training = [
            c if options.use_depth else replace(c, depth=None) for c in captures.training
        ]
        self.stages = ["common", "regularised", *(["plain"] if options.plain else [])]
        self.scenes: dict[str, Gaussians] = {}
        self.steps, self.share, self.fork = 0, 0.0, None
        self.forked_at = self.branch_steps = 0
        self.started_from, self.earlier_s = "", 0.0
        self._stored = self._begun = time.monotonic()

    def finished(self) -> dict[str, Gaussians]:
        """The scenes by name, however much of it was done before."""
        stage, fit = self._resumed() or ("common", self._first())
        with progress(1.0, f"fitting {self.out.name}") as bar:
            bar.update(self._done(stage, self.share))
            for name in self.stages[self.stages.index(stage) :]:
                fit = self._stage(name, fit, bar)
                self.share = 0.0
        return self.scenes

    def _stage(self, name: str, fit: Fit, bar: Any) -> Fit:
        begin, end = self._span(name)
        if name != "common" and self.share == 0.0:
            assert self.fork is not None
            fit.options = self._fit_options(name)
            fit.restore(copy.deepcopy(self.fork))
            self.share = begin
        while self.share < end - 1e-9:
            before, was = time.monotonic(), self.share
            fit.advance(self.share)
            self.steps += 1
            self.share += self._pace(name, time.monotonic() - before)
            bar.update(
                self._done(name, min(self.share, end)) - self._done(name, was),
                f"{name}, {len(fit.gaussians)} Gaussians{self._quality(fit)}",
            )
            self._store_sometimes(name, fit)
        if name == "common":
            self.fork, self.forked_at = copy.deepcopy(fit.state()), self.steps
        else:
            self.scenes[name] = fit.gaussians.detached()
        if name == "regularised":
            self.branch_steps = self.steps - self.forked_at
        return fit

    def _span(self, name: str) -> tuple[float, float]:
        fork = min(self.options.fit.regularise_from, 1.0)
        return (0.0, fork) if name == "common" else (fork, 1.0)

    def _total(self) -> float:
        return sum(end - begin for begin, end in map(self._span, self.stages))

    def _done(self, name: str, share: float) -> float:
        """Share of the whole work, for the progress bar."""
        before = sum(
            end - begin for begin, end in map(self._span, self.stages[: self.stages.index(name)])
        )
        return (before + share - self._span(name)[0]) / self._total()

    def _pace(self, name: str, seconds: float) -> float:
        """How far a step that took so long brings the run.

        Without regularisers a step is faster: that branch takes as many steps as the other did.
        """
        if name == "plain":
            begin, end = self._span(name)
            return (end - begin) / self.branch_steps
        by_steps = 1.0 / self.options.fit.steps
        if self.options.minutes is None:
            return by_steps
        return max(by_steps, seconds * self._total() / (60.0 * self.options.minutes))

    def _quality(self, fit: Fit) -> str:
        """PSNR of two held-out views, now and then."""
        if self.captures.held_out and fit.step % 100 == 0:
            values = psnr_on(fit.gaussians, self.captures.held_out[:2], self.rasterizer)
            return f", PSNR {np.mean(values):.1f} dB"
        return ""

    def _fit_options(self, name: str) -> FitOptions:
        o = self.options.fit
        return replace(o, regularise_from=2.0) if name == "plain" else o

    def _first(self) -> Fit:
        o = self.options
        source = self.captures.source
        self.training, points, self.started_from = first_points(self.training, o, source)
        gaussians = gaussians_on(points, o.sh_degree).to(self.device)
        wanted = max(24, int(HOLE_SHARE * o.fit.max_gaussians))
        holes = points_in_holes(gaussians, self.training, self.rasterizer, wanted, o.fit.seed)
        if holes is not None:
            gaussians = gaussians_on(joined([points, holes]), o.sh_degree).to(self.device)
        return Fit(gaussians, self.training, self.rasterizer, o.fit, self._photographs())

    def _photographs(self) -> list[Capture] | None:
        """The training views in images whose patches are compared, where depth was matched."""
        if self.started_from != "matches":
            return None
        return _sharp(self.training, self.captures.source, self.options)

    @property
    def _state_path(self) -> Path:
        return resume_path(self.out)

    def _fingerprint(self) -> dict[str, Any]:
        options = asdict(self.options)
        options.pop("minutes")  # a run may be given more time
        return {"options": options, "names": [c.name for c in self.captures.items]}

    def _store_sometimes(self, stage: str, fit: Fit) -> None:
        if time.monotonic() - self._stored < STORE_EVERY_S:
            return
        self._stored = time.monotonic()
        state = {
            "of": self._fingerprint(), "stage": stage, "share": self.share,
            "steps": [self.steps, self.forked_at, self.branch_steps],
            "fit": fit.state(), "fork": self.fork, "from": self.started_from,
            "depths": self._matched_depths(),
            "seconds": self.earlier_s + time.monotonic() - self._begun,
            "scenes": {name: dict(scene.tensors()) for name, scene in self.scenes.items()},
        }  # fmt: skip
        save(self.out.parent, state, self._state_path.name)

    def _matched_depths(self) -> dict[int, torch.Tensor]:
        """Depth that came from matches: sensors' is read again."""
        if self.started_from != "matches":
            return {}
        depths = enumerate(c.depth for c in self.training)
        return {i: torch.from_numpy(depth) for i, depth in depths if depth is not None}

    def _resumed(self) -> tuple[str, Fit] | None:
        if not self._state_path.is_file():
            return None
        state = load(self.out.parent, self._state_path.name)
        if state["of"] != self._fingerprint():
            raise InvalidInput(
                f"{self._state_path}: an unfinished run of other images or options: remove it to "
                "start anew, or repeat its command"
            )
        self.share, self.fork = state["share"], state["fork"]
        self.steps, self.forked_at, self.branch_steps = state["steps"]
        self.started_from, self.earlier_s = state["from"], state["seconds"]
        self.scenes = {name: Gaussians(**parts) for name, parts in state["scenes"].items()}
        for i, depth in state["depths"].items():
            self.training[i] = replace(self.training[i], depth=depth.numpy())
        options = self._fit_options(state["stage"])
        first = Gaussians(**state["fit"]["gaussians"]).to(self.device)
        fit = Fit(first, self.training, self.rasterizer, options, self._photographs())
        fit.restore(state["fit"])
        return state["stage"], fit

    def forget(self) -> None:
        self._state_path.unlink(missing_ok=True)


def first_points(
    captures: list[Capture], options: BuildOptions, source: Path
) -> tuple[list[Capture], Points, str]:
    """Captures with depth, points, and where both come from: sensors, or else matches."""
    wanted, seed = max(10, int(FIRST_SHARE * options.fit.max_gaussians)), options.fit.seed
    with_depth = [c for c in captures if c.depth is not None]
    if len(with_depth) >= LEAST_DEPTH_SHARE * len(captures):
        return captures, points_from_depth(with_depth, wanted, seed), "depth"
    matcher = load_matcher(options.matcher, backend="auto")
    captures = depth_from_matches(captures, matcher, _sharp(captures, source, options))
    return captures, points_from_matches(captures, wanted, seed), "matches"


def _sharp(captures: list[Capture], source: Path, options: BuildOptions) -> list[Capture]:
    """The same views in images that are worth matching."""
    if options.longest_px >= MATCH_PX:
        return captures
    names = [capture.name for capture in captures]
    larger = load_captures(source, longest_px=MATCH_PX, only=names)
    by_name = {capture.name: capture for capture in larger.items}
    return [by_name[name] for name in names]


def _device(rasterizer: Rasterizer) -> str:
    return "cuda" if rasterizer.name.startswith("gsplat") and torch.cuda.is_available() else "cpu"
