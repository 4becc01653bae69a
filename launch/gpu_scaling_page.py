"""The page of launch/gpu-scaling.sh, made from its lines of JSON."""

# Issued for eight GPUs. What is seen on fewer is said as such and not scaled up.
STATED_RANKS = 8
DIFFERS = 0.25  # between predicted and measured exchange times: to be explained


def ms(seconds):
    return "" if seconds is None else f"{1e3 * seconds:.4g}"


def us(seconds):
    return "" if seconds is None else f"{1e6 * seconds:.4g}"


def length(tokens):
    return f"{tokens >> 20}M" if tokens >= 1 << 20 and tokens % (1 << 20) == 0 else f"{tokens >> 10}K"


def stripe(document):
    return "contiguous" if document["stripe"] == 0 else str(document["stripe"])


def merging(document):
    """Seconds of the steps that merge, their exchanges included."""
    return sum(s["seconds"]["median"] for s in document["steps"] if s["step"].startswith("merge"))


def call(document):
    """What a call costs: a decode step is replayed from a graph where it can be."""
    if document["case"].startswith("decode") and "graph" in document:
        return document["graph"]["seconds_back_to_back"]
    return document["seconds"]


def differs(document):
    """How much longer exchanges took than predicted, as a share, on the rank that waited least; None on one rank."""
    exchanges = document.get("exchanges")
    if not exchanges or not exchanges["predicted_seconds"]:
        return None
    return exchanges["seconds_least_waiting"]["median"] / exchanges["predicted_seconds"] - 1


def table(*heads):
    return ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]


