"""Run an exported file by its own runtime, in a separate process: ``python -m kd.deploy.runtime REQUEST.json``.

For ONNX files, this module imports numpy and onnxruntime, but not torch or the exporters.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd.evaluation.timing import summarise_times, time_calls

LARGE_BATCH = 128
Array = NDArray[Any]
Run = Callable[[Array], tuple[Array, Array]]  # raw inputs → probabilities, logits


class Timing(NamedTuple):
    """Wall time of one call with a batch of inputs, in seconds."""

    batch: int
    median: float
    p90: float
    calls: int
    threads: int


class Outputs(NamedTuple):
    """Outputs of a file for all test inputs, [N, K] float32 each, and its times for a batch of 1 and of 128."""

    probabilities: Array
    logits: Array
    timings: tuple[Timing, ...]


class RuntimeFailure(ValueError):
    """The runtime could not load or run a file. The message has its last line of output."""


def run_in_new_process(folder: Path, kind: str, file: str, digest: str, inputs: Path, *, threads: int) -> Outputs:
    """Run a file of a deployable folder on inputs, in a new process.

    Args:
        folder: holds the file and ``manifest.json``, and gets temporary files.
        kind: a key of ``kd.deploy.formats.FILES``.
        digest: SHA-256 of the file. A ``.pt2`` file may contain code, so only this content is loaded.
        inputs: ``.npy`` file of raw inputs [N, …].
        threads: of the runtime, at least 1.

    Raises:
        RuntimeFailure: the runtime fails.
    """
    request, result = folder / "request.json", folder / "result.npz"
    order = {"folder": str(folder), "kind": kind, "file": file, "sha256": digest, "inputs": str(inputs)}
    request.write_text(json.dumps({**order, "result": str(result), "threads": threads}), encoding="utf-8")
    # The path of this process: kd may come from a checkout. ``threads`` applies to every library.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", "kd.deploy.runtime", str(request)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        lines = done.stderr.splitlines()
        # An exception's message may have several lines. Lines of the traceback before it are indented.
        starts = [at for at, line in enumerate(lines) if re.match(r"[\w.]+: ", line)]
        lines = lines[starts[-1] :] if starts else lines[-1:]
        reason = " ".join(" ".join(lines).split()) or f"exit status {done.returncode}"
        raise RuntimeFailure(f"{file} could not be run by its runtime in a new process: {reason[:300]}")
    with np.load(result, allow_pickle=False) as saved:
        timings = tuple(Timing(int(b), float(m), float(p), int(c), threads) for b, m, p, c in saved["timings"])
        outputs = Outputs(saved["probabilities"], saved["logits"], timings)
    result.unlink()
    return outputs


def _main(path: str) -> None:
    request = json.loads(Path(path).read_text(encoding="utf-8"))
    run = _LOADERS[request["kind"]](request)
    inputs = np.load(request["inputs"], mmap_mode="r", allow_pickle=False)
    batches = [run(np.array(inputs[i : i + LARGE_BATCH])) for i in range(0, len(inputs), LARGE_BATCH)]
    probabilities, logits = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    timings = [_time(run, np.resize(np.array(inputs[:n]), (n, *inputs.shape[1:]))) for n in (1, LARGE_BATCH)]
    np.savez(request["result"], probabilities=probabilities, logits=logits, timings=np.array(timings))


def _time(run: Run, batch: Array) -> tuple[float, ...]:
    return len(batch), *summarise_times(time_calls(lambda: run(batch)))


def _load_onnx(request: dict[str, Any]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = request["threads"], 1
    content = _read(request)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(batch: Array) -> tuple[Array, Array]:
        probabilities, logits = session.run(["probabilities", "logits"], {"inputs": batch})
        return probabilities, logits

    return run


def _load_safetensors(request: dict[str, Any]) -> Run:
    from kd.deploy.deployed import deploy
    from kd.deploy.load import load_network
    from kd.deploy.manifest import read_manifest

    manifest = read_manifest(Path(request["folder"]))
    network = load_network(manifest, request["file"])
    return _torch_run(deploy(network, manifest), request["threads"])


def _load_pt2(request: dict[str, Any]) -> Run:
    import io

    import torch

    # The only place that loads such a file: content that the parent process has just exported, known by its digest.
    program = torch.export.load(io.BytesIO(_read(request)))
    return _torch_run(program.module(), request["threads"])


def _torch_run(model: Any, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)

    def run(batch: Array) -> tuple[Array, Array]:
        with torch.no_grad():
            probabilities, logits = model(torch.from_numpy(batch))
        return probabilities.numpy(), logits.numpy()

    return run


def _read(request: dict[str, Any]) -> bytes:
    content: bytes = (Path(request["folder"]) / request["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != request["sha256"]:
        raise ValueError("the file was changed after its export")
    return content


_LOADERS: dict[str, Callable[[dict[str, Any]], Run]] = {
    "onnx": _load_onnx,
    "int8": _load_onnx,
    "safetensors": _load_safetensors,
    "pt2": _load_pt2,
}

if __name__ == "__main__":
    _main(sys.argv[1])
