"""Runs hisa bench on several numbers of ranks, and writes the lines and the page of it. Called by launch/gpu-scaling.sh."""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import gpu_scaling_page

K, M = 1 << 10, 1 << 20
LIMIT = 90  # seconds of a start, without a new line

# What is measured, by backend: lengths, rows of prefill and of decode, rows of the tiles that are asked for.
SHAPES = {
    "cuda": {"lengths": [128 * K, M, 4 * M], "prefill": 4096, "decode": [1, 8, 64], "tile": 1024, "more": ["--graph"]},
    "cpu": {"lengths": [4 * K, 8 * K], "prefill": 64, "decode": [1, 4], "tile": 16,
            "more": ["--heads", 8, "--head-dim", 64, "--block-size", 64, "--top-blocks", 16, "--top-k", 256, "--threads", 1]},
}


def starts(options, ranks):
    """(name, arguments but --tokens) of each start of the command on so many ranks."""
    shape = SHAPES[options.backend]
    shared = [v for v in shape["more"] if v != "--graph"]
    graph = [v for v in shape["more"] if v == "--graph"]
    stripes = ["--stripe", "1,contiguous"] if ranks > 1 else []
    # In mode flat one-shot gathers lists as it is.
    exchanges = {"hisa": "owner,oneshot,lists", "flat": "owner,oneshot"}
    for mode in ("hisa", "flat"):
        prefill = ["--rows", shape["prefill"], "--neighbours", shape["prefill"], "--needles", 1, "--mode", mode, *shared]
        few = 2 if options.quick else 10 if mode == "hisa" else 5
        exchange = ["--exchange", exchanges[mode]] if ranks > 1 else []
        yield f"prefill {mode}", [*prefill, *stripes, *exchange, "--repeats", few, "--warmup", 2]
        if ranks > 1:
            # The policy may take one tile, under which nothing can be hidden.
            yield (f"prefill {mode} in tiles", [*prefill, "--exchange", "owner", "--tile-rows", shape["tile"], "--repeats", few,
                                               "--warmup", 2])
    for mode in ("hisa", "flat"):
        # A batch of replays is 50 of them: of mode flat few are enough.
        many = 2 if options.quick else 100 if mode == "hisa" else 10
        exchange = ["--exchange", exchanges[mode]] if ranks > 1 else []
        for rows in shape["decode"]:
            yield (f"decode {mode} {rows}", ["--rows", rows, "--needles", 1, "--mode", mode, *shared, *graph, *stripes, *exchange,
                                             "--repeats", many, "--warmup", 3])


