"""`ernie-triton serve`: tritonserver and front end, from the first check to the last process; knows no tensors and no requests.

Order up: model folder, ports, tritonserver, ready?, front end, ready?, one line. Order down: the engine told to drain, upon which it has
the ensemble unloaded, so that both faces are not ready and refuse what is new; when it is idle, the front end; tritonserver.
In between, what has died or hangs is restarted: tritonserver with all models' processes, or the front end.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import math
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from .. import log_format
from ..config import DRAINED, HEARTBEATS, EngineConfig, ModelConfig
from ..errors import ConfigError
from ..execution.safetensors_file import check_has_weights
from ..relay import SOCKET_NAME, RelaySender
from . import demo_model
from .commands import DRAIN_MARGIN_SECONDS, TRITON_EXIT_SECONDS, client_host, front_end_command, triton_command, triton_environment
from .failed_start import NoFaultOfTheModelError, NoMoreRestartsError, ServeError, failed_start, how_it_ended, is_noise
from .flags import ServeOptions, add_arguments, flag_of, read_options
from .front_end_watch import ANSWER_SECONDS, FrontEndWatch, first_answer_seconds
from .gpu import gpu_names
from .idle_connections import IdleConnections
from .log_lines import line_writer
from .ports import check_ports, hold
from .private_folder import PrivateFolder
from .probes import front_end_health, http_status
from .processes import Child, adopt_orphans, reap_adopted, reap_all
from .ready_line import say_ready
from .restarts import WINDOW_SECONDS, Outage, RestartBudget
from .triton_watch import TritonWatch, all_alive
from .tritonserver import TRITON_STACK_BYTES, check_python_for_stub, find_installation
from .written_files import writing

log = logging.getLogger(__name__)

_LEVELS = {"error": logging.ERROR, "warning": logging.WARNING}
"""What a line begins with → its level in the log."""

_POLL_SECONDS = 0.1
_FATAL_GRACE_SECONDS = 3.0
"""When a process has died: what it carried cannot end properly any more, the others' clients can still be told."""
_LEAST_LOAD_SECONDS = 120.0
"""So long, or three times as long as the first start, may a restart take: then it counts as failed."""
_STUCK_LOOKS = 300
"""Of a look every 0.1 s. On a machine with ten times the load that it can bear, tritonserver 2.51 was seen to give a model's process up
while it loaded, and then to wait for its end for ever."""
_LAST_WORD_SECONDS = 2.0
"""Before the front end is killed: it tells those whose answers it still sends, and takes one second for it."""
_DOUBLE_SIGNAL_SECONDS = 0.5
"""make, timeout and terminals deliver one signal twice; only a Ctrl-C after this time is a second one."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    usage = "ernie-triton serve [--model DIR] [flags]"  # argparse's own, of a hundred flags, would bury every error
    parser = subparsers.add_parser("serve", help="start tritonserver and the OpenAI front end", usage=usage, allow_abbrev=False)
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C. 0: stopped as asked; 1: the model or a process failed; `ConfigError`: a flag is wrong."""
    on_gpu = bool(gpu_names())
    of_the_model = demo_model.choose(args)
    options = read_options(args, on_gpu=on_gpu)
    log_format.install(options.observability.log_format, "serve", text="ernie-triton: {message}")
    log.setLevel(logging.INFO)
    for note in (*of_the_model, *options.notes):
        _say(note)
    options, max_model_len = _check_model(options)
    check_ports(options)
    for warning in options.warnings:  # behind what ends the start, so that an error stands alone
        _say(warning)
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise ConfigError("The front end's packages are missing. Install the [frontend] extra (pip install 'ernie-triton[frontend]').")
    return _Server(options, max_model_len, on_gpu=on_gpu).run()


