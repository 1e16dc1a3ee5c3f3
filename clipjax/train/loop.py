"""The loop: batch, step, and a list of (when, action)."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from clipjax.config import DualEncoderConfig, Stage, TrainConfig, UserError
from clipjax.core.checkpoint import CheckpointWriter, SaveError
from clipjax.core.distributed import Preemption, broadcast_int, first_problem
from clipjax.core.lifeline import Lifeline
from clipjax.core.metrics import Sink
from clipjax.core.progress import format_rate, format_seconds
from clipjax.data.pairs import BadSamples
from clipjax.data.stages import shares, verdict
from clipjax.models.cost import pair_forward_flops
from clipjax.train.flops import training_flops
from clipjax.train.state import TrainState, as_dict

_STEPS_IN_FLIGHT = 2

TrainStep = Callable[[int, TrainState, Any], tuple[TrainState, Mapping[str, Any]]]
Action = Callable[[int, TrainState], None]


class PreemptedError(Exception):
    """The run was asked to stop; its state is saved. Run the same command again."""

    exit_status = 75


class SpoiltError(UserError):
    """Too many steps in a row were skipped.

    Attributes:
        step: the last one, counted from 1.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Actions:
    """What happens between steps, besides stepping: evaluating every n steps."""

    def __init__(self, every: Sequence[tuple[int, Action]]):
        self._every = every

    def due(self, step: int, last: int) -> list[Action]:
        """Returns the actions of a step; each is due at the end, once."""
        return [a for n, a in self._every if step == last or (n and step % n == 0)]


class Meter:
    """Rates since the last line: samples, MFU, the share of time spent waiting for input.

    Args:
        config: of the run.
        peak_flops: of one device.
        waited: seconds that steps have waited for input so far.
        stages: seconds that the stages of loading have taken so far, over all threads.
        teacher: model that the run learns from, whose forward passes count.
    """

    def __init__(
        self,
        config: TrainConfig,
        peak_flops: float,
        waited: Callable[[], float],
        stages: Callable[[], Mapping[str, float]] = dict,
        teacher: DualEncoderConfig | None = None,
    ):
        self._config = config
        self._peak = peak_flops * jax.device_count()
        self._waited, self._stages = waited, stages
        self._of_pair: dict[tuple[str, int], int] = {}
        self._of_teacher = 0 if teacher is None else pair_forward_flops(teacher)
        self.stage_shares: dict[str, float] = {}
        self.step_seconds: list[float] = []
        self.restart(0)

    def restart(self, step: int) -> None:
        """Forgets what was: the time of an evaluation or a compilation is not that of steps."""
        self._step, self._time, self._wait = step, time.perf_counter(), self._waited()
        self._stage_seconds = dict(self._stages())
        self._flops = 0

    def count(self, stage: Stage, num_tokens: int) -> None:
        """Counts the arithmetic of a step whose texts have so many tokens, padding included."""
        shape = stage.name, num_tokens
        if shape not in self._of_pair:
            self._of_pair[shape] = training_flops(stage.config, num_tokens) + self._of_teacher
        self._flops += self._of_pair[shape] * stage.config.data.global_batch_size

    def read(self, step: int) -> dict[str, float]:
        """Returns the rates since the last reading and restarts."""
        seconds = max(time.perf_counter() - self._time, 1e-9)
        steps = max(step - self._step, 1)
        waited = self._waited() - self._wait
        flops = self._flops
        samples = self._config.samples_seen(step) - self._config.samples_seen(self._step)
        self.step_seconds.append(seconds / steps)
        self.stage_shares = shares(self._stage_seconds, self._stages())
        self.restart(step)
        return {
            **{f"time/input/{stage}_share": share for stage, share in self.stage_shares.items()},
            "time/step_seconds": seconds / steps,
            "time/samples_per_second": samples / seconds,
            "time/input_wait_share": min(1.0, waited / seconds),
            "time/mfu": flops / seconds / self._peak,
        }

    def step_limit(self, least_seconds: float) -> float:
        """Returns after how many seconds a step is taken for stuck."""
        if not self.step_seconds:
            return least_seconds
        return max(10 * statistics.median(self.step_seconds), least_seconds)


