"""Runs the cases that the CUDA backend has targets for, and writes the page of results. Called by launch/gpu-results.sh."""
import argparse
import json
import os
import re
import subprocess
import sys
import time

PREFILL = ["--needles", "1", "--overlap"]
DECODE = ["--graph", "--mode", "hisa"]
LIMIT = 120  # seconds of a case


def prefill(rows, tokens, mode, repeats):
    return ["--rows", rows, "--neighbours", rows, "--tokens", tokens, "--mode", mode, "--repeats", repeats, *PREFILL]


# Name, must and aim in ms, arguments, and where in the JSON the figure is that the targets speak of.
CALL = ("seconds",)
REPLAY = ("graph", "seconds_back_to_back")
CASES = [
    ("prefill, 4096 queries, L 131072, hisa, topics", 1.2, 0.7, prefill(4096, 131072, "hisa", 30), CALL),
    ("prefill, 4096 queries, L 131072, hisa, random queries", 1.2, 0.7, prefill(4096, 131072, "hisa", 30) + ["--query-family", "random"], CALL),
    ("prefill, 4096 queries, L 32768, hisa, topics", 1.0, 0.6, prefill(4096, 32768, "hisa", 30), CALL),
    ("prefill, 4096 queries, L 32768, hisa, random queries", 1.0, 0.6, prefill(4096, 32768, "hisa", 30) + ["--query-family", "random"], CALL),
    ("prefill, 512 queries, L 1048576, hisa, topics", 0.35, 0.2, prefill(512, 1048576, "hisa", 30), CALL),
    ("prefill, 512 queries, L 1048576, hisa, random queries", 0.35, 0.2, prefill(512, 1048576, "hisa", 30) + ["--query-family", "random"], CALL),
    ("prefill, 4096 queries, L 131072, flat, topics", 9.5, 7.5, prefill(4096, 131072, "flat", 10), CALL),
    ("prefill, 4096 queries, L 131072, flat, random queries", 9.5, 7.5, prefill(4096, 131072, "flat", 10) + ["--query-family", "random"], CALL),
    ("decode, 1 query, L 131072, hisa, graph replay", 0.025, 0.012,
     ["--rows", 1, "--tokens", 131072, "--repeats", 200, *DECODE], REPLAY),
    ("decode, 1 query, L 1048576, hisa, graph replay", 0.030, 0.015,
     ["--rows", 1, "--tokens", 1048576, "--repeats", 200, *DECODE], REPLAY),
    ("decode, 32 queries of 32 sequences, L 131072, hisa, graph replay", 0.060, 0.035,
     ["--rows", 32, "--sequences", 32, "--needles", 1, "--tokens", 131072, "--repeats", 200, *DECODE], REPLAY),
    ("append 4096 tokens (copy and pool), to 131072", 0.040, 0.015,
     ["--rows", 1, "--tokens", 131072, "--mode", "block", "--append", 4096, "--repeats", 200], CALL),
]


