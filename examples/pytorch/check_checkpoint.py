#!/usr/bin/env python3
"""Loads a Kapellmeister checkpoint into plain PyTorch and computes its validation loss there.

    python3 -m venv venv && venv/bin/pip install torch safetensors numpy
    venv/bin/python check_checkpoint.py CHECKPOINT CORPUS [--part val|test|train] [--expect NATS]

CHECKPOINT is a folder with model.safetensors, config.json and vocab.json, as `kapell model pull REF DIR` writes it.
CORPUS is the corpus' blob, `~/.local/share/kapellmeister/corpora/NAME/VERSION.corpus`; its SHA-256 must be the one that
config.json names, so that both programs score the same tokens.

The tensors are loaded by name with `load_state_dict(strict=True)`, nothing renamed. Where the model has no batch
normalisation, it is loaded a second time, into a single nn.LSTM of all layers. The loss is compared with the
validation loss that config.json records (or with --expect); exit code 1 where they are more than 1e-4 apart.
"""

import argparse
import hashlib
import json
import pathlib
import struct
import sys

import torch
from safetensors.torch import load_file
from torch import nn

TOLERANCE = 1e-4
PARTS = ["train", "val", "test"]
CONTIGUOUS_ROWS = 50


class Model(nn.Module):
    """Embedding -> [LSTM -> BatchNorm over all positions -> Dropout] x L -> Linear."""

    def __init__(self, vocabulary, layers, hidden, embedding, batch_norm):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        inputs = [embedding] + [hidden] * (layers - 1)
        self.lstm = nn.ModuleList(nn.LSTM(size, hidden, batch_first=True) for size in inputs)
        if batch_norm:
            self.norm = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in inputs)
        self.linear = nn.Linear(hidden, vocabulary)

    def forward(self, tokens):
        """tokens [B, T] -> logits [B, T, V], from a zero state; dropout is the identity in evaluation."""
        x = self.embedding(tokens)
        for layer, lstm in enumerate(self.lstm):
            x, _ = lstm(x)
            if hasattr(self, "norm"):
                x = self.norm[layer](x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.linear(x)


class Stacked(nn.Module):
    """The same without batch normalisation, as one nn.LSTM of L layers."""

    def __init__(self, vocabulary, layers, hidden, embedding, batch_norm):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers=layers, batch_first=True)
        self.linear = nn.Linear(hidden, vocabulary)

    def forward(self, tokens):
        return self.linear(self.lstm(self.embedding(tokens))[0])


def stacked_name(name):
    """lstm.{k}.weight_ih_l0 -> lstm.weight_ih_l{k}"""
    parts = name.split(".")
    if parts[0] != "lstm":
        return name
    return f"lstm.{parts[2].removesuffix('0')}{parts[1]}"


class Blob:
    """A reader of the corpus' bytes: the layout is written down in crates/music/src/corpus/blob.rs."""

    MAGIC = b"kapell-corpus 1\n"

    def __init__(self, data):
        if not data.startswith(self.MAGIC):
            sys.exit("the second argument is not a corpus blob")
        self.data, self.at = data, len(self.MAGIC)

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self):
        return self.take(1)[0]

    def count(self):
        return struct.unpack("<I", self.take(4))[0]

    def string(self):
        return self.take(self.count()).decode()


def read_corpus(data):
    """(protocol, vocabulary, [(id, part, tokens)])"""
    blob = Blob(data)
    blob.byte()
    protocol = ["pieces", "contiguous"][blob.byte()]
    blob.string()
    vocabulary = [blob.string() for _ in range(blob.count())]
    pieces = []
    for _ in range(blob.count()):
        name, part = blob.string(), PARTS[blob.byte()]
        count = blob.count()
        pieces.append((name, part, list(struct.unpack(f"<{count}H", blob.take(2 * count)))))
    return protocol, vocabulary, pieces


def held_out(protocol, pieces, part, seq_len):
    """Streams that are scored from a zero state each: whole pieces, or BachBot's fifty rows of whole windows."""
    if protocol == "pieces":
        return [tokens for _, of, tokens in pieces if of == part and len(tokens) > 1]
    stream = [token for _, _, tokens in pieces for token in tokens]
    cut = len(stream) - len(stream) // 10
    stream = {"train": stream[:cut], "val": stream[cut:], "test": []}[part]
    length = (len(stream) - 1) // (CONTIGUOUS_ROWS * seq_len) * seq_len
    return [stream[row * length : (row + 1) * length + 1] for row in range(CONTIGUOUS_ROWS)] if length else []


@torch.no_grad()
def loss(model, streams):
    """Mean nats per token over all predicted tokens."""
    model.eval()
    nats, count = 0.0, 0
    for tokens in streams:
        tokens = torch.tensor(tokens)
        logits = model(tokens[None, :-1])[0]
        nats += nn.functional.cross_entropy(logits, tokens[1:], reduction="sum").double().item()
        count += len(tokens) - 1
    return nats / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("--part", choices=PARTS, default="val")
    parser.add_argument("--expect", type=float, help="the loss to compare with, instead of config.json's val_loss")
    options = parser.parse_args()

    config = json.loads((options.checkpoint / "config.json").read_text())
    data = options.corpus.read_bytes()
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    if digest != config["corpus"]["digest"]:
        sys.exit(f"the corpus is {digest}; the model was trained on {config['corpus']['digest']}")
    protocol, vocabulary, pieces = read_corpus(data)
    if vocabulary != json.loads((options.checkpoint / "vocab.json").read_text()):
        sys.exit("vocab.json is not the corpus' vocabulary")
    streams = held_out(protocol, pieces, options.part, config["train"]["seq_len"])
    if not streams:
        sys.exit(f"the corpus has no {options.part} part")

    tensors = load_file(options.checkpoint / "model.safetensors")
    shapes = config["architecture"]
    models = [("nn.LSTM per layer", Model(**shapes), tensors)]
    if not shapes["batch_norm"]:
        renamed = {stacked_name(name): tensor for name, tensor in tensors.items()}
        models.append((f"one nn.LSTM of {shapes['layers']} layers", Stacked(**shapes), renamed))
    expected = options.expect
    if expected is None and options.part == "val":
        expected = config["progress"]["val_loss"]
    far = False
    for kind, model, state in models:
        model.load_state_dict(state, strict=True)
        found = loss(model, streams)
        line = f"{kind}: {found:.6f} nats per token over {sum(len(s) - 1 for s in streams)} tokens"
        if expected is not None:
            far |= not abs(found - expected) <= TOLERANCE
            line += f", expected {expected:.6f}, apart {abs(found - expected):.1e}"
        print(line)
    sys.exit(1 if far else 0)


if __name__ == "__main__":
    main()