class Loop:
    """Runs a training state from one step to another.

    Args:
        config: of the run.
        step_fn: (step from 0, state, batch) -> state and metrics, compiled.
        batches: device batches from the first step on.
        checkpoints: where the state is saved.
        sinks: where metrics go (process 0 only).
        lifeline: is told which phase begins.
        meter: of rates.
        bad_samples: of this process's input.
        actions: what else happens every n steps, and at the end.
    """

    def __init__(
        self,
        config: TrainConfig,
        step_fn: TrainStep,
        batches: Iterator[Any],
        checkpoints: CheckpointWriter,
        *,
        sinks: Sequence[Sink],
        lifeline: Lifeline,
        meter: Meter,
        bad_samples: BadSamples,
        actions: Actions,
    ):
        self._config, self._step_fn, self._batches = config, step_fn, batches
        self._checkpoints, self._sinks, self._lifeline = checkpoints, sinks, lifeline
        self._meter, self._bad_samples, self._actions = meter, bad_samples, actions
        self._failed_saves = 0
        self._started = time.monotonic()
        self._first_step = 0
        self.last_metrics: dict[str, float] = {}

    def run(self, state: TrainState, first_step: int) -> TrainState:
        """Returns the state after `num_steps` steps; it is saved.

        Raises:
            PreemptedError: if the run was asked to stop; the state is saved.
            SpoiltError: if too many steps in a row had to be skipped.
            UserError: if the state cannot be saved.
        """
        config, last = self._config, self._config.num_steps
        preemption = Preemption()
        self._first_step = first_step
        in_flight: list[Any] = []
        limits = config.watchdog
        try:
            for step in range(first_step + 1, last + 1):
                limit = self._meter.step_limit(limits.step_seconds)
                limit = limits.compile_seconds if step == first_step + 1 else limit
                self._lifeline.phase("input", limit, step)
                batch = next(self._batches)
                self._lifeline.phase("step", limit, step)
                # What is on the host must be put on the devices by name, or it is put there anew
                # in every step.
                with jax.transfer_guard_host_to_device("disallow"):
                    state, metrics = self._step_fn(step - 1, state, batch)
                stage = next(part for part in config.parts if step <= part.stop_step)
                self._meter.count(stage, batch["tokens"].shape[1])
                in_flight.append(metrics["train/bad_steps"])
                spoilt = False
                if len(in_flight) > _STEPS_IN_FLIGHT:
                    spoilt = int(in_flight.pop(0)) >= config.guard.abort_after
                if step % config.log.every_steps == 0 or step == last or spoilt:
                    self._log(step, metrics)
                elif step == first_step + 1:  # the first waits for the input to begin
                    jax.block_until_ready(metrics)
                    self._meter.restart(step)
                self._poll_save()
                preempted = step < last and preemption.asked(step)
                if self._save_due(step, last) or preempted:
                    self._save(step, state, must=preempted or step == last)
                if preempted:
                    raise PreemptedError(
                        f"asked to stop (SIGTERM) at step {step:,} of {last:,}: the state is "
                        "saved. Run the same command again to go on."
                    )
                for action in self._actions.due(step, last):
                    self._lifeline.phase("evaluate", limits.evaluate_seconds, step)
                    action(step, state)
                    self._meter.restart(step)
        finally:
            preemption.close()
        return state

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hands metrics to the sinks and remembers them for the summary."""
        self.last_metrics.update(metrics)
        for sink in self._sinks:
            try:
                sink.write(step, metrics)
            except OSError as error:  # a full disk: lines are not worth a run
                print(
                    f"warning: metrics of step {step:,} were not written to "
                    f"{type(sink).__name__}: {error.strerror}.",
                    file=sys.stderr,
                    flush=True,
                )

    def _log(self, step: int, device_metrics: Mapping[str, Any]) -> None:
        metrics = {name: float(value) for name, value in device_metrics.items()}
        metrics |= self._meter.read(step)
        metrics["data/bad_samples"] = self._bad_samples.total
        for reason, count in self._bad_samples.counts().items():
            metrics[f"data/bad_samples/{reason.replace(' ', '_')}"] = count
        metrics["data/samples_seen"] = self._config.samples_seen(step)
        self.write(step, metrics)
        if metrics["train/bad_steps"] >= self._config.guard.abort_after:
            raise SpoiltError(
                f"train/loss is {metrics['train/loss']} and its gradient norm "
                f"{metrics['train/grad_norm']:.3g} at step {step:,}: not finite, or an outlier, as "
                f"for {metrics['train/bad_steps']:.0f} steps now. Their updates were left out and "
                "nothing was saved since. Lower optim.peak_learning_rate, look at the data "
                "(`clipjax data show`), or leave them out by guard.max_rollbacks; the same command "
                "goes on from the last checkpoint.",
                step,
            )
        if jax.process_index() == 0:
            print(self._line(step, metrics), file=sys.stderr, flush=True)

    def _line(self, step: int, metrics: Mapping[str, float]) -> str:
        last = self._config.num_steps
        done = (step - self._first_step) / max(last - self._first_step, 1)
        elapsed = time.monotonic() - self._started
        eta = format_seconds(elapsed / done - elapsed) if done else "?"
        bound = verdict(metrics["time/input_wait_share"], self._meter.stage_shares)
        bound = f"  {bound}" if bound else ""
        bad = f"  bad steps {metrics['train/bad_steps']:.0f}" if metrics["train/bad_steps"] else ""
        return (
            f"step {step:,}/{last:,}  loss {metrics['train/loss']:.4f}  "
            f"scale {metrics['train/logit_scale']:.1f}  grad {metrics['train/grad_norm']:.2f}  "
            f"{format_rate(metrics['time/samples_per_second'])} samples/s  "
            f"MFU {100 * metrics['time/mfu']:.0f} %  "
            f"input wait {100 * metrics['time/input_wait_share']:.0f} %  ETA {eta}{bound}{bad}"
        )

    def _save_due(self, step: int, last: int) -> bool:
        due = step == last or step % self._config.checkpoint.every_steps == 0
        retry = step % self._config.log.every_steps == 0
        if retry:  # the same answer everywhere: only process 0 knows of a failed save
            due = due or bool(broadcast_int(int(self._failed_saves > 0)))
        return due

    def _save(self, step: int, state: TrainState, *, must: bool) -> None:
        """Starts to save; with `must`, waits until it is done or raises."""
        self._lifeline.phase("save", self._config.watchdog.save_seconds, step)
        if int(state.bad_steps) and not must:
            return
        try:
            # Either all processes save or none does.
            if problem := first_problem(self._why_not_save(state)):
                raise SaveError(problem)
            self._checkpoints.save(step, as_dict(state))
            if must:
                self._checkpoints.wait()
                self._report_saved(step)
        except SaveError as error:
            self._save_failed(error, must=must)

    def _why_not_save(self, state: TrainState) -> str:
        try:
            saved = self._checkpoints.wait()  # what it still writes takes of the free space
            if saved is not None:
                self._report_saved(saved)
        except SaveError as error:
            return str(error)
        return self._checkpoints.lack_of_space(state) if jax.process_index() == 0 else ""

    def _poll_save(self) -> None:
        try:
            saved = self._checkpoints.poll()
        except SaveError as error:
            self._save_failed(error, must=False)
        else:
            if saved is not None:
                self._report_saved(saved)

    def _report_saved(self, step: int) -> None:
        self._failed_saves = 0
        if jax.process_index() == 0:
            print(f"saved {self._checkpoints.path(step)}", file=sys.stderr, flush=True)

    def _save_failed(self, error: SaveError, *, must: bool) -> None:
        self._failed_saves += 1
        kept = self._checkpoints.steps()
        last_good = f"the last good checkpoint is of step {kept[-1]:,}" if kept else "none is left"
        if must or self._failed_saves >= self._config.checkpoint.max_failed_saves:
            raise UserError(
                f"the state was not saved ({self._failed_saves} tries): {error}; {last_good}. "
                "Make room and run the same command again."
            )
        print(
            f"warning: not saved: {error}; {last_good}. The run goes on and tries again.",
            file=sys.stderr,
            flush=True,
        )
