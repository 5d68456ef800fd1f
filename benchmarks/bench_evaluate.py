"""The cost of judging: `what-next evaluate` with all baselines, on ml-100k and on 22,000 users and 12,000 items.

Prints JSON lines. Each set is judged by the command in a process of its own, including its start, with a model of one
pass: first with new baselines (`--anew`), then with the cached ones. Missing sets are left out. `seconds` is by the
clock; `processor_seconds` is a lower bound for an idle machine with one thread. Memory is the peak of the process. Each
line has the machine's matrix rate.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sets
import torch
from rates import matrix_rate

from what_next.data import Options, import_files, save

SETUP = """train, yes, data, log.parquet, algorithm, next_item, split, leave_last_out, epochs, 64, dim, 16, threads, {}
model_agent_path, agent.safetensors, model_critic_path, critic.safetensors
"""


def tell(**values: object) -> None:
    print(json.dumps({"benchmark": "evaluate", **values}), flush=True)


def prepare(name: str, folder: Path, threads: int, data: Path) -> None:
    """The data set as an imported file, with a setup and its model."""
    log, items = sets.SETS[name](data / name)
    log.write_parquet(folder / "raw.parquet")
    items.write_parquet(folder / "items.parquet")
    save(import_files([folder / "raw.parquet"], folder / "items.parquet", Options()), folder / "log.parquet")
    (folder / "setup.txt").write_text(SETUP.format(threads))
    command("train", folder, threads)


def command(name: str, folder: Path, threads: int, *options: str) -> dict[str, float]:
    """Run a command; returns its time and memory."""
    words = [sys.executable, "-m", "what_next", name, str(folder / "setup.txt"), *options]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    with (folder / "said.txt").open("wb") as said:
        process = subprocess.Popen(words, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((folder / "said.txt").read_text())
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="ml-100k,amazon-beauty-s3rec")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=sets.FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.sets.split(","):
        if not (arguments.folder / name).is_dir():
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            prepare(name, folder, arguments.threads, arguments.folder)
            for run, options in (("chosen", ["--anew"]), ("kept", [])):
                rate = round(matrix_rate() / 1e9)
                took = command("evaluate", folder, arguments.threads, "--json", *options)
                tell(data=name, baselines=run, threads=arguments.threads, **took, matrix_gflops=rate)


if __name__ == "__main__":
    main()
