"""Times the kernels of one rank of several by ncu, and writes the page of them. Called by launch/gpu-ranks.sh."""
import argparse
import csv
import glob
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

RANKS = [1, 2, 4, 8]
REPEATS = 5
LIMIT = 200  # seconds of a run
FIRST = "make_rows"  # of a call
SCORING = ["score_blocks", "score_tokens"]
NAME = re.compile(r"\b([a-z][a-z0-9_]*)(?:<[^()]*>)?\(")


def profile(options, ranks):
    """(kernel, microseconds) of every launch, in order, and the device's name."""
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "log")
        command = ["ncu", "--clock-control", "none", "--metrics", "gpu__time_duration.sum", "--csv", "--log-file", log, options.hisa,
                   "bench", "--backend", "cuda", "--as-ranks", str(ranks), "--tokens", options.tokens, "--rows", str(options.rows),
                   "--mode", "hisa", "--repeats", str(REPEATS), "--warmup", "1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        with open(log, encoding="utf-8") as lines:
            rows = list(csv.reader(line for line in lines if line.startswith('"')))
    if done.returncode != 0 or len(rows) < 2:
        sys.exit(f"gpu-ranks: {ranks} ranks: {(done.stderr.strip().splitlines() or ['ncu wrote nothing'])[-1]}")
    name, value, unit = (rows[0].index(title) for title in ("Kernel Name", "Metric Value", "Metric Unit"))
    to_us = {"ns": 1e-3, "nsecond": 1e-3, "us": 1, "usecond": 1, "ms": 1e3, "msecond": 1e3}
    found = [(NAME.search(row[name]), float(row[value].replace(",", "")) * to_us[row[unit]]) for row in rows[1:]]
    device = re.search(r"one after another on one (.*), L2", done.stdout)
    return [(kernel.group(1), us) for kernel, us in found if kernel], device.group(1) if device else "unknown device"


def of_last_calls(launches, ranks):
    """Per kernel [rank][repeat] of the timed calls, which come last and begin with FIRST each: kernels that each launches once."""
    calls = REPEATS * ranks
    begins = [at for at, (kernel, _) in enumerate(launches) if kernel == FIRST]
    if len(begins) < calls:
        sys.exit(f"gpu-ranks: {ranks} ranks: {len(begins)} launches of {FIRST}, where there must be {calls} at least")
    kernels = {}
    for kernel, us in launches[begins[-calls]:]:
        kernels.setdefault(kernel, []).append(us)
    return {kernel: [times[rank::ranks] for rank in range(ranks)] for kernel, times in kernels.items() if len(times) == calls}


def fit(times):
    """(F, S) so that F + S / ranks is each of {ranks: time} with the least sum of squares of relative errors."""
    rows = [(1 / t, 1 / (p * t)) for p, t in times.items()]
    aa, ab, bb = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = (sum(r[i] for r in rows) for i in (0, 1))
    det = aa * bb - ab * ab
    return (a * bb - b * ab) / det, (b * aa - a * ab) / det


def share_row(name, times):
    one = times[RANKS[0]]
    fixed, shared = fit(times)
    over = [f"{times[p]:.1f} ({times[p] * p / one:.2f})" for p in RANKS]
    net = [f"{(times[p] - fixed) * p / shared:.2f}" for p in RANKS]
    return f"| {name} | {' | '.join(over)} | {fixed:.1f} | {' | '.join(net)} |"


def page(lines):
    of = lines[0]
    means = {}
    for line in lines:
        means.setdefault(line["kernel"], {})[line["ranks"]] = statistics.mean(line["us"])
    scoring = {p: sum(means[kernel][p] for kernel in SCORING) for p in RANKS}
    text = [f"# What one rank of several computes, on {of['device']}", "",
            "Written by `launch/gpu-ranks.sh`; not edited by hand. The JSON lines beside it are what it was made from.", "",
            f"- commit {of['commit']}, {of['began']}",
            f"- {of['tokens']} tokens, {of['rows']} queries that see from half of them to all, mode hisa; H 64, D 128, "
            "B 128, m 64, k 2048", "",
            "Ranks run one after another on one GPU, each on its own shard. Times are of ncu, which runs kernel after kernel with cold "
            f"caches and counts some 2 us a launch: median of {REPEATS} calls, mean of the ranks.", "",
            "## Scoring", "",
            "In brackets: times its share of one rank's. *Does not shrink*: F of F + S / P, by least squares of the relative errors. The "
            "last columns are what is left without F, times its share: how well scoring itself falls as 1 / P. "
            "src/backend/cuda/NOTES-ranks.md says what F is.", "",
            f"| us | {' | '.join(f'P = {p}' for p in RANKS)} | does not shrink | {' | '.join(f'P = {p}' for p in RANKS)} |",
            "| --- |" + " --- |" * (2 * len(RANKS) + 1)]
    text += [share_row(kernel, means[kernel]) for kernel in SCORING]
    text += [share_row("both", scoring), "",
             f"## Every kernel with {RANKS[-1]} ranks", "",
             "| us | mean | fastest rank | slowest rank | of one rank's calls |", "| --- | --- | --- | --- | --- |"]
    for line in lines:
        if line["ranks"] == RANKS[-1]:
            one = means[line["kernel"]].get(1)
            us = line["us"]
            text.append(f"| {line['kernel']} | {statistics.mean(us):.1f} | {min(us):.1f} | {max(us):.1f} | "
                        f"{'' if one is None else f'{one:.1f}'} |")
    return "\n".join(text) + "\n"


def measure(options):
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lines = []
    for ranks in RANKS:
        launches, device = profile(options, ranks)
        for kernel, calls in of_last_calls(launches, ranks).items():
            us = [round(statistics.median(call), 3) for call in calls]
            lines.append({"device": device, "commit": options.commit, "began": began, "tokens": options.tokens, "rows": options.rows,
                          "ranks": ranks, "kernel": kernel, "us": us})
        print(f"{ranks} ranks: " + ", ".join(f"{line['kernel']} {statistics.mean(line['us']):.1f}" for line in lines
                                             if line["ranks"] == ranks), flush=True)
    name = re.sub(r"[^a-z0-9]+", "-", lines[0]["device"].lower()).strip("-").removeprefix("nvidia-")
    path = os.path.join(options.out, f"ranks-{name}.jsonl")
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)
    return [path]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hisa", default="")
    parser.add_argument("--out", required=True)
    parser.add_argument("--commit", default="")
    parser.add_argument("--tokens", default="1M")
    parser.add_argument("--rows", default=4096, type=int)
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    for path in glob.glob(os.path.join(options.out, "ranks-*.jsonl")) if options.page_only else measure(options):
        with open(path, encoding="utf-8") as lines:
            text = page([json.loads(line) for line in lines])
        with open(path.removesuffix("jsonl") + "md", "w", encoding="utf-8") as out:
            out.write(text)
        print(f"wrote {path.removesuffix('jsonl')}md")


if __name__ == "__main__":
    main()
