#!/usr/bin/env python3
"""Recomputes a harmonisation's log-likelihood with PyTorch, from its tokens and the model's folder.

    kapell harmonize twinkle --model MODEL -o twinkle.txt --json > twinkle.json
    venv/bin/python check_likelihood.py MODEL twinkle.txt --expect twinkle.json

MODEL is a folder with model.safetensors, config.json and vocab.json. The tokens are one a line, START to END. With
--expect, the JSON that `kapell harmonize` printed (or a number), exit code 1 where the two are more than 1e-3 nats apart.
"""

import argparse
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "pytorch"))
from check_checkpoint import Model  # noqa: E402

TOLERANCE = 1e-3


@torch.no_grad()
def log_likelihood(folder, words):
    """The sum of ln P(token | tokens before it) of all tokens after START."""
    config = json.loads((folder / "config.json").read_text())
    ids = {word: index for index, word in enumerate(json.loads((folder / "vocab.json").read_text()))}
    model = Model(**config["architecture"])
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    model.eval()
    tokens = torch.tensor([ids[word] for word in words])
    logits = model(tokens[None, :-1])[0].double()
    return torch.log_softmax(logits, dim=1).gather(1, tokens[1:, None]).sum().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("tokens", type=pathlib.Path)
    parser.add_argument("--expect", help="a number, or a file with the JSON of kapell harmonize")
    options = parser.parse_args()
    words = options.tokens.read_text().splitlines()
    if not words or words[0] != "START" or words[-1] != "END":
        sys.exit(f"{options.tokens} is no whole piece: it should begin with START and end with END")
    found = log_likelihood(options.model, words)
    line = f"{options.tokens}: {found:.5f} nats over {len(words) - 1} tokens"
    far = False
    if options.expect:
        path = pathlib.Path(options.expect)
        expected = json.loads(path.read_text())["log_likelihood"] if path.is_file() else float(options.expect)
        far = not abs(found - expected) <= TOLERANCE
        line += f", expected {expected:.5f}, apart {abs(found - expected):.1e}"
    print(line)
    sys.exit(1 if far else 0)


if __name__ == "__main__":
    main()
