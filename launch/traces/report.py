"""What an index trace looks like, and how much of the exact top-k the two-stage search keeps on it.

    python report.py KEYS.safetensors QUERIES.safetensors

A few lines of NumPy that follow the formulas of README.md by the letter; the library's own command for this is
`hisa audit`. Blocks are B = 128 tokens, with one sink block and one local block.
"""

import sys

import ml_dtypes
import numpy as np
import safetensors

BLOCK = 128
LONG = 8192  # tokens in sight from which a query counts as long
BUDGETS = ((64, 2048), (32, 2048), (64, 512), (16, 512))  # (m blocks, k tokens)
DTYPES = {"F8_E4M3": ml_dtypes.float8_e4m3fn, "F32": np.float32, "I32": np.int32}


def load(path):
    """The tensors of a trace file by name. (safetensors.numpy.load_file cannot read the e4m3 that its save writes.)"""
    with open(path, "rb") as file:
        tensors = safetensors.deserialize(file.read())
    return {name: np.frombuffer(t["data"], DTYPES[t["dtype"]]).reshape(t["shape"]) for name, t in tensors}


def scores(q, weights, keys, key_scale):
    """q [H, D], weights [H], keys [n, D], key_scale [n], all f32 -> [n] f32."""
    return key_scale * (np.maximum(q @ keys.T, 0).T @ weights)


def best(values, count):
    """Positions of the `count` highest of values [n]; equal ones by lower position."""
    return np.argsort(-values, kind="stable")[:count]


def pool(keys, key_scale):
    """keys [N, D], key_scale [N] f32 -> pooled keys [blocks, D] and their scales [blocks], f32. Only the last block
    may be short."""
    true_keys = keys * key_scale[:, None]
    mean = np.stack([true_keys[a:a + BLOCK].mean(axis=0) for a in range(0, len(keys), BLOCK)])
    scale = np.maximum(np.abs(mean).max(axis=1) / np.float32(448), np.float32(1e-10))
    codes = np.clip(mean / scale[:, None], -448, 448).astype(ml_dtypes.float8_e4m3fn)
    return codes.astype(np.float32), scale


def keep_blocks(values, count):
    """Bool [blocks]: the first and the last block in sight, and the best others by values [blocks], `count` in all."""
    forced = values.copy()
    forced[[0, -1]] = np.inf
    kept = np.zeros(len(values), bool)
    kept[best(forced, count)] = True
    return kept


def report(keys, queries):
    """Prints the figures. keys: k [N, D] e4m3, k_scale [N] f32; queries: q [M, H, D] e4m3, weights [M, H] f32,
    cu_seqlen_ks [M] i32 (all 0 here), cu_seqlen_ke [M] i32."""
    k, k_scale = keys["k"].astype(np.float32), keys["k_scale"]
    q, weights = queries["q"].astype(np.float32), queries["weights"]
    if queries["cu_seqlen_ks"].any():
        raise SystemExit("report: windows must start at 0")
    pooled, pooled_scale = pool(k, k_scale)
    recall = {budget: [] for budget in BUDGETS}
    zeros, spread, shares = [], [], []
    for row, end in enumerate(queries["cu_seqlen_ke"]):
        token = scores(q[row], weights[row], k[:end], k_scale[:end])
        # As in the library, a pooled key covers all stored tokens of its block. So in the query's own block it also
        # holds tokens after the query; that block is always kept, whatever its score.
        seen = -(-int(end) // BLOCK)
        block = scores(q[row], weights[row], pooled[:seen], pooled_scale[:seen])
        zeros.append((token == 0).mean())
        if end > LONG:
            top = best(token, 2048)
            spread.append((np.median(token), token[top[-1]], token[top[511]], token[top[0]]))
            shares.append((len(np.unique(top // BLOCK)) / seen, (top >= end - 2048).mean(), (token[top] == 0).mean()))
        for m, count in BUDGETS:
            exact = best(token, count)
            kept = np.repeat(keep_blocks(block, min(m, seen)), BLOCK)[:end]
            # The refinement is exact, so what is lost of the top is what stood in blocks that were not kept.
            recall[m, count].append((seen > m, kept[exact].mean()))
    print(f"report: key scales {k_scale.min():.4g} to {k_scale.max():.4g}; {np.mean(zeros):.3f} of all scores are 0")
    print(f"report: means over the {len(spread)} queries that see more than {LONG} tokens:")
    print("report:   score: median {:.3f}, 2048th {:.3f}, 512th {:.3f}, first {:.3f}".format(*np.mean(spread, axis=0)))
    print("report:   the top 2048 touch {:.3f} of the blocks; {:.3f} of them are among the last 2048 tokens; "
          "{:.3f} of them score 0".format(*np.mean(shares, axis=0)))
    for (m, count), rows in recall.items():
        cut = np.array([value for is_cut, value in rows if is_cut])
        print(f"report: m {m:2d}, k {count:4d}: recall {np.mean([value for _, value in rows]):.4f} over all queries; "
              f"{cut.mean():.4f} over the {len(cut)} that see more than m blocks (lowest {cut.min():.4f})")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    report(*(load(path) for path in sys.argv[1:]))
