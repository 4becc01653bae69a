"""SmolLM2 in NumPy: reads a GGUF file and runs the Llama forward pass over a long text.

All arithmetic is float32, except the rotary angles (float64, since positions reach 32768). Attention is that of a
streaming engine: each token sees the first SINK tokens and the last WINDOW tokens, itself among them, so memory stays
small. The sinks are kept because a Llama-like model parks unused attention on the first tokens, and goes to pieces once
they leave the window.
"""

import dataclasses
import functools

import gguf
import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

WINDOW = 2048  # tokens in sight; the model's trained context is 8192
SINK = 4  # first tokens that stay in sight
CHUNK = 512  # tokens computed at once: 9 heads x 512 x 2560 scores are 47 MB


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the GGUF metadata says of the model. In docstrings E is `embed` and C is `head_dim`."""

    layers: int
    embed: int
    heads: int
    kv_heads: int
    context: int
    eps: float

    @property
    def head_dim(self):
        return self.embed // self.heads


class Model:
    """The weights of one GGUF file, dequantised when asked for, for texts of up to `length` tokens."""

    def __init__(self, path, length):
        self.reader = gguf.GGUFReader(path)
        self.tensors = {t.name: t for t in self.reader.tensors}

        def meta(key):
            return self.reader.fields["llama." + key].contents()

        if self.reader.fields["general.architecture"].contents() != "llama":
            raise ValueError(f"{path}: not a llama model")
        self.shape = Shape(layers=meta("block_count"), embed=meta("embedding_length"),
                           heads=meta("attention.head_count"), kv_heads=meta("attention.head_count_kv"),
                           context=meta("context_length"), eps=meta("attention.layer_norm_rms_epsilon"))
        # Past the trained context the base is raised ("NTK-aware" stretching): the slowest pair of elements then turns
        # as far over `length` tokens as it did over the trained context, and the fastest turns as before.
        stretch = max(1.0, length / self.shape.context)
        dim = self.shape.head_dim
        self.rope_base = meta("rope.freq_base") * stretch ** (dim / (dim - 2))
        if WINDOW + SINK > self.shape.context:
            raise ValueError("the window is wider than the model's trained context")

    @property
    def name(self):
        return self.reader.fields["general.name"].contents()

    def weight(self, name):
        """Tensor `name` as f32, rows = outputs: [out, in] for a matrix, [E] for a norm."""
        tensor = self.tensors[name + ".weight"]
        return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)

    @functools.cached_property
    def embedding(self):
        """[vocabulary, E] f32; also the output matrix, as the embeddings are tied."""
        return self.weight("token_embd")

    @functools.cached_property
    def tokenizer(self):
        """Byte-level BPE from the file's own vocabulary and merges. Each digit is a token of its own, and the rest is
        cut by the GPT-2 expression, as `tokenizer.ggml.pre = smollm` stands for."""
        fields = self.reader.fields
        kind = tuple(fields["tokenizer.ggml." + k].contents() for k in ("model", "pre"))
        if kind != ("gpt2", "smollm"):
            raise ValueError(f"unknown tokenizer {kind}")
        vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"].contents())}
        merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"].contents()]
        tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def logits(self, x):
        """x [n, E] f32, the last layer's output -> [n, vocabulary] f32."""
        return rms_norm(x, self.weight("output_norm"), self.shape.eps) @ self.embedding.T


def rms_norm(x, gain, eps):
    """x [n, E], gain [E] -> [n, E]."""
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(eps)) * gain


def rope(x, positions, base):
    """Rotates x [n, heads, C] f32 by positions [n] -> the same shape.

    Elements 2i and 2i+1 make a pair: conversion to GGUF reorders the rows of llama query and key weights from the
    half-and-half order of the original to this one.
    """
    dim = x.shape[-1]
    angle = positions[:, None].astype(np.float64) * base ** (-np.arange(0, dim, 2) / dim)
    cos, sin = (f(angle).astype(np.float32)[:, None, :] for f in (np.cos, np.sin))
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack((even * cos - odd * sin, even * sin + odd * cos), axis=-1).reshape(x.shape)


def attend(q, q_sink, k, v, first):
    """Sliding-window attention with sinks, for the queries at positions first, first+1, ...

    q, q_sink [n, heads, C]: queries rotated by their positions, and by those positions held at SINK + WINDOW - 1, so
    that a sink never stands farther away than it would in the cache of a streaming engine. k, v [N, kv_heads, C]:
    all tokens so far or more. Returns [n, heads * C].
    """
    n, heads, dim = q.shape
    kv_heads = k.shape[1]
    low = max(SINK, first - WINDOW + 1)
    sinks = min(SINK, first + n)
    pos = np.arange(first, first + n)[:, None]
    sink_pos, near_pos = np.arange(sinks)[None], np.arange(low, max(low, first + n))[None]
    hidden = np.concatenate((sink_pos > pos, (near_pos > pos) | (pos - near_pos >= WINDOW)), axis=1)
    bias = np.where(hidden, np.float32(-np.inf), np.float32(0))
    out = np.empty_like(q)
    group = heads // kv_heads
    for g in range(kv_heads):
        mine = slice(g * group, (g + 1) * group)
        seen_v = np.concatenate((v[:sinks, g], v[low:first + n, g]))
        for h in range(mine.start, mine.stop):
            score = np.concatenate((q_sink[:, h] @ k[:sinks, g].T, q[:, h] @ k[low:first + n, g].T), axis=1)
            score = score * np.float32(dim ** -0.5) + bias
            score = np.exp(score - score.max(axis=1, keepdims=True))
            out[:, h] = (score @ seen_v) / score.sum(axis=1, keepdims=True)
    return out.reshape(n, heads * dim)


def layers(model, tokens, count):
    """Runs `count` layers over tokens [N] and yields (layer, q, k, x) after each.

    q [N, heads, C] and k [N, kv_heads, C]: rotated by position, as attention sees them. x [N, E]: the layer's output
    (the same array each time, updated in place). All f32.
    """
    s = model.shape
    total = len(tokens)
    pos = np.arange(total)
    x = model.embedding[tokens]
    for layer in range(count):
        def w(part):
            return model.weight(f"blk.{layer}.{part}")

        q, k, v = (np.empty((total, n, s.head_dim), np.float32) for n in (s.heads, s.kv_heads, s.kv_heads))
        wq, wk, wv, wo, norm = (w("attn_" + part) for part in ("q", "k", "v", "output", "norm"))
        gate, up, down, ffn_norm = (w("ffn_" + part) for part in ("gate", "up", "down", "norm"))
        for a in range(0, total, CHUNK):
            part = slice(a, min(a + CHUNK, total))
            y, at = rms_norm(x[part], norm, s.eps), pos[part]
            raw_q = (y @ wq.T).reshape(-1, s.heads, s.head_dim)
            q[part] = rope(raw_q, at, model.rope_base)
            k[part] = rope((y @ wk.T).reshape(-1, s.kv_heads, s.head_dim), at, model.rope_base)
            v[part] = (y @ wv.T).reshape(-1, s.kv_heads, s.head_dim)
            q_sink = rope(raw_q, np.minimum(at, SINK + WINDOW - 1), model.rope_base)
            x[part] += attend(q[part], q_sink, k, v, a) @ wo.T
            y = rms_norm(x[part], ffn_norm, s.eps)
            z = y @ gate.T
            x[part] += (z / (1 + np.exp(-z)) * (y @ up.T)) @ down.T
        yield layer, q, k, x