class Sweep:
    def __init__(self, options, path):
        self.options = options
        self.path = path
        self.began = time.monotonic()

    def keep(self, document):
        """Adds a line to the file, for good."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")

    def command(self, ranks, *arguments):
        options = self.options
        comm = "nccl" if options.backend == "cuda" else "mpi"
        launch = [options.mpirun, "-n", str(ranks)] if ranks > 1 else []
        where = ["--comm", comm if ranks > 1 else "self", "--backend", options.backend]
        return [*launch, options.hisa, *map(str, arguments[:1]), *where, *map(str, arguments[1:])]

    def run(self, command, take):
        """Runs a command and hands each of its lines on; what it complained of, or ''."""
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
            late = []

            def end():
                # The launcher first, which ends its ranks; then whatever is left of the group that was started here.
                late.append(True)
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)

            errors = []
            reader = threading.Thread(target=lambda: errors.extend(process.stderr), daemon=True)
            reader.start()
            timer = threading.Timer(LIMIT, end)
            timer.start()
            for line in process.stdout:
                timer.cancel()
                take(line)
                timer = threading.Timer(LIMIT, end)
                timer.start()
            timer.cancel()
            process.wait()
            reader.join(5)
            if late:
                return f"nothing new for {LIMIT} s"
            said = [line.strip() for line in errors if "hisa" in line] or [line.strip() for line in errors if line.strip()]
            return "" if process.returncode == 0 else (said or [f"exit status {process.returncode}"])[0]

    def network(self, ranks):
        """What a collective costs here, beside what the cost model takes it to cost. Whether the ranks can talk at all.

        The model keeps its own constants: they are of whole exchanges, and a user's calls are cut by them."""
        lines = []
        why = self.run(self.command(ranks, "info", "--measure"), lines.append)
        text = "".join(lines)
        found = re.search(r"--comm-latency (\S+) --comm-bandwidth (\S+)", text)
        taken = re.search(r"latency (\S+) us, (\S+) GB/s", text)
        if not found:
            self.keep({"failed": "network", "ranks": ranks, "why": why or "two sizes took the same time"})
            return not why
        self.keep({"measure": "network", "ranks": ranks, "latency_us": float(found[1]), "bandwidth_gb_s": float(found[2]),
                   "taken_latency_us": float(taken[1]), "taken_bandwidth_gb_s": float(taken[2])})
        return True

    def start(self, ranks, name, arguments):
        """All lengths in one start. Where one fails it is left out, and the others are started again."""
        lengths = list(SHAPES[self.options.backend]["lengths"])
        while lengths:
            began = time.monotonic()
            if began - self.began > self.options.seconds:
                self.keep({"failed": name, "ranks": ranks, "tokens": lengths, "why": "not run: time is up"})
                return
            seen = []

            def take(line, seen=seen):
                if line.startswith("{"):
                    document = json.loads(line)
                    seen.append(document["tokens"])
                    self.keep({"case": name, **document})

            why = self.run(self.command(ranks, "bench", "--json", "-", "--commit", self.options.commit, "--tokens",
                                        ",".join(map(str, lengths)), *arguments), take)
            print(f"{time.monotonic() - self.began:6.1f} s  {time.monotonic() - began:5.1f} s  {ranks} ranks, {name}: {len(seen)} "
                  f"cases{': ' + why if why else ''}", flush=True)
            if not why:
                return
            # The length that is not complete is the one that failed.
            whole = len(arguments[arguments.index("--stripe") + 1].split(",")) if "--stripe" in arguments else 1
            whole *= len(arguments[arguments.index("--exchange") + 1].split(",")) if "--exchange" in arguments else 1
            at = sum(seen.count(tokens) >= whole for tokens in lengths)
            self.keep({"failed": name, "ranks": ranks, "tokens": lengths[at:at + 1], "why": why})
            lengths = lengths[at + 1:]

    def all(self):
        for ranks in self.options.ranks:
            if ranks > 1 and not self.network(ranks):
                print(f"{time.monotonic() - self.began:6.1f} s  {ranks} ranks cannot talk: none of their cases is tried", flush=True)
                continue
            for name, arguments in starts(self.options, ranks):
                if re.search(self.options.only, name):
                    self.start(ranks, name, arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hisa", required=True)
    parser.add_argument("--mpirun", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--ranks", required=True, type=lambda text: sorted({int(word) for word in text.split(",")}))
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--append", action="store_true")
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    name = re.sub(r"[^a-z0-9]+", "-", options.device.lower()).strip("-").removeprefix("nvidia-")
    base = os.path.join(options.out, "scaling-" + (name or "unknown"))
    if not options.page_only:
        if not options.append:
            with open(base + ".jsonl", "w", encoding="utf-8"):
                pass
        Sweep(options, base + ".jsonl").all()
    with open(base + ".jsonl", encoding="utf-8") as file:
        documents = [json.loads(line) for line in file]
    if not any("case" in document for document in documents):
        sys.exit("gpu-scaling: no case could be measured: " + "; ".join(d["why"] for d in documents if "failed" in d))
    page = gpu_scaling_page.Page(documents)
    with open(base + ".md.new", "w", encoding="utf-8") as file:
        file.write("\n".join(page.lines()).rstrip() + "\n")
    os.replace(base + ".md.new", base + ".md")
    print("\n".join(page.targets()))
    print(base + ".md")
    return bool(page.failures)


if __name__ == "__main__":
    sys.exit(main())
