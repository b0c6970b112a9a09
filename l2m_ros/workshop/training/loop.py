"""The training loop: one step at a time until the minutes or the steps are spent.

    pairs -> loss -> gradients (averaged over processes, clipped) -> AdamW -> mean weights

It checkpoints at least every minute, resumes by itself from the folder's checkpoint, and writes
log.csv and validation.csv as it goes.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.progress import progress
from l2m_ros.workshop.training import checkpoint
from l2m_ros.workshop.training.curves import Log
from l2m_ros.workshop.training.data import Ahead, Batch, Schedule
from l2m_ros.workshop.training.ema import Ema
from l2m_ros.workshop.training.processes import Processes
from l2m_ros.workshop.training.recorded import Recorded
from l2m_ros.workshop.training.stop import StopRequest

Terms = Mapping[str, float | Tensor]  # tensors stay on the device until they are logged
LossOf = Callable[[nn.Module, Batch], tuple[Tensor, Terms]]
Validate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class LoopOptions:
    """How long, how fast, how safely. Exactly one of minutes and steps says when to stop."""

    minutes: float | None = None
    steps: int | None = None
    learning_rate: float = 1e-3
    final_rate: float = 0.02  # share of the learning rate that the cosine ends at
    warmup_steps: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0  # of the gradient's norm; 0 = none
    ema: float = 0.999
    bf16: bool = True
    channels_last: bool = False  # convolutions find their channels side by side: faster on a GPU
    graphs: bool = False  # on a GPU: a step's kernels are recorded once for each size of batch
    rates: Mapping[str, float] = field(default_factory=dict)  # factors by parameter name's start
    workers: int = 0  # threads that make pairs ahead; 0 = in the loop (best on a CPU)
    seed: int = 0
    difficulty: tuple[float, float] = (0.5, 1.0)  # of the pairs: at the start, and once ramped
    ramp: float = 0.4  # share of the run after which the difficulty is full
    checkpoint_s: float = 45.0
    validate_s: float = 600.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise InvalidInput("say how long to train: either --minutes or --steps")
        amount = self.minutes or self.steps or 0
        if not (amount > 0 and math.isfinite(amount)):
            raise InvalidInput(
                f"training needs a positive number of minutes or steps, got {amount}"
            )
        if not 0 <= self.seed < 2**31:
            raise InvalidInput(f"seed {self.seed}: it lies from 0 to {2**31 - 1}")

    def rate_at(self, step: int, share: float) -> float:
        """Linear warm-up, then half a cosine down to final_rate."""
        warm = min(1.0, (step + 1) / max(self.warmup_steps, 1))
        fall = 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))
        return self.learning_rate * warm * (self.final_rate + (1.0 - self.final_rate) * fall)

    def difficulty_at(self, share: float) -> float:
        start, full = self.difficulty
        return start + (full - start) * min(1.0, share / max(self.ramp, 1e-6))

    def difficulty_of(self, step: int, share: float) -> float:
        """Of a step to come. By --steps it follows from the step alone; by --minutes nobody knows
        when the step will be, and `share` (now) stands for it."""
        return self.difficulty_at(share if self.steps is None else step / self.steps)


class Run:
    """The state of a training: what a checkpoint holds, and one step of it."""

    def __init__(
        self,
        model: nn.Module,
        loss_of: LossOf,
        batches: Schedule,
        options: LoopOptions,
        processes: Processes,
    ) -> None:
        self.model, self.loss_of, self.batches = model.to(options.device), loss_of, batches
        self.options, self.processes = options, processes
        if processes.count > 1 and options.device.startswith("cuda"):
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        if options.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        processes.same_everywhere(self.model)
        self.ema = Ema(self.model, options.ema)
        self.optimizer = torch.optim.AdamW(
            _groups(self.model, options), lr=options.learning_rate, betas=(0.9, 0.98)
        )
        learning(self.model, options)
        self.step, self.elapsed_s = 0, 0.0
        self._ahead = Ahead(batches, processes.rank, processes.count, options.workers)
        recorded = options.graphs and options.device.startswith("cuda")
        self._coming: Batch | None = None
        self._gradients = Recorded(self._gradients_of) if recorded else self._gradients_of

    def share(self) -> float:
        """How much of the run is done, 0 to 1; the same in every process."""
        options = self.options
        if options.steps is not None:
            return self.step / options.steps
        return self.processes.agreed(self.elapsed_s / (60.0 * (options.minutes or 1.0)))

    def advance(self, share: float) -> dict[str, float | Tensor]:
        """One step; returns what the log shows."""
        options, processes = self.options, self.processes
        batch = self._coming or self._next(self.step, share)
        rate = options.rate_at(self.step, share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        loss, terms = self._gradients(batch)
        # While a GPU replays the step, Python launches what makes the next batch.
        ends = options.steps is not None and self.step + 1 >= options.steps
        self._coming = self._next(self.step + 1, share) if options.graphs and not ends else None
        processes.average_gradients(self.model)
        processes.average_statistics(self.model)
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), options.clip if options.clip > 0 else math.inf
        )
        # One broken batch must not end hours of training; a broken model shows in the log.
        if torch.isfinite(norm):
            self.optimizer.step()
            self.ema.update(self.model)
        self.step += 1
        return {"loss": loss, "gradient": norm, "rate": rate, **terms}

    def _next(self, step: int, share: float) -> Batch:
        options = self.options
        batch = self._ahead.batch(step, lambda step: options.difficulty_of(step, share))
        batch = batch.to(options.device)
        return batch.channels_last() if options.channels_last else batch

    def _gradients_of(self, batch: Batch) -> tuple[Tensor, Terms]:
        """The gradients of one batch, in place of the last ones; its loss and terms."""
        self.optimizer.zero_grad(set_to_none=not self.options.graphs)
        with self._precision():
            loss, terms = self.loss_of(self.model, batch)
        loss.backward()
        return loss.detach(), terms

    def _precision(self):  # type: ignore[no-untyped-def]
        if not self.options.bf16:
            return nullcontext()
        # A graph may not hold weights that autocast has cast before it was recorded.
        kept = not self.options.graphs
        return torch.autocast(self.options.device.split(":")[0], torch.bfloat16, cache_enabled=kept)

    def state(self) -> dict[str, object]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }

    def restore(self, state: dict[str, object], source: str) -> None:
        checkpoint.require_parts(state, source)
        checkpoint.load_weights(self.model, state["model"], source)  # type: ignore[arg-type]
        try:
            self.ema.restore(state["ema"])  # type: ignore[arg-type]
            self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
            self.step, self.elapsed_s = int(state["step"]), float(state["elapsed_s"])  # type: ignore
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{source}: is of another run ({' '.join(str(error).split())[:200]}); name another "
                "--out, or begin with its weights by --start"
            ) from error


def _groups(model: nn.Module, options: LoopOptions) -> list[dict[str, object]]:
    """Weights decay; biases, norms and single numbers do not. A factor of 0 freezes."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = _factor(name, options)
        if factor == 0.0:
            parameter.requires_grad_(False)
            continue
        decay = options.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in sorted(groups.items(), key=lambda item: -item[0][0])
    ]


