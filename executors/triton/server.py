"""A Triton server on this machine's CPU, from the wheel nvidia-pytriton: for demonstrations and tests.

The wheel pins an old numpy, so it lives in a virtual environment of its own. Each server works in a scratch folder,
listens on free ports of 127.0.0.1 and is ended with all its processes, at the latest when our own process ends: a
keeper sees to that (`keeper.py`).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from partita.errors import ConfigError, Failed
from partita.executors.triton.api import Endpoint

VENV_VARIABLE = "PARTITA_TRITON_VENV"
DEFAULT_VENV = Path(".venv-triton")
START_TIMEOUT_S = 60.0
POLL_S = 0.02
_KEEPER = Path(__file__).with_name("keeper.py")


@dataclass(frozen=True, slots=True)
class Installation:
    """Where the wheel is installed: the virtual environment, its packages, and its Python's version."""

    venv: Path
    site: Path
    python: str

    @property
    def server(self) -> Path:
        """Folder of the server's programs."""
        return self.site / "pytriton" / "tritonserver"

    @property
    def stub(self) -> Path:
        """The program that runs models written in Python."""
        return self.server / "python_backend_stubs" / self.python / "triton_python_backend_stub"

    def environment(self) -> dict[str, str]:
        """Return the environment that the server, and nothing else, needs."""
        return {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.site / "nvidia_pytriton.libs"),
            "PATH": f"{self.venv / 'bin'}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(self.site),
        }


def installation(venv: Path | None = None) -> Installation:
    """Find the wheel in `venv` (else $PARTITA_TRITON_VENV, else .venv-triton); ConfigError if it cannot run here."""
    place = (venv or Path(os.environ.get(VENV_VARIABLE) or DEFAULT_VENV)).absolute()
    sites = sorted(place.glob("lib/python3.*/site-packages"))
    found = next((Installation(place, s, s.parent.name.removeprefix("python")) for s in sites), None)
    if found is None or not (found.server / "bin" / "tritonserver").exists():
        raise ConfigError(f"there is no Triton server in {place}: make triton installs one", key=VENV_VARIABLE)
    if not found.stub.exists():
        raise ConfigError(
            f"its Triton server has no stub for Python {found.python}", key=VENV_VARIABLE, value=str(place)
        )
    if missing := _missing_libraries(found):
        text = f"Triton's stub for Python {found.python} needs {', '.join(missing)}, which this system does not have"
        raise ConfigError(text, key=VENV_VARIABLE, value=str(place))
    return found


def _missing_libraries(found: Installation) -> list[str]:
    """List libraries that the stub would not find; a Python built without a shared library has none to offer."""
    if shutil.which("ldd") is None:
        return []
    said = subprocess.run(["ldd", found.stub], env=found.environment(), capture_output=True, text=True, check=False)
    return [line.split()[0] for line in said.stdout.splitlines() if line.endswith("not found")]


class TritonServer:
    """One server: started, stopped, killed and started again on the same ports.

    `models` are loaded at each start with their files' configurations.
    """

    def __init__(self, repository: Path, scratch: Path, *, found: Installation, models: Sequence[str] = ()) -> None:
        self._repository, self._scratch, self._found, self._load = repository, scratch, found, tuple(models)
        self._http, self._grpc, self._metrics = _free_ports(3)
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self.shared_memory = f"partita_{uuid4().hex[:12]}"
        self.log = scratch / "triton.log"

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint(f"http://127.0.0.1:{self._http}", f"http://127.0.0.1:{self._metrics}")

    @property
    def pid(self) -> int | None:
        """Process id of its keeper, None while it does not run."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it and wait until it is ready; Failed, with the end of its log, if that does not happen."""
        if self._process is not None:
            return
        self._unpack()
        theirs, self._lifeline = os.pipe()
        try:
            self._launch(theirs)
            self._wait_ready()
        except BaseException:  # Ctrl-C too: no server may outlive us
            self.kill()
            raise

    def stop(self, grace_s: float = 5.0) -> None:
        """Let it end, and kill it if it has not after `grace_s`."""
        if self._process is not None and grace_s > 0:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """Kill it on the spot, as a crash would; its models' processes are ended too."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _launch(self, lifeline: int) -> None:
        keeper = [sys.executable, "-I", "-S", str(_KEEPER), str(lifeline), self.shared_memory]
        try:
            with open(self.log, "ab") as log:
                self._process = subprocess.Popen(
                    [*keeper, *self._command()],
                    env=self._found.environment(),
                    cwd=self._scratch,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[lifeline],
                    start_new_session=True,
                )
        finally:
            os.close(lifeline)

    def _unpack(self) -> None:
        """Copy the server's programs, since the stub for this Python has to lie beside its backend."""
        if (self._scratch / "bin").exists():
            return  # a stub of a server just killed may still run, and cannot be written over
        for part in ("backends", "caches", "bin"):
            shutil.copytree(self._found.server / part, self._scratch / part)
        shutil.copy(self._found.stub, self._scratch / "backends" / "python")

    def _command(self) -> list[str]:
        return [
            str(self._scratch / "bin" / "tritonserver"),
            f"--model-repository={self._repository}",
            f"--backend-directory={self._scratch / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self.shared_memory}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self._load),
            "--http-address=127.0.0.1",
            f"--http-port={self._http}",
            "--http-thread-count=256",  # a load takes one of them, and requests on its other connections may wait
            "--grpc-address=127.0.0.1",
            f"--grpc-port={self._grpc}",
            "--metrics-address=127.0.0.1",
            f"--metrics-port={self._metrics}",
            "--allow-gpu-metrics=false",
            "--disable-auto-complete-config",  # a reload takes 0.2 s instead of 2 s; configurations must be complete
            "--exit-timeout-secs=2",
        ]

    def _wait_ready(self) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            code = None if self._process is None else self._process.poll()
            if code is not None or time.monotonic() > until:
                what = f"ended with {code}" if code is not None else f"was not ready after {START_TIMEOUT_S:g} s"
                raise Failed(f"the Triton server {what}; {self.log} ends with: {self._last_words()}", command=None)
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint.url}/v2/health/ready", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " / ".join(lines[-3:])


@contextmanager
def triton_server(
    repository: Path,
    *,
    venv: Path | None = None,
    models: Sequence[str] = (),
    scratch: Path | None = None,
    grace_s: float = 5.0,
) -> Iterator[TritonServer]:
    """Run a server on free ports until the block ends; its scratch folder goes with it unless one is given.

    `models` are loaded at its start with their files' configurations; it has `grace_s` to end by itself.
    """
    found = installation(venv)
    with tempfile.TemporaryDirectory(prefix="partita-triton-") as own:
        server = TritonServer(repository, scratch or Path(own), found=found, models=models)
        try:
            server.start()
            yield server
        finally:
            server.stop(grace_s)


def _free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on; another program may take one before the server does, which then fails."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()
