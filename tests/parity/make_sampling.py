"""Writes sampling.json: what transformers' logits processors make of some logits.

    oracle/bin/python tests/parity/make_sampling.py

The environment is make_families.py's. Each case: the rows of logits, the tokens
each row has seen, the filter and its number, and the logits behind it (null: left
out).
"""

import json
from pathlib import Path

import torch
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

FILTERS = {
    "top_k": (TopKLogitsWarper, [1, 3, 17, 40, 41]),
    "top_p": (TopPLogitsWarper, [0.01, 0.3, 0.6, 0.95, 0.999]),
    "min_p": (MinPLogitsWarper, [0.001, 0.05, 0.3, 1.0]),
    "repetition_penalty": (RepetitionPenaltyLogitsProcessor, [0.5, 1.1, 3.0]),
}


def main():
    torch.manual_seed(3)
    logits = torch.round(torch.randn(5, 41) * 300) / 100  # short, and with ties
    logits[3] *= 4
    logits[4] = 1.5
    seen = torch.randint(0, 41, (5, 6))
    cases = []
    for name, (kind, numbers) in FILTERS.items():
        for number in numbers:
            after = kind(number)(seen, logits.clone())
            rows = [[None if x == -torch.inf else round(x, 6) for x in row]
                    for row in after.double().tolist()]
            cases.append({"filter": name, "number": number, "logits": rows})
    made = {"logits": [[round(x, 4) for x in row] for row in logits.double().tolist()],
            "seen": seen.tolist(), "cases": cases}
    Path(__file__).with_name("sampling.json").write_text(
        json.dumps(made).replace('{"filter"', '\n{"filter"') + "\n")


if __name__ == "__main__":
    main()