def _factor(name: str, options: LoopOptions) -> float:
    """Of the learning rate of what is called `name`."""
    return next((f for start, f in options.rates.items() if name.startswith(start)), 1.0)


def learning(model: nn.Module, options: LoopOptions) -> nn.Module:
    """The model in training mode; what is frozen keeps its normalisation statistics as well."""
    model.train()
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.modules.batchnorm._BatchNorm)
            and _factor(f"{name}.", options) == 0
        ):
            module.eval()
    return model


def train(run: Run, folder: Path, validate: Validate | None = None) -> None:
    """Until the time or the steps are spent; starts from the folder's checkpoint if it has one."""
    options, leads = run.options, run.processes.leads
    state = checkpoint.load(folder)
    if state is not None:
        run.restore(state, str(folder / checkpoint.NAME))
    log = Log(folder, run.step) if leads else None
    saved_s = checked_s = time.monotonic()
    done = run.step if options.steps else run.elapsed_s
    total = (options.steps or 60.0 * (options.minutes or 0.0)) - done
    if total <= 0 and leads:
        had = f"{run.step} steps in {run.elapsed_s / 60.0:.1f} minutes"
        print(
            f"l2m train: {folder} has had its {had}: more --minutes or --steps go on",
            file=sys.stderr,
        )
    shown = progress(total, "training") if leads and total > 0 else nullcontext()
    with StopRequest() as stop, shown as bar:
        share = run.share()
        while share < 1.0 and not run.processes.agreed(stop.asked):
            before = time.monotonic()
            terms = run.advance(share)
            took_s = time.monotonic() - before
            run.elapsed_s += took_s
            share = run.share()
            if log is None or bar is None:
                continue
            size = run.batches.size_of(run.step - 1)
            log.step(run.step, run.elapsed_s, {**terms, "pairs_per_s": size.batch / took_s})
            bar.update(1 if options.steps else took_s, log.summary())
            now = time.monotonic()
            if now - saved_s > options.checkpoint_s:
                checkpoint.save(folder, run.state())
                log.flush()
                saved_s = now
            if validate is not None and now - checked_s > options.validate_s:
                _validate(run, log, validate)
                checked_s = time.monotonic()
    if log is not None:
        checkpoint.save(folder, run.state())
        if share < 1.0:
            log.close()
    if share < 1.0:
        print(f"l2m train: saved at step {run.step}; the same command goes on", file=sys.stderr)
        raise KeyboardInterrupt
    if log is not None:
        if validate is not None:
            _validate(run, log, validate)
        log.close()


def _validate(run: Run, log: Log, validate: Validate) -> None:
    """Figures of the mean weights; the training weights are put back."""
    kept = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.ema.copy_to(run.model)
    run.model.eval()
    try:
        with torch.no_grad():
            log.validation(run.step, run.elapsed_s, validate(run.model))
    finally:
        run.model.load_state_dict(kept)
        learning(run.model, run.options)