class Page:
    def __init__(self, documents):
        self.cases = {}
        self.networks = {}
        self.failures = []
        for d in documents:
            if "failed" in d:
                self.failures.append(d)
            elif "case" in d:
                # What failed before has been made good.
                self.failures = [f for f in self.failures if (f["failed"], f["ranks"]) != (d["case"], d["ranks"]) or
                                 d["tokens"] not in f.get("tokens", [])]
                key = (d["case"], d["ranks"], d["tokens"], d["stripe"] if d["ranks"] > 1 else 1, d["exchange"])
                self.cases[key] = d
            elif d.get("measure") == "network":
                self.networks[d["ranks"]] = d
        measured = list(self.cases.values())
        self.first = measured[0]
        self.ranks = sorted({d["ranks"] for d in measured})
        self.lengths = sorted({d["tokens"] for d in measured})
        # The length that targets speak of, or the longest of a dry run.
        self.target_length = 1 << 20 if 1 << 20 in self.lengths else self.lengths[-1]

    def find(self, case, ranks, tokens, exchange, at_stripe=1):
        return self.cases.get((case, ranks, tokens, at_stripe, exchange))

    def alone(self, document):
        """The same case on one rank, in the same lines."""
        case = document["case"].removesuffix(" in tiles")
        return next((d for d in self.cases.values() if (d["case"], d["ranks"], d["tokens"]) == (case, 1, document["tokens"])), None)

    def speedup(self, document):
        alone = self.alone(document)
        return None if alone is None or document["ranks"] == 1 else call(alone)["median"] / call(document)["median"]

    # ------------------------------------------------------------------------------------------ targets

    def targets(self):
        most = self.ranks[-1]
        at = length(self.target_length)
        yield from table("target", f"stated for {STATED_RANKS} GPUs", f"measured on {most}", "")
        owner = self.find("prefill hisa", most, self.target_length, "owner") if most > 1 else None
        lists = self.find("prefill hisa", most, self.target_length, "lists") if most > 1 else None
        tiles = self.find("prefill hisa in tiles", most, self.target_length, "owner") if most > 1 else None
        decode = self.find("decode hisa 1", most, self.target_length, "oneshot") if most > 1 else None

        def row(name, stated, measured, met):
            verdict = "not measured" if measured is None else f"another number of GPUs: {'as' if met else 'not as'} stated" \
                if most != STATED_RANKS else "met" if met else "missed"
            return f"| {name} | {stated} | {'' if measured is None else measured} | {verdict} |"

        value = self.speedup(owner) if owner else None
        rows = next((d["rows"] for d in self.rows("prefill", "hisa")), 4096)
        yield row(f"prefill of {rows} queries at {at}, owner merge, against one GPU", "5 times faster",
                  value and f"{value:.2f} times", value and value >= 5)
        for name, document in (("exchange time hidden under computing, as the library cuts tiles", owner),
                               (f"the same in tiles of {tiles and -(-tiles['rows'] // tiles['exchanges']['tiles'])} rows", tiles)):
            share = document and document["exchanges"]["hidden_share"]
            yield row(f"{name}, at {at}", "70 %", document and f"{100 * share:.0f} %, {document['exchanges']['tiles']} tiles",
                      document and share >= 0.7)
        value = call(decode)["median"] if decode else None
        yield row(f"a decode step of 1 query at {at}, one-shot" + ("" if decode and "graph" in decode else ", no graph"), "40 us",
                  value and f"{us(value)} us", value and value <= 40e-6)
        both = owner and lists
        value = merging(lists) / merging(owner) if both and merging(owner) else None
        whole = call(lists)["median"] / call(owner)["median"] if both else None
        yield row(f"owner merge against the all-gather of lists at {at}: merging, exchanges included", "5 times faster",
                  value and f"{value:.2f} times (whole calls {whole:.2f} times)", value and value >= 5)

    # ------------------------------------------------------------------------------------------ tables

    def rows(self, kind, mode):
        for d in self.cases.values():
            if d["case"].startswith(f"{kind} {mode}"):
                yield d

    def case_line(self, d, unit):
        figure = call(d)
        speedup = self.speedup(d)
        x = d.get("exchanges")
        off = differs(d)
        tiles = f"{x['tiles']}" if x else "1"
        cells = [length(d["tokens"]), str(d["rows"]), str(d["ranks"]), d["exchange"] if d["ranks"] > 1 else "",
                 stripe(d) if d["ranks"] > 1 else "", unit(figure["median"]), f"{unit(figure['min'])} to {unit(figure['max'])}",
                 f"{speedup:.2f}" if speedup else "", f"{100 * speedup / d['ranks']:.0f} %" if speedup else "",
                 unit(x["seconds"]["median"]) if x else "", unit(x["seconds_least_waiting"]["median"]) if x else "",
                 unit(x["predicted_seconds"]) if x else "",
                 "" if off is None else f"{100 * off:+.0f} %", tiles, f"{100 * x['hidden_share']:.0f} %" if x else "",
                 f"{d['bytes_received_per_query_and_rank']:.0f}" if x else ""]
        return "| " + " | ".join(cells) + " |"

    def kind(self, kind, unit, name):
        for mode in ("hisa", "flat"):
            found = sorted(self.rows(kind, mode), key=lambda d: (d["tokens"], d["rows"], d["ranks"], d["stripe"] == 0,
                                                                 d["exchange"], d["exchanges"]["tiles"] if "exchanges" in d else 0))
            if not found:
                continue
            yield f"### {kind.capitalize()}, mode {mode}"
            yield ""
            yield from table("tokens", "queries", "GPUs", "exchange", "stripe", f"{name}", "fastest to slowest", "speed-up",
                             "efficiency", f"exchange, {name.split(', ')[-1]}", "least waiting", "predicted", "", "tiles", "hidden",
                             "bytes a query and rank")
            for d in found:
                yield self.case_line(d, unit)
            yield ""

    def comparison(self):
        yield from table("tokens", "GPUs", "mode", "merging by owner, ms", "by lists, ms", "", "whole call by owner, ms", "by lists, ms",
                         "", "bytes by owner", "by lists")
        for mode, other in (("hisa", "lists"), ("flat", "oneshot")):
            for tokens in self.lengths:
                for ranks in self.ranks:
                    owner = self.find(f"prefill {mode}", ranks, tokens, "owner")
                    lists = self.find(f"prefill {mode}", ranks, tokens, other)
                    if not owner or not lists or ranks == 1 or not merging(owner):
                        continue
                    times = [call(d)["median"] for d in (owner, lists)]
                    yield (f"| {length(tokens)} | {ranks} | {mode} | {ms(merging(owner))} | {ms(merging(lists))} | "
                           f"{merging(lists) / merging(owner):.2f} | {ms(times[0])} | {ms(times[1])} | {times[1] / times[0]:.2f} | "
                           f"{owner['bytes_received_per_query_and_rank']:.0f} | {lists['bytes_received_per_query_and_rank']:.0f} |")
        yield ""

    def steps(self):
        """Prefill by owner merge, or on one rank: ms of each step, of which exchanges."""
        names = [s["step"] for s in self.first["steps"]]
        yield from table("mode", "tokens", "GPUs", *names, "in order", "the call")
        for mode in ("hisa", "flat"):
            for tokens in self.lengths:
                for ranks in self.ranks:
                    d = self.find(f"prefill {mode}", ranks, tokens, "owner") if ranks > 1 else next(
                        (d for d in self.rows("prefill", mode) if d["ranks"] == 1 and d["tokens"] == tokens), None)
                    if not d:
                        continue
                    cells = []
                    for s in d["steps"]:
                        exchange = s.get("exchange_seconds", {}).get("median", 0)
                        cells.append(ms(s["seconds"]["median"]) + (f" ({ms(exchange)})" if exchange else ""))
                    in_order = d["exchanges"]["in_order_seconds"]["median"] if "exchanges" in d else \
                        sum(s["seconds"]["median"] for s in d["steps"])
                    yield f"| {mode} | {length(tokens)} | {ranks} | {' | '.join(cells)} | {ms(in_order)} | {ms(call(d)['median'])} |"
        yield ""

    def network(self):
        yield from table("GPUs", "taken to cost", "measured here")
        for ranks, n in sorted(self.networks.items()):
            yield (f"| {ranks} | {n['taken_latency_us']:g} us, {n['taken_bandwidth_gb_s']:g} GB/s | {n['latency_us']:g} us, "
                   f"{n['bandwidth_gb_s']:g} GB/s |")
        yield ""

    def surprises(self):
        several = [d for d in self.cases.values() if differs(d) is not None]
        off = [d for d in several if abs(differs(d)) > DIFFERS]
        yield f"{len(off)} of {len(several)} cases differ by more than {100 * DIFFERS:.0f} %" + (":" if off else ".")
        yield ""
        if not off:
            return
        yield from table("case", "tokens", "GPUs", "exchange", "stripe", "least waiting, us", "predicted, us", "")
        for d in sorted(off, key=lambda d: -abs(differs(d))):
            x = d["exchanges"]
            yield (f"| {d['case']} | {length(d['tokens'])} | {d['ranks']} | {d['exchange']} | {stripe(d)} | "
                   f"{us(x['seconds_least_waiting']['median'])} | {us(x['predicted_seconds'])} | {100 * differs(d):+.0f} % |")
        yield ""

    def commits(self):
        """What was measured, each with its modes if it is not one for all lines."""
        modes = {}
        for d in self.cases.values():
            modes.setdefault(d.get("commit", "unknown"), set()).add(d["mode"])
        if len(modes) == 1:
            return f"commit {next(iter(modes))}"
        return ", ".join(f"commit {commit} (mode {' and '.join(sorted(of))})" for commit, of in modes.items())

    def head(self):
        first = self.first
        dates = sorted(d["date"] for d in self.cases.values() if "date" in d)
        device = first.get("device")
        yield f"# Scaling over {'GPUs' if device else 'ranks on a CPU, a trial of the script'}"
        yield ""
        yield "Written by `launch/gpu-scaling.sh`; not edited by hand. The JSON lines beside it are what it was made from."
        yield ""
        yield f"- {self.commits()}" + (f", {dates[0]} to {dates[-1]}" if dates else "")
        if device:
            yield (f"- up to {self.ranks[-1]} x {device['name']} of one host, a rank each, over NCCL; driver {device['driver'] or 'unknown'}, "
                   f"runtime {device['cuda_runtime'] // 1000}.{device['cuda_runtime'] % 1000 // 10}; NVLink multicast off")
        yield (f"- H {first['heads']}, D {first['head_dim']}, B {first['block_size']}, m {first['top_blocks']}, k {first['top_k']}; queries "
               "on all ranks, results on all ranks")
        yield ""

    def lines(self):
        yield from self.head()
        yield "## Targets"
        yield ""
        yield from self.targets()
        yield ""
        if self.ranks[-1] != STATED_RANKS:
            yield (f"The targets are stated for {STATED_RANKS} GPUs. What {self.ranks[-1]} give stands beside them as it is; nothing is "
                   "scaled up.")
            yield ""
        yield "## Times"
        yield ""
        yield ("Medians of calls on a stream that is never empty, of the slowest rank; a decode step is its part of a batch of graph "
               "replays, but by owner merge, which cannot be captured: there it is a call. Speed-up is beside one GPU in the same "
               "sweep, efficiency its share of the GPUs. Exchange: of calls that time their steps, one step after the other, with the "
               "waiting for ranks that still compute; least waiting: on the rank that waits least. Beside it what the cost model "
               "predicts, and how far that is off. Hidden: what a call saves against its steps one after the other, as a share of the exchange.")
        yield ""
        yield from self.kind("prefill", ms, "a call, ms")
        yield from self.kind("decode", us, "a step, us")
        yield "## Beside an all-gather of lists"
        yield ""
        yield ("What engines do, with the same kernels in the same sweep: all ranks gather and merge all lists of k (score, position). "
               "In mode flat one-shot is that. Prefill, stripe 1; merging is the steps that merge, exchanges included.")
        yield ""
        yield from self.comparison()
        yield "## Steps"
        yield ""
        yield "Prefill by owner merge on stripe 1, ms, of which exchanges in brackets. The last column is a call whose exchanges run beside."
        yield ""
        yield from self.steps()
        if self.networks:
            yield "## Network"
            yield ""
            yield "What an all-gather costs alone, by `hisa info --measure`, beside what the model takes a collective to cost."
            yield ""
            yield from self.network()
        yield "## Where the cost model is off"
        yield ""
        yield ("The model counts collectives and bytes. Measured is the rank that waits least for others, "
               "which still waits where ranks take turns to be late.")
        yield ""
        yield from self.surprises()
        if self.failures:
            yield "## Not measured"
            yield ""
            for d in self.failures:
                tokens = ", ".join(length(t) for t in d.get("tokens", []))
                yield f"- {d['failed']} on {d['ranks']}{f', {tokens}' if tokens else ''}: {d['why']}"
