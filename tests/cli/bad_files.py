#!/usr/bin/env python3
"""Writes small traces into the current folder: a good one, and one for each way in which a file can be bad.

Prints a line for each bad one: which file is bad (keys or queries), its name, and an extended regular expression, without
regard to case, that the error message has to match."""
import json
import struct

N, D, H, M = 300, 32, 2, 5


def floats(values):
    return struct.pack(f"<{len(values)}f", *values)


def ints(values):
    return struct.pack(f"<{len(values)}i", *values)


def good_keys():
    codes = bytes((i * 7 + i // D) % 0x78 for i in range(N * D))
    return {"k": ["F8_E4M3", [N, D], codes], "k_scale": ["F32", [N], floats([1.0] * N)]}


def good_queries():
    codes = bytes((i * 5 + i // H) % 0x78 for i in range(M * H * D))
    return {
        "q": ["F8_E4M3", [M, H, D], codes],
        "weights": ["F32", [M, H], floats([0.5] * (M * H))],
        "cu_seqlen_ks": ["I32", [M], ints([0] * M)],
        "cu_seqlen_ke": ["I32", [M], ints([N, N - 1, 200, 100, 0])],
    }


def image(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def parts(tensors):
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    return header, data


def write(name, content):
    with open(name, "wb") as file:
        file.write(content)


def patched(content, at, values):
    return content[:at] + values + content[at + len(values):]


BAD = []


def bad(kind, name, content, pattern):
    write(name, content)
    BAD.append((kind, name, pattern))


def bad_tensor(kind, name, tensor, change, pattern):
    """One tensor of a good file replaced by change(dtype, shape, content), or left out if that gives None."""
    tensors = good_keys() if kind == "keys" else good_queries()
    replaced = change(*tensors[tensor])
    if replaced is None:
        del tensors[tensor]
    else:
        tensors[tensor] = replaced
    bad(kind, name, image(*parts(tensors)), pattern)


def bad_header(name, change, pattern):
    header, data = parts(good_keys())
    bad("keys", name, image(change(header), data), pattern)


def changed(header, tensor, field, value):
    header[tensor][field] = value
    return header


def containers():
    header, data = parts(good_keys())
    whole = image(header, data)
    bad("keys", "empty", b"", "empty|short|header|bytes")
    bad("keys", "five-bytes", whole[:5], "short|header|bytes")
    bad("keys", "cut-in-header", whole[:40], "header")
    bad("keys", "cut-in-data", whole[:-7], "offset|beyond|bytes|end")
    bad("keys", "header-too-long", struct.pack("<Q", 1 << 62) + whole[8:], "header")
    bad("keys", "header-is-zero", struct.pack("<Q", 0) + whole[8:], "header|json")
    bad("keys", "not-json", image(b"{this is not JSON", data), "json|header")
    bad("keys", "json-array", image(b"[1, 2, 3]", data), "object|header|json")
    bad("keys", "deep-json", image(b'{"k":' + b"[" * 100000 + b"]" * 100000 + b"}", data), "json|deep|nest|header")
    bad("keys", "trailing-data", whole + b"more", "hole|beyond|bytes|cover|end")
    text = json.dumps(header)
    double = text[:-1] + ', "k": ' + json.dumps(header["k"]) + "}"
    bad("keys", "duplicate-name", image(double.encode(), data), "twice|duplicate|same name|more than once")
    bad_header("offsets-beyond", lambda h: changed(h, "k", "data_offsets", [0, 1 << 40]), "k.*(offset|beyond|bytes|end)")
    bad_header("offsets-reversed", lambda h: changed(h, "k", "data_offsets", [N * D, 0]), "k.*(offset|begin|end)")
    bad_header("offsets-negative", lambda h: changed(h, "k", "data_offsets", [-8, N * D - 8]), "k.*(offset|negative)")
    bad_header("offsets-fraction", lambda h: changed(h, "k", "data_offsets", [0.5, N * D]), "k.*(offset|whole|integer)")
    bad_header("overlap", lambda h: changed(h, "k_scale", "data_offsets", [N * D - 4, N * D + 4 * N - 4]),
               "overlap|gap|hole|cover|contiguous")
    bad_header("shape-overflow", lambda h: changed(h, "k", "shape", [1 << 40, 1 << 40]), "k.*(shape|overflow|product|large)")
    bad_header("shape-negative", lambda h: changed(h, "k", "shape", [-N, -D]), "k.*(shape|negative)")
    bad_header("shape-lies", lambda h: changed(h, "k", "shape", [N + 1, D]), "k.*(shape|bytes|offset)")
    bad_header("no-dtype", lambda h: {**h, "k": {"shape": [N, D], "data_offsets": [0, N * D]}}, "k.*dtype")


def keys_tensors():
    def with_scale(value):
        return lambda dtype, shape, content: [dtype, shape, patched(content, 4 * 123, floats([value]))]

    def with_code(code):
        return lambda dtype, shape, content: [dtype, shape, patched(content, 250 * D + 3, bytes([code]))]

    bad_tensor("keys", "no-k", "k", lambda *_: None, r"\bk\b")
    bad_tensor("keys", "no-k-scale", "k_scale", lambda *_: None, "k_scale")
    bad_tensor("keys", "k-is-u8", "k", lambda _, s, c: ["U8", s, c], r"\bk\b.*(dtype|U8|F8_E4M3)")
    bad_tensor("keys", "k-is-e5m2", "k", lambda _, s, c: ["F8_E5M2", s, c], r"\bk\b.*(dtype|E5M2|F8_E4M3)")
    bad_tensor("keys", "k-is-flat", "k", lambda t, _, c: [t, [N * D], c], r"\bk\b.*(shape|dim)")
    bad_tensor("keys", "k-of-24", "k", lambda t, _, c: [t, [400, 24], c], "24|multiple|scale")
    bad_tensor("keys", "k-of-320", "k", lambda t, _, c: [t, [30, 320], c], "320|256|scale")
    bad_tensor("keys", "no-tokens", "k", lambda t, _, c: [t, [0, D], b""], "token|shape|scale|empty|0")
    bad_tensor("keys", "k-scale-is-f64", "k_scale", lambda _, s, c: ["F64", s, c + c], "k_scale.*(dtype|F64|F32)")
    bad_tensor("keys", "k-scale-short", "k_scale", lambda t, s, c: [t, [N - 1], c[:-4]], "k_scale")
    bad_tensor("keys", "k-nan", "k", with_code(0x7F), r"\bk\b.*250.*nan|nan.*\bk\b.*250")
    bad_tensor("keys", "k-minus-nan", "k", with_code(0xFF), r"\bk\b.*250.*nan|nan.*\bk\b.*250")
    for word, value in (("zero", 0.0), ("minus", -1.0), ("inf", float("inf")), ("nan", float("nan"))):
        bad_tensor("keys", f"k-scale-{word}", "k_scale", with_scale(value), "k_scale.*123")


def queries_tensors():
    def with_weight(value):
        return lambda dtype, shape, content: [dtype, shape, patched(content, 4 * (3 * H + 1), floats([value]))]

    def with_entry(row, value):
        return lambda dtype, shape, content: [dtype, shape, patched(content, 4 * row, ints([value]))]

    bad_tensor("queries", "no-q", "q", lambda *_: None, r"\bq\b")
    bad_tensor("queries", "no-weights", "weights", lambda *_: None, "weights")
    bad_tensor("queries", "q-is-f32", "q", lambda _, s, c: ["F32", s, c * 4], r"\bq\b.*(dtype|F32|F8_E4M3)")
    bad_tensor("queries", "q-is-flat", "q", lambda t, _, c: [t, [M, H * D], c], r"\bq\b.*(shape|dim)")
    bad_tensor("queries", "q-of-16", "q", lambda t, _, c: [t, [M, H * 2, D // 2], c], "16|head|dim|weights|shape")
    bad_tensor("queries", "weights-short", "weights", lambda t, _, c: [t, [M - 1, H], c[: -4 * H]], "weights")
    bad_tensor("queries", "weights-inf", "weights", with_weight(float("inf")), "weights.*3")
    bad_tensor("queries", "weights-nan", "weights", with_weight(float("nan")), "weights.*3")
    bad_tensor("queries", "q-nan", "q", lambda t, s, c: [t, s, patched(c, 4 * H * D, b"\x7f")], r"\bq\b.*4")
    bad_tensor("queries", "ks-is-f32", "cu_seqlen_ks", lambda _, s, c: ["F32", s, c], "cu_seqlen_ks.*(dtype|F32|I32)")
    bad_tensor("queries", "ke-short", "cu_seqlen_ke", lambda t, s, c: [t, [M - 1], c[:-4]], "cu_seqlen_ke")
    bad_tensor("queries", "ks-above-ke", "cu_seqlen_ks", with_entry(2, 201), "201")
    bad_tensor("queries", "ks-below-0", "cu_seqlen_ks", with_entry(1, -1), "-1")
    bad_tensor("queries", "ke-above-n", "cu_seqlen_ke", with_entry(0, N + 1), str(N + 1))


def heads_129():
    tensors = good_queries()
    tensors["q"] = ["F8_E4M3", [M, 129, D], bytes(M * 129 * D)]
    tensors["weights"] = ["F32", [M, 129], floats([0.0] * (M * 129))]
    bad("queries", "heads-129", image(*parts(tensors)), "129")


write("good.k", image(*parts(good_keys())))
write("good.q", image(*parts(good_queries())))
more = good_keys()
more["k"][2] = patched(more["k"][2], 17, b"\x01")
write("other.k", image(*parts(more)))
fewer = good_queries()
write("fewer.q", image(*parts({name: [t, [s[0] - 1, *s[1:]], c[: len(c) * (M - 1) // M]]
                               for name, (t, s, c) in fewer.items()})))
containers()
keys_tensors()
queries_tensors()
heads_129()
for entry in BAD:
    print("\t".join(entry))
