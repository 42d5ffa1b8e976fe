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
    recipe: str | None = None,
    preset: str | None = None,
    layers: int | Sequence[int] | None = None,
    crosscoder: bool = False,
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
            "matryoshka"; "topk" without it, across layers "jump_relu".
        preset: Whose losses, normalisation and initial weights: "mlxterp"
            (SAELens' losses, b_dec begins as the mean), "saelens",
            "dictionary_learning", "sparsify" or "openai".
        layers: Trains a cross-layer transcoder of so many layers, or of these,
            from 0 on, with CLT-Forge's losses, "jump_relu" or "batch_topk":
            each layer's features read `site` ("resid_mid") and write
            `site_out` ("mlp_out") of it and all later ones. The folder is what
            circuit-tracer loads and SAE.load(folder, layer=N) reads; `trained["layers"]` has each
            layer's figures.
        crosscoder: Of these `layers` trains one SAE of `site` ("resid_post") in
            all of them: what is read and predicted is their values behind each
            other, so W_dec is [features, layers * d].
        features: How many, of each layer; 8 times the width without it.
        k: Active features of a row, of topk and its kin (32); of all layers.
        tokens: Rows to train on; of a store all once without it.
        site_out: What a transcoder predicts; `skip` gives it x W_skip beside.
        resume: Goes on with what stands in the folder, to the same bytes as if
            the run had never ended.
        baseline: Trains a topk SAE on the same rows, into folder/baseline.
        options: sparsity, penalty ("step", "tanh", "quadratic"), target_l0,
            threshold, bandwidth, widths, rows_per_step, learning_rate, warm_up,
            decay, clip, dead_after, aux_weight, aux_k, bfloat16 (products read
            it: for a GPU), seed, longest (rows
            longer than so many times the median are left out: 10),
            checkpoint_seconds, buffer_rows, length and batch_size of a text's
            prompts.

    Raises UsageError for options that cannot be, a folder that holds something
    else or a training of other settings (named), too little text; BadDataError
    for activations that are not finite; IoError where the disk is full: the last
    checkpoint stays whole.
    """
    if layers is None:
        if crosscoder:
            raise UsageError("train_sae(): a crosscoder is of layers; give two or more")
        # First: the others replace what it says.
        given: dict[str, Any] = {"preset": (preset or "mlxterp", recipe or "topk")}
    else:
        if preset is not None:
            raise UsageError("train_sae(): across layers there is one preset; leave it out")
        numbers = list(range(layers)) if isinstance(layers, int) else list(layers)
        if not numbers:
            raise UsageError("train_sae(): layers is empty; give two or more")
        kind = ("crosscoder", "topk") if crosscoder else ("across_layers", "jump_relu")
        given = {kind[0]: recipe or kind[1], "layers": numbers}
    given |= {
        "site": site,
        "site_out": site_out,
        "features": features,
        "k": k,
        "tokens": tokens,
        "transcoder": bool(site_out) or (layers is not None and not crosscoder) or None,
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
    """How `model.train_sae` and `SAETrainer` train, by the names of mlxterp 0.1. What
    is done otherwise here: dead features learn by SAELens' auxiliary loss
    (`use_ghost_grads`; False: not at all), "cosine" and "linear" decay linearly, and
    what a run checks and keeps of itself goes by seconds (`checkpoint_every`,
    `feature_sampling_window` and `dead_neuron_threshold` are not read).

    Attributes:
        expansion_factor: Features for each number of what is read.
        k: Active features of a row.
        sae_type: "topk" or "batchtopk", or a recipe of train_sae.
        learning_rate: Of Adam.
        batch_size: Rows of a step.
        num_epochs: How often the texts are read.
        lambda_sparse: 0: topk and its kin pay nothing for active features.
        normalize_input: Whether inputs are scaled to a mean length of sqrt(d).
        tied_weights: False: encoder and decoder learn apart.
        dead_feature_window: Steps without firing after which one is dead.
        warmup_steps: Over which the rate grows.
        lr_decay_steps: Over which it falls at the end; None: a fifth of all.
        lr_scheduler: "cosine" or "linear", or "constant" for no decay.
        gradient_clip: Of the gradients' norm; None: none.
        validation_split: Of the texts, the share that is not trained on; the SAE is
            evaluated on the first of them (`training["validation"]`).
        text_batch_size: Prompts in one pass.
        seed: Of the weights and the order.
    """

    expansion_factor: int = 32
    k: int = 100
    sae_type: str = "topk"
    learning_rate: float = 3e-4
    batch_size: int = 256
    num_epochs: int = 10
    lambda_sparse: float = 0.0
    normalize_input: bool = True
    tied_weights: bool = False
    dead_neuron_threshold: float = 1e-6
    use_ghost_grads: bool = True
    feature_sampling_window: int = 1000
    dead_feature_window: int = 1000
    warmup_steps: int = 1000
    lr_decay_steps: int | None = None
    lr_scheduler: str = "cosine"
    gradient_clip: float | None = 1.0
    sparsity_warm_up_steps: int | None = None
    checkpoint_every: int = 5000
    validation_split: float = 0.05
    seed: int = 42
    text_batch_size: int = 32
    use_wandb: bool = False
    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_name: str | None = None
    wandb_tags: list | None = None

    def __post_init__(self):
        """Raises UsageError for what cannot be."""
        for name in ("expansion_factor", "k", "batch_size", "num_epochs", "text_batch_size"):
            if getattr(self, name) < 1:
                self._refuse(name, "must be at least 1")
        if not self.learning_rate > 0:
            self._refuse("learning_rate", "must be above 0")
        if not 0 <= self.validation_split < 1:
            self._refuse("validation_split", "must be in [0, 1)")
        if self.lambda_sparse:
            self._refuse("lambda_sparse", "is a penalty, which topk has none of; "
                         "mlxterp.train_sae(..., recipe='relu_l1', sparsity=...) has")  # fmt: skip
        if self.tied_weights:
            self._refuse("tied_weights", "is not trained here: encoder and decoder learn apart")
        if self.lr_scheduler not in ("cosine", "linear", "constant"):
            self._refuse("lr_scheduler", "is 'cosine', 'linear' or 'constant'")
        if self.use_wandb:
            self._refuse("use_wandb", "would send numbers elsewhere; they are in `training`")

    def _refuse(self, name: str, why: str):
        raise UsageError(f"{type(self).__name__}: {name}={getattr(self, name)!r} {why}")


@dataclass
class TranscoderConfig(SAEConfig):
    """An SAEConfig with the defaults of 0.1's transcoders; topk transcoders have no
    file that tools read, so these are "batchtopk". `resample_dead_every` is not
    read."""

    expansion_factor: int = 8
    k: int = 50
    sae_type: str = "batchtopk"
    learning_rate: float = 5e-5
    num_epochs: int = 15
    resample_dead_every: int = 10000


_COMPONENTS = {
    "mlp": "mlp_out",
    "attn": "attn_out",
    "self_attn": "attn_out",
    "residual": "resid_post",
    "output": "resid_post",
}
_RECIPES = {"batchtopk": "batch_topk"}
_VALIDATED = 10_000  # tokens at most


def site_of(layer: int, component: str) -> str:
    """The site of a layer's component in 0.1's words: "mlp", "attn", "residual"."""
    return f"layers.{layer}.{_COMPONENTS.get(component, component)}"


def train_on_dataset(
    model,
    layer: int,
    dataset: Sequence[str] | str | os.PathLike[str],
    component: str,
    save_path: str | os.PathLike[str] | None,
    config: SAEConfig | None,
    verbose: bool = True,
    **options: Any,
) -> SAE:
    """What `model.train_sae` does: `dataset` is a list of texts, or a file or a
    folder of them; the SAE stands in `save_path`, if there is one, what was measured
    in its `training`."""
    options.setdefault("site", site_of(layer, component))
    if not verbose:
        options.setdefault("progress", lambda what, done: None)
    held_out: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        if not isinstance(dataset, (str, os.PathLike)):
            texts = list(dataset)
            if config is not None:
                kept = len(texts) - int(len(texts) * config.validation_split)
                texts, held_out = texts[:kept], texts[kept:]
            # The same name and bytes for the same texts: resuming asks.
            path = Path(place) / "dataset.jsonl"
            path.write_text("".join(json.dumps({"text": it}) + "\n" for it in texts))
            dataset = path
        if config is not None:
            options = _of_config(model, config, dataset) | options
        folder = os.path.join(place, "sae") if save_path is None else os.fspath(save_path)
        made = train_sae(model, folder, text=dataset, **options)
        sae = SAE.load(folder)
    sae.training = made
    if held_out and made.get("complete", True):
        sae.training["validation"] = _validated(model, sae, held_out, options)
    return sae


def _validated(model, sae: SAE, texts: list[str], options: dict) -> dict:
    """What `SAE.evaluate` says of texts that were not trained on, up to so many
    tokens."""
    site = options.get("site_out") or options["site"]
    reads = options["site"] if options.get("site_out") else ""
    rows, tokens = [], 0
    for text in texts:
        row = model.tokenizer.encode(text)[:256]
        if len(row) > 2 and tokens < _VALIDATED:
            rows.append(row)
            tokens += len(row)
    if not rows:
        return {}
    it = sae.evaluate(model, rows, site=site, reads=reads)
    return {"explained_variance": it.explained_variance, "l0": it.l0, "ce_score": it.ce_score}


def _of_config(model, config: SAEConfig, dataset) -> dict:
    tokens = config.num_epochs * _count_tokens(model, Path(dataset))
    steps = max(1, tokens // config.batch_size)
    warm_up = min(1.0, config.warmup_steps / steps)
    decay = None  # a fifth
    if config.lr_scheduler == "constant":
        decay = 0.0
    elif config.lr_decay_steps is not None:
        decay = min(1.0 - warm_up, config.lr_decay_steps / steps)
    return {
        "recipe": _RECIPES.get(config.sae_type, config.sae_type),
        "expansion": config.expansion_factor,
        "k": config.k,
        "learning_rate": config.learning_rate,
        "rows_per_step": config.batch_size,
        "tokens": tokens,
        "warm_up": warm_up,
        "decay": decay,
        "clip": config.gradient_clip or 0.0,
        "scaled": config.normalize_input,
        "dead_after": config.dead_feature_window * config.batch_size,
        "aux_weight": None if config.use_ghost_grads else 0.0,
        "batch_size": config.text_batch_size,
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
