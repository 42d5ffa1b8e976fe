"""Writes the Jacobian lenses that torch.save writes, in the layout of the
published ones (neuronpedia/jacobian-lens) and of the running sums of the code
that fits them:

    python tests/parity/make_jacobian_lens.py    # torch 2
"""

from pathlib import Path

import torch

FOLDER = Path(__file__).parents[1] / "analysis/fixtures"
D, LAYERS, PROMPTS = 3, [0, 2], 4


def matrix(layer: int) -> torch.Tensor:
    """Numbers that float16 holds, each another one."""
    return layer + torch.arange(D * D, dtype=torch.float32).reshape(D, D) / 8


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    lens = {
        "J": {layer: matrix(layer).half() for layer in LAYERS},
        "n_prompts": PROMPTS,
        "source_layers": LAYERS,
        "d_model": D,
        "metadata": {
            "model_name": "tiny",
            "target_layer": 3,
            "skip_first_positions": 16,
        },
    }
    torch.save(lens, FOLDER / "jacobian_lens.pt")
    sums = {
        "jacobian_sum": {layer: PROMPTS * matrix(layer) for layer in LAYERS},
        "n_done": PROMPTS,
        "next_idx": PROMPTS,
        "source_layers": LAYERS,
        "target_layer": 3,
        "skip_first": 16,
    }
    torch.save(sums, FOLDER / "jacobian_sums.pt")


if __name__ == "__main__":
    main()