def _check_model(options: ServeOptions) -> tuple[ServeOptions, int]:
    """What can be known without tritonserver: the folder, its config.json, whether the flags fit it, and whether it holds weights."""
    folder = Path(options.engine.model).expanduser()
    if not folder.is_dir():
        hint = "Give a folder on this machine (models are not downloaded), or make one: ernie-triton random-checkpoint --help."
        wrong = "is a file, no folder" if folder.exists() else "does not exist"
        raise ConfigError(f"--model: {options.engine.model!r} {wrong}. {hint}", param="model")
    model = ModelConfig.from_folder(folder)
    engine: EngineConfig = replace(options.engine, model=str(folder.resolve()))
    try:
        max_model_len = engine.resolved(model).max_model_len
    except ConfigError as error:
        raise ConfigError(f"{flag_of(error)}{error.message}", param=error.param) from None
    assert max_model_len is not None
    if engine.load_format == "auto" and options.model_repository is None:  # another repository's engine may read none (`bench path`)
        check_has_weights(folder)
    return replace(options, engine=engine), max_model_len


class _Server:
    """One run of `serve`. Signals only set flags; the main thread reads them everywhere it waits."""

    def __init__(self, options: ServeOptions, max_model_len: int, *, on_gpu: bool) -> None:
        self._options = options
        self._max_model_len = max_model_len
        self._on_gpu = on_gpu
        self._triton_restarts = RestartBudget(options.max_restarts)
        self._front_end_restarts = RestartBudget(options.max_restarts)
        self._load_seconds = math.inf
        self._triton: Child | None = None
        self._front_end: Child | None = None
        self._front_end_watch: FrontEndWatch | None = None
        """None before it is (re)started."""
        self._front_end_missed_at: float | None = None
        """Since when it has not answered; None: it does."""
        self._was_ready = False
        self._first_signal: float | None = None
        self._grace_seconds = options.shutdown_grace_seconds
        self._hurry = False

    def run(self) -> int:
        installation = find_installation(self._options.tritonserver)
        check_python_for_stub()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        adopt_orphans()
        # Ours as long as we take requests: while a front end that has died is restarted, connections wait, and are not refused.
        with PrivateFolder() as folder, hold(self._options, "--port") as self._listening:
            config_file = folder.path / "engine.json"
            with writing(folder.path):
                config_file.write_text(replace(self._options.engine, runtime_dir=str(folder.path)).to_json(), encoding="utf-8")
            self._folder, self._outage = folder, Outage(folder.path / "outage")
            self._triton_command = triton_command(self._options, installation, folder, on_gpu=self._on_gpu)
            self._triton_environment = triton_environment(self._options, installation, folder, config_file)
            try:
                _say(f"Starting tritonserver and loading {self._options.engine.model} …")
                try:
                    self._start_triton()
                except NoFaultOfTheModelError as error:
                    self._restart_triton(str(error).rstrip("."))
                if self._first_signal is None:
                    self._start_front_end()
                    self._await_front_end()
                self._watch()
                return 0
            except ServeError as error:
                _say(f"error: {error}")
                self._grace_seconds = min(self._grace_seconds, _FATAL_GRACE_SECONDS)
                return 1
            finally:
                self._stop(folder)

    def _on_signal(self, number: int, _: object) -> None:
        now = time.monotonic()
        if self._first_signal is None:
            self._first_signal = now
        elif number == signal.SIGINT and now - self._first_signal > _DOUBLE_SIGNAL_SECONDS:
            self._hurry = True

    def _wanted(self, line: str) -> bool:
        return self._options.verbose or not is_noise(line)

    def _start_triton(self) -> None:
        """Return when the ensemble is ready or a signal came; `ServeError` if it does not get ready."""
        signs_of_life = self._folder.path / HEARTBEATS
        signs_of_life.mkdir(mode=0o700, exist_ok=True)  # not made anew: a full disk has no room for that
        for sign in signs_of_life.iterdir():
            sign.unlink()
        command, environment = self._triton_command, self._triton_environment
        writer = line_writer(self._options.observability.log_format, "tritonserver")
        # In our own folder: the stubs and `python -m` look for modules where they run, and there may lie anybody's (`--model .`).
        files, folder = self._folder.locks, self._folder.path
        # Killed if we are: its own way to end after SIGTERM takes locks in the signal's handler, and nobody would be there when it hangs.
        # So are its models' processes: their look at it (`triton_adapter.heartbeat`) needs Python's lock, which they may never get again.
        end = {"dies_with_us": True}
        self._triton = Child("tritonserver", command, environment, self._wanted, files, TRITON_STACK_BYTES, writer, folder, **end)
        host, port = client_host(self._options.triton_host), self._options.triton_http_port
        started, stuck_looks = time.monotonic(), 0
        while self._first_signal is None:
            self._check_started(self._triton)
            if http_status(host, port, "/v2/health/ready") == 200 and http_status(host, port, "/v2/models/ernie/ready") == 200:
                self._folder.close_shared_memory()
                self._load_seconds = min(self._load_seconds, time.monotonic() - started)
                self._watched = TritonWatch(self._triton.pid, signs_of_life, host, port)
                return
            stuck_looks = stuck_looks + 1 if all_alive(self._triton.pid, signs_of_life) else 0
            if stuck_looks > _STUCK_LOOKS or time.monotonic() - started > max(_LEAST_LOAD_SECONDS, 3 * self._load_seconds):
                raise NoFaultOfTheModelError("tritonserver did not get ready in time.")
            self._look_after_front_end()
            time.sleep(_POLL_SECONDS)

    def _start_front_end(self) -> None:
        listening = self._listening.fileno()
        command = front_end_command(self._options, self._max_model_len, self._outage.path, listening)
        folder = self._folder.path
        environment = self._options.security.environment(os.environ, with_keys=True)
        environment["TMPDIR"] = str(folder)  # what its workers share is left behind when it is killed, and goes with the folder
        writer = line_writer(self._options.observability.log_format, "frontend")
        self._front_end = Child("The front end", command, environment, lambda _: True, [listening], rewrite=writer, folder=folder)
        seconds = first_answer_seconds(self._options.workers)
        self._front_end_watch = FrontEndWatch(lambda: self._front_end_health(ANSWER_SECONDS) is not None, seconds)

    def _await_front_end(self) -> None:
        while self._first_signal is None:
            if self._front_end_health() == 200:
                say_ready(self._options)
                self._was_ready = True
                return
            self._look_after_triton()
            self._look_after_front_end()
            time.sleep(_POLL_SECONDS)

    def _front_end_health(self, timeout_seconds: float = 2.0) -> int | None:
        security = self._options.security
        how = {"tls": security.uses_tls, "asks_for_certificate": security.ssl_ca_certs is not None}
        return front_end_health(client_host(self._options.host), self._options.port, **how, timeout_seconds=timeout_seconds)

    def _watch(self) -> None:
        """Restart what has died or hangs; return on a signal; `ServeError` when that has happened too often."""
        while self._first_signal is None:
            self._look_after_triton()
            self._look_after_front_end()
            time.sleep(_POLL_SECONDS)

    def _look_after_triton(self) -> None:
        assert self._triton is not None
        fault = self._watched.fault()
        if (code := self._triton.exit_code) is not None:  # asked last: if it ended while it was looked at, this says more
            fault = f"tritonserver has ended ({how_it_ended(code)})"
        if fault is not None and self._first_signal is None:
            self._restart_triton(fault)

    def _look_after_front_end(self) -> None:
        if self._front_end is None or self._first_signal is not None:
            return
        if (code := self._front_end.exit_code) is not None:
            if not self._was_ready:
                self._check_started(self._front_end)  # raises: it would not do better the next time
            self._restart_front_end(f"The front end has ended ({how_it_ended(code)})")
        elif self._front_end_watch is not None and (fault := self._front_end_watch.fault) is not None:
            self._restart_front_end(fault)
        elif self._front_end_missed_at is not None and self._front_end_health() == 200:
            self._front_end_restarts.helped()
            _say(f"The front end is ready again after {time.monotonic() - self._front_end_missed_at:.1f} s.")
            self._front_end_missed_at = None

    def _restart_triton(self, fault: str) -> None:
        """Until it is ready or a signal came. Whoever waits for an answer gets an error when it is killed, and /health says why."""
        missed_at = time.monotonic()
        while self._first_signal is None:
            self._outage.begin(f"The model server is being restarted: {fault}.")
            self._remove(self._triton)
            self._folder.remove_shared_memory()
            self._pause_before_restart("tritonserver", fault, self._triton_restarts)
            try:
                self._start_triton()
            except NoMoreRestartsError:
                raise
            except ServeError as error:
                fault = str(error).rstrip(".")
                continue
            if self._first_signal is None:
                self._triton_restarts.helped()
                self._outage.end()
                _say(f"tritonserver is ready again after {time.monotonic() - missed_at:.1f} s.")
            return

    def _restart_front_end(self, fault: str) -> None:
        """With its workers, which would go on taking connections; not waiting until it is ready: if it ends again, it is seen again."""
        self._front_end_missed_at = self._front_end_missed_at or time.monotonic()
        self._leave_front_end_alone()
        self._remove(self._front_end)
        self._pause_before_restart("it", fault, self._front_end_restarts)
        if self._first_signal is None:
            self._start_front_end()

    def _leave_front_end_alone(self) -> None:
        if self._front_end_watch is not None:
            self._front_end_watch.close()
            self._front_end_watch = None

    def _remove(self, child: Child | None) -> None:
        """Kill what is left of it, and collect all of that."""
        assert child is not None
        child.kill()
        child.stop(0, lambda: True)
        reap_adopted({other.pid for other in (self._triton, self._front_end) if other is not None})

    def _pause_before_restart(self, name: str, fault: str, budget: RestartBudget) -> None:
        delay = budget.next_delay()
        if delay is None:
            limit = f"--max-restarts {self._options.max_restarts} allows no more restarts within {WINDOW_SECONDS / 60:g} minutes"
            raise NoMoreRestartsError(f"{fault}. {limit}." if self._options.max_restarts else f"{fault}.")
        _say(f"error: {fault}; restarting {name}{f' in {delay:g} s' if delay else ''} …")
        until = time.monotonic() + delay
        while time.monotonic() < until and self._first_signal is None:
            time.sleep(_POLL_SECONDS)

    def _check_started(self, child: Child) -> None:
        """`ServeError` if it has ended before it was ready."""
        if child.exit_code is not None and self._first_signal is None:
            child.stop(0, lambda: True)  # collects the rest of its output
            raise failed_start(child)

    def _stop(self, folder: PrivateFolder) -> None:
        """Nothing new, engine told to drain and idle, front end down (until then it says 503), whoever stays connected to Triton cut off,
        tritonserver down."""
        self._outage.begin("The server is shutting down.")
        self._leave_front_end_alone()
        if self._front_end is not None and self._front_end.exit_code is not None:
            self._listening.close()  # nobody will answer those who wait there
        grace = self._grace_seconds
        deadline = time.monotonic() + grace + DRAIN_MARGIN_SECONDS
        triton = self._triton if self._triton is not None and self._triton.exit_code is None else None
        if self._front_end is not None and triton is not None:
            _say(f"Stopping: no new requests; running ones get up to {grace:g} s …")
            relay = RelaySender(str(folder.path / SOCKET_NAME))
            relay.drain(grace)
            relay.close()
            self._await_idle(folder.path / DRAINED, deadline)
        self._listening.close()
        self._end(self._front_end, max(DRAIN_MARGIN_SECONDS, deadline + 1 - time.monotonic()), _LAST_WORD_SECONDS)
        if triton is not None:
            IdleConnections(triton.pid, (self._options.triton_http_port, self._options.triton_grpc_port)).close()
        self._end(self._triton, TRITON_EXIT_SECONDS + DRAIN_MARGIN_SECONDS)
        reap_all()

    def _end(self, child: Child | None, seconds: float, last_seconds: float = 0.0) -> None:
        if child is not None and not child.stop(seconds, lambda: self._hurry, last_seconds):
            _say(f"{child.name} had to be killed.")

    def _await_idle(self, drained: Path, deadline: float) -> None:
        """Until the engine says so; one that is gone says nothing."""
        while not drained.exists() and self._watched.runs("ernie_engine") and time.monotonic() < deadline and not self._hurry:
            time.sleep(_POLL_SECONDS / 5)


def _say(text: str) -> None:
    level = next((level for word, level in _LEVELS.items() if text.startswith(f"{word}:")), logging.INFO)
    log.log(level, "%s", text)
