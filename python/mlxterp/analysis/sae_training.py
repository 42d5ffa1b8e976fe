"""Training sparse autoencoders and transcoders.

Gao et al. 2024 (arXiv 2406.04093), Bussmann et al. 2024 and 2025 (2412.06410,
2503.17547), Rajamanoharan et al. 2024 (2404.16014, 2407.14435).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _core
from ..errors import UsageError
from ._native import Bar, asked
from .activation_store import ActivationStore
from .saes import SAE


def train_sae(
    source,
    folder: str | os.PathLike[str],
    *,
    text: str | os.PathLike[str] | None = None,
    site: str | None = None,
    recipe: str = "topk",
    preset: str = "mlxterp",
    features: int | None = None,
    k: int | None = None,
    tokens: int | None = None,
    site_out: str | None = None,
    skip: bool = False,
    resume: bool = False,
    baseline: bool = False,
    progress=None,
    **options: Any,
) -> dict:
    """Trains an SAE on the rows of a store, in random order, or on a text that a
    model runs over, and writes what SAELens 6 loads to `folder`: at every
    checkpoint a whole SAE with scales folded in, beside what a later run needs
    to go on. Returns what `mlxterp sae train --json` says: `trained` with
    `explained_variance`, `l0` and `dead_share` on rows it was trained on,
    `steps`, `tokens_per_second`, `times` and more. Evaluates.

    Args:
        source: An ActivationStore or its folder; or a model, with `text`.
        text: A text file, a JSONL file (field "text") or a folder of these.
        site: What is read, "layers.15.resid_post"; of a store with one site it
            may be left out.
        recipe: "relu_l1", "gated", "topk", "batch_topk", "jump_relu" or
            "matryoshka".
        preset: Whose losses, normalisation and initial weights: "mlxterp"
            (SAELens' losses, b_dec begins as the mean), "saelens",
            "dictionary_learning", "sparsify" or "openai".
        features: How many; 8 times the width without it.
        k: Active features of a row, of topk and its kin (32).
        tokens: Rows to train on; of a store all once without it.
        site_out: What a transcoder predicts; `skip` gives it x W_skip beside.
        resume: Goes on with what stands in the folder, to the same bytes as if
            the run had never ended.
        baseline: Trains a topk SAE on the same rows, into folder/baseline.
        options: sparsity, penalty ("step", "tanh", "quadratic"), target_l0,
            threshold, bandwidth, widths, rows_per_step, learning_rate, warm_up,
            decay, clip, dead_after, aux_weight, aux_k, seed, longest (rows
            longer than so many times the median are left out: 10),
            checkpoint_seconds, buffer_rows, length and batch_size of a text's
            prompts.

    Raises UsageError for options that cannot be, a folder that holds something
    else or a training of other settings (named), too little text; BadDataError
    for activations that are not finite; IoError where the disk is full: the last
    checkpoint stays whole.
    """
    given = {
        # First: the others replace what it says.
        "preset": (preset, recipe),
        "site": site,
        "site_out": site_out,
        "features": features,
        "k": k,
        "tokens": tokens,
        "transcoder": bool(site_out) or None,
        "skip": skip or None,
        "resume": resume,
        "baseline": baseline,
        **options,
    }
    path = os.fspath(folder)
    if isinstance(source, (str, os.PathLike)):
        source = ActivationStore(source)
    if isinstance(source, ActivationStore):
        if text is not None:
            raise UsageError("train_sae(): a store holds activations; leave text out")
        chosen = {name: it for name, it in given.items() if it is not None}
        made = _core.SaeRunOptions(progress=progress or Bar(), **chosen)
        return json.loads(_core.train_sae_on_store(source._store, path, made))
    if text is None:
        raise UsageError("train_sae(): give the text that the model runs over")
    runs = getattr(getattr(source, "engine", source), "model", None)
    given |= {"model": source, "progress": progress}
    given["name"] = str(getattr(runs, "path", ""))
    inner, made = asked("train_sae()", _core.SaeRunOptions, given)
    return json.loads(_core.train_sae_on_text(inner, os.fspath(text), path, made))


@dataclass
class SAEConfig:
    """How `model.train_sae` trains, by the names of mlxterp 0.1. What is done
    otherwise here: the rate decays linearly over the last fifth of the steps,
    dead features learn by SAELens' auxiliary loss.

    Attributes:
        expansion_factor: Features for each number of what is read.
        k: Active features of a row.
        sae_type: "topk" or "batchtopk", or a recipe of train_sae.
        learning_rate: Of Adam.
        batch_size: Rows of a step.
        num_epochs: How often the text is read.
        warmup_steps: Over which the rate grows.
        gradient_clip: Of the gradients' norm; None: none.
        normalize_input: Whether inputs are scaled to a mean length of sqrt(d).
        dead_feature_window: Steps without firing after which one is dead.
        seed: Of the weights and the order.
    """

    expansion_factor: int = 32
    k: int = 100
    sae_type: str = "topk"
    learning_rate: float = 3e-4
    batch_size: int = 256
    num_epochs: int = 10
    warmup_steps: int = 1000
    gradient_clip: float | None = 1.0
    normalize_input: bool = True
    dead_feature_window: int = 1000
    seed: int = 42


_COMPONENTS = {"mlp": "mlp_out", "attn": "attn_out", "residual": "resid_post"}
_RECIPES = {"batchtopk": "batch_topk"}


def train_on_dataset(
    model,
    layer: int,
    dataset: Sequence[str] | str | os.PathLike[str],
    component: str,
    save_path: str | os.PathLike[str],
    config: SAEConfig | None,
    **options: Any,
) -> SAE:
    """What `model.train_sae` does: `dataset` is a list of texts, or a file or a
    folder of them; the SAE stands in `save_path`, what was measured in its
    `training`."""
    part = _COMPONENTS.get(component, component)
    options.setdefault("site", f"layers.{layer}.{part}")
    with tempfile.TemporaryDirectory() as place:
        if not isinstance(dataset, (str, os.PathLike)):
            # The same name and bytes for the same texts: resuming asks.
            path = Path(place) / "dataset.jsonl"
            path.write_text("".join(json.dumps({"text": it}) + "\n" for it in dataset))
            dataset = path
        if config is not None:
            options = _of_config(model, config, dataset) | options
        made = train_sae(model, save_path, text=dataset, **options)
    sae = SAE.load(os.fspath(save_path))
    sae.training = made
    return sae


def _of_config(model, config: SAEConfig, dataset) -> dict:
    tokens = config.num_epochs * _count_tokens(model, Path(dataset))
    steps = max(1, tokens // config.batch_size)
    return {
        "recipe": _RECIPES.get(config.sae_type, config.sae_type),
        "expansion": config.expansion_factor,
        "k": config.k,
        "learning_rate": config.learning_rate,
        "rows_per_step": config.batch_size,
        "tokens": tokens,
        "warm_up": min(1.0, config.warmup_steps / steps),
        "clip": config.gradient_clip or 0.0,
        "scaled": config.normalize_input,
        "dead_after": config.dead_feature_window * config.batch_size,
        "seed": config.seed,
    }


def _count_tokens(model, path: Path) -> int:
    """Of a text file, JSONL or a folder, as train_sae reads them."""
    if path.is_dir():
        files = [it for it in path.rglob("*") if it.suffix in (".txt", ".jsonl")]
        return sum(_count_tokens(model, it) for it in files)
    text = path.read_text()
    if path.suffix == ".jsonl":
        lines = (line for line in text.splitlines() if line.strip())
        return sum(len(model.tokenizer.encode(json.loads(it)["text"])) for it in lines)
    return len(model.tokenizer.encode(text))