def run(hisa, arguments):
    """The JSON lines of a run, and what it complained of."""
    command = [hisa, "bench", "--backend", "cuda", "--warmup", "3", "--json", "-", *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return [], f"took more than {LIMIT} s"
    if done.returncode != 0:
        return [], (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    return [json.loads(line) for line in done.stdout.splitlines()], ""


def measure(options):
    """(case, line of JSON or None, complaint) of each case."""
    measured = []
    for case in CASES:
        name, _, _, arguments, _ = case
        arguments = [*arguments, "--commit", options.commit]
        if options.quick:
            place = arguments.index("--repeats") + 1
            arguments[place] = max(2, arguments[place] // 10)
        began = time.monotonic()
        lines, complaint = run(options.hisa, arguments)
        if not lines and "--graph" in arguments:
            # Better a figure without the graph than none; the page says so.
            arguments.remove("--graph")
            lines, _ = run(options.hisa, arguments)
        # A run that appends prints the mode that it had to have as well.
        wanted = [d for d in lines if ("measure" in d) == ("--append" in arguments)]
        measured.append((case, wanted[0] if wanted else None, complaint))
        print(f"{time.monotonic() - began:6.1f} s  {name}{': ' + complaint if complaint else ''}", flush=True)
    return measured


def at(document, path):
    for name in path:
        document = document.get(name) if document else None
    return document


def milliseconds(seconds):
    return "-" if seconds is None else f"{1e3 * seconds:.4g}"


def verdict(must, aim, seconds):
    value = 1e3 * seconds
    if value <= aim:
        return "aim met"
    if value <= must:
        return "must met"
    return f"missed, {value / must:.1f} times must"


def target_row(case, document, complaint):
    name, must, aim, _, path = case
    figure = at(document, path)
    if figure is None:
        return f"| {name} | {must:g} | {aim:g} | not measured | | | {complaint or 'see below'} |"
    cold = at(document, (*path[:-1], "seconds_l2_emptied"))
    return (f"| {name} | {must:g} | {aim:g} | {milliseconds(figure['median'])} | {milliseconds(figure['min'])} to "
            f"{milliseconds(figure['max'])} | {milliseconds(cold and cold['median'])} | "
            f"{verdict(must, aim, figure['median'])} |")


def step_rows(document, ceilings):
    matrix = ceilings["matrix_gflops"]
    copy = ceilings["copy_bytes_per_second"]
    for step in document["steps"]:
        seconds = step["seconds"]
        head = f"| {step['step']} | {milliseconds(seconds['median'])} | {milliseconds(seconds['min'])} to {milliseconds(seconds['max'])} |"
        if "gflops" not in step or not step["gflops"]:
            yield head + " | | | | |"
            continue
        share = f"{100 * step['gflops'] / matrix:.1f} %" if matrix else "-"
        rate = step["key_bytes_per_second"]
        yield (f"{head} {step['keys_per_query']:.0f} | {step['gflops'] / 1e3:.1f} | {share} | {rate / 1e9:.0f} | "
               f"{100 * rate / copy:.0f} % |")


def details(case, document, complaint):
    yield f"### {case[0]}"
    yield ""
    if complaint:
        yield f"With these options it failed, and was measured without the graph: `{complaint}`"
        yield ""
    if "measure" in document:
        yield (f"{document['bytes'] / 1e6:.2f} MB read and written, {document['bytes'] / document['seconds']['median'] / 1e9:.0f} GB/s. "
               "The keys appended lie in L2, as those do that a layer has just made, unless L2 is emptied.")
        yield ""
        return
    device = document["device"]
    queries = document["query_sets"] * document["query_set_bytes"]
    yield (f"{document['rows']} rows, {document.get('sequences', 1)} sequences, {document.get('query_family', 'topic-structured')} "
           f"queries, exchange {document['exchange']}, scored with {document['scorer']}, {document['repeats']} repeats. {document['query_sets']} sets of queries in turn "
           f"({queries / 1e6:.1f} MB), index {document['index_bytes'] / 1e6:.0f} MB, L2 {device['l2_bytes'] / 1e6:.0f} MB: "
           f"{'keys are L2-warm unless it is emptied' if document['index_bytes'] <= device['l2_bytes'] else 'keys do not all stay in L2'}. "
           f"Keys by the windows, {'exact' if document['keys_exact'] else 'a bound'}.")
    share = document.get("neighbours_share")
    if share:
        yield (f"Neighbouring queries share {100 * share['tokens']:.1f} % of the tokens they select and {100 * share['blocks']:.1f} % "
               "of the blocks that hold them.")
    yield ""
    graph = document.get("graph")
    if graph:
        yield "| ms | median | fastest to slowest |"
        yield "| --- | --- | --- |"
        for name, figure in (("a replay, back to back in batches of %d" % graph["batch_calls"], graph["seconds_back_to_back"]),
                             ("a replay between two events", graph["seconds"]),
                             ("the same, L2 emptied before", graph["seconds_l2_emptied"]),
                             ("a call without the graph", document["seconds"])):
            yield f"| {name} | {milliseconds(figure['median'])} | {milliseconds(figure['min'])} to {milliseconds(figure['max'])} |"
        yield ""
    yield "| step | ms | fastest to slowest | keys a query | TFLOP/s | of the product | GB/s of keys | of the copy |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    yield from step_rows(document, document["ceilings"])
    yield ""


def page(measured):
    documents = [document for _, document, _ in measured if document]
    first = documents[0]
    device = first["device"]
    matrix = [d["ceilings"]["matrix_gflops"] for d in documents if d["ceilings"]["matrix_gflops"]]
    copy = [d["ceilings"]["copy_bytes_per_second"] for d in documents]
    product = f"{min(matrix) / 1e3:.0f} to {max(matrix) / 1e3:.0f} TFLOP/s" if matrix else ""
    yield f"# Measured on {device['name']}"
    yield ""
    yield "Written by `launch/gpu-results.sh`; not edited by hand. The JSON lines beside it are what it was made from."
    yield ""
    yield f"- commit {first['commit']}, {documents[0]['date']} to {documents[-1]['date']}"
    yield (f"- {device['name']}, compute capability {device['compute_capability']}, {device['multiprocessors']} multiprocessors, "
           f"L2 {device['l2_bytes'] / 1e6:.1f} MB; driver {device['driver'] or 'unknown'} (CUDA {device['cuda_driver'] // 1000}."
           f"{device['cuda_driver'] % 1000 // 10}), runtime {device['cuda_runtime'] // 1000}.{device['cuda_runtime'] % 1000 // 10}")
    yield (f"- measured beside each case: copy {min(copy) / 1e12:.2f} to {max(copy) / 1e12:.2f} TB/s (read + written); "
           f"matrix product {product} ({first['ceilings']['matrix']})")
    yield (f"- H {first['heads']}, D {first['head_dim']}, B {first['block_size']}, m {first['top_blocks']}, k {first['top_k']}; one "
           "rank; everything from queries to indices")
    yield ""
    yield "| case | must, ms | aim, ms | measured, ms | fastest to slowest | L2 emptied | |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for case, document, complaint in measured:
        yield target_row(case, document, complaint)
    yield ""
    yield ("Times are medians of events on a stream that is never empty: calls follow each other without a wait, with another set "
           "of queries each. 'L2 emptied': more memory than L2 holds is written before each call, outside of its time. A graph "
           "replay counts as its part of a batch of replays back to back. Prefill queries stand at consecutive positions at the end "
           "of the sequence and see all before them; topic-structured ones look for a few of the topics they have passed, random "
           "ones for nothing.")
    yield ""
    yield "## Steps"
    yield ""
    yield ("From calls that time their own steps, by events between them, which cost some microseconds. Rates: 2 H D operations a key; "
           "key bytes (D + 4 a key) as if each query read its keys for itself, so that sharing shows as more than the copy gives.")
    yield ""
    for case, document, complaint in measured:
        if document:
            yield from details(case, document, complaint)


def write(path, text):
    temporary = path + ".new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hisa", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    measured = measure(options)
    documents = [(case, document) for case, document, _ in measured if document]
    if not documents:
        sys.exit("gpu-results: no case could be measured")
    name = re.sub(r"[^a-z0-9]+", "-", documents[0][1]["device"]["name"].lower()).strip("-")
    base = os.path.join(options.out, "gpu-" + name.removeprefix("nvidia-"))
    write(base + ".jsonl", "".join(json.dumps({"case": case[0], **document}) + "\n" for case, document in documents))
    write(base + ".md", "\n".join(page(measured)).rstrip() + "\n")
    for case, document, complaint in measured:
        print(target_row(case, document, complaint))
    print(f"{base}.md, {time.monotonic() - began:.0f} s")
    return any(document is None or complaint for _, document, complaint in measured)


if __name__ == "__main__":
    sys.exit(main())
