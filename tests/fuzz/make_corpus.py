#!/usr/bin/env python3
"""Writes the seeds of the safetensors fuzzer: python3 tests/fuzz/make_corpus.py. They are small and are committed."""
import json
import pathlib

corpus = pathlib.Path(__file__).parent / "corpus"


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def seed(name, header, data=0, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    prefix = (len(text) if length is None else length).to_bytes(8, "little")
    (corpus / name).write_bytes(prefix + text + bytes(range(data)))


corpus.mkdir(exist_ok=True)
keys = {"k": tensor("F8_E4M3", [2, 16], 8, 40), "k_scale": tensor("F32", [2], 0, 8)}
seed("good_keys", {"__metadata__": {"generator": "seed"}, **keys}, 40)
seed("good_queries", {"q": tensor("F8_E4M3", [1, 2, 16], 16, 48), "weights": tensor("F32", [1, 2], 0, 8),
                      "cu_seqlen_ks": tensor("I32", [1], 8, 12), "cu_seqlen_ke": tensor("I32", [1], 12, 16)}, 48)
seed("good_empty", {})
seed("good_other", {"a": tensor("F4_NEW", [], 0, 3), "b": tensor("I64", [0, 5], 3, 3)}, 3)
seed("good_escapes", b'{"a\\"\\u00e4\\ud83d\\ude00\\n":{"dtype":"BOOL","shape":[1e0],"data_offsets":[0,1]}}', 1)
seed("bad_overlap", {"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, 6)
seed("bad_hole", {"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 6, 10)}, 10)
seed("bad_beyond", {"a": tensor("F16", [4], 0, 8)}, 7)
seed("bad_product", {"a": tensor("F64", [2**32, 2**32], 0, 8)}, 8)
seed("bad_deep", b'{"a":' + b"[" * 2000)
seed("bad_twice", b'{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}', 1)
seed("bad_names", b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[0],'
                  b'"data_offsets":[1,1]}}', 1)
seed("bad_nul", b'{"a\\u0000":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1)
seed("bad_comma", b'{"1":1,')
seed("bad_length", keys, 40, length=2**63)
seed("bad_metadata", {"__metadata__": {"x": 1}})
