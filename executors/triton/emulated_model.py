"""A model repository whose models share one emulated device, so that a Triton without a GPU serves like one with it.

A batch of b takes the device alone for ``alpha_ms × b + beta_ms``. The device is a lock on a file: every process of
every model, on every server that is given the same file, waits for it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

INPUT, BATCH, STARTED, FINISHED = "INPUT", "BATCH", "STARTED_NS", "FINISHED_NS"


@dataclass(frozen=True, slots=True)
class EmulatedModel:
    """One model: how long a batch takes, and what its file says of batching (no `max_delay_s`: no dynamic batcher).

    Like an engine compiled for batches up to `largest_batch`, it does not load with a larger one.
    """

    name: str
    alpha_ms: float
    beta_ms: float
    max_batch: int = 8
    max_delay_s: float | None = 0.0
    instances: int = 1
    largest_batch: int = 1024


def make_repository(folder: Path, models: Sequence[EmulatedModel], *, device: Path) -> Path:
    """Write a model repository, replacing models of the same name, and return its folder; `device` is the lock file."""
    device.parent.mkdir(parents=True, exist_ok=True)
    device.touch()
    for model in models:
        place = folder / model.name
        rmtree(place, ignore_errors=True)
        (place / "1").mkdir(parents=True)
        (place / "config.pbtxt").write_text(config_text(model, device), encoding="utf-8")
        (place / "1" / "model.py").write_text(MODEL, encoding="utf-8")
    return folder


def config_text(model: EmulatedModel, device: Path) -> str:
    """Write a model's configuration, complete, as servers that do not complete it themselves need it."""
    parameters: dict[str, object] = {"alpha_ms": model.alpha_ms, "beta_ms": model.beta_ms, "device": device}
    parameters["largest_batch"] = model.largest_batch
    batcher = "" if model.max_delay_s is None else _batcher(model.max_delay_s)
    return "\n".join(
        [
            f'name: "{model.name}"',
            'backend: "python"',
            f"max_batch_size: {model.max_batch}",
            f'input [ {{ name: "{INPUT}" data_type: TYPE_FP32 dims: [ 1 ] }} ]',
            *(
                f'output [ {{ name: "{name}" data_type: {kind} dims: [ 1 ] }} ]'
                for name, kind in ((BATCH, "TYPE_INT32"), (STARTED, "TYPE_INT64"), (FINISHED, "TYPE_INT64"))
            ),
            f"instance_group [ {{ count: {model.instances} kind: KIND_CPU }} ]",
            batcher,
            *(
                f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
                for key, value in parameters.items()
            ),
            "",
        ]
    )


def infer_request(items: int = 1) -> dict[str, Any]:
    """Return a request, as JSON, to the models written here."""
    return {"inputs": [{"name": INPUT, "shape": [items, 1], "datatype": "FP32", "data": [0.0] * items}]}


def _batcher(max_delay_s: float) -> str:
    return f"dynamic_batching {{ max_queue_delay_microseconds: {round(max_delay_s * 1e6)} }}"


MODEL = '''"""Holds the emulated device for as long as a batch takes, and tells the batch's size, start and end."""

import fcntl
import json
import time

import numpy
import triton_python_backend_utils as backend


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        said = {key: value["string_value"] for key, value in config["parameters"].items()}
        if config["max_batch_size"] > int(said["largest_batch"]):
            raise ValueError("this engine takes batches up to " + said["largest_batch"])
        self.alpha_s, self.beta_s = float(said["alpha_ms"]) / 1e3, float(said["beta_ms"]) / 1e3
        self.device = open(said["device"], "w")

    def execute(self, requests):
        sizes = [backend.get_input_tensor_by_name(request, "INPUT").shape()[0] for request in requests]
        started, finished = self.hold(sum(sizes))
        return [self.answer(size, sum(sizes), started, finished) for size in sizes]

    def hold(self, batch):
        fcntl.flock(self.device, fcntl.LOCK_EX)
        try:
            started, until = time.time_ns(), time.monotonic() + self.alpha_s * batch + self.beta_s
            while (left := until - time.monotonic()) > 0:
                time.sleep(left)
            return started, time.time_ns()
        finally:
            fcntl.flock(self.device, fcntl.LOCK_UN)

    def answer(self, size, batch, started, finished):
        said = (("BATCH", batch, "int32"), ("STARTED_NS", started, "int64"), ("FINISHED_NS", finished, "int64"))
        tensors = [backend.Tensor(name, numpy.full((size, 1), value, kind)) for name, value, kind in said]
        return backend.InferenceResponse(tensors)

    def finalize(self):
        self.device.close()
'''
