"""Writes defaults.json: what transformers makes of a config.json that lacks a
field.

    python3.11 -m venv oracle
    oracle/bin/pip install transformers==5.24.0
    oracle/bin/python tests/parity/make_defaults.py

Each config.json of families/ is read with one field left out at a time, those
inside rope_parameters and rope_scaling too, and then with that field null. What
comes of it is kept as the fields that then differ from those of the whole config: a default,
and whatever transformers derives from it; `gone` are those that are there no more,
as their class has no such field. Fields that no model reads (dropout, names of
labels) are not kept. An error instead of fields: transformers refuses the config,
or raises.
"""

import copy
import json
import sys
from pathlib import Path

from transformers import CONFIG_MAPPING, __version__
from transformers.utils import logging

ROOT = Path(__file__).with_name("families")
OUT = Path(__file__).with_name("defaults.json")

IDLE = {
    "_name_or_path", "architectures", "attention_dropout", "attn_pdrop",
    "bos_token_id", "chunk_size_feed_forward", "classifier_dropout", "dropout",
    "dtype", "embd_pdrop", "embedding_dropout", "eos_token_id",
    "hidden_dropout", "id2label", "init_std", "initializer_range",
    "is_decoder", "is_encoder_decoder", "label2id", "layerdrop",
    "output_attentions", "output_hidden_states", "output_router_logits",
    "pad_token_id", "pretraining_tp", "problem_type", "reorder_and_upcast_attn",
    "resid_pdrop", "residual_dropout", "return_dict", "router_aux_loss_coef",
    "router_jitter_noise", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "torch_dtype", "transformers_version", "use_cache",
}
ROPE = ("rope_parameters", "rope_scaling")

# Families that transformers has no code of: what the configuration_*.py in
# their own repositories says of a field that is missing.
OWN = {
    "internlm2": {
        "num_key_value_heads": None, "hidden_act": "silu",
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "bias": True,
        "tie_word_embeddings": False, "rope_theta": 10000.0,
        "rope_scaling": None,
    },
    "minicpm": {
        "num_key_value_heads": None, "hidden_act": "silu",
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True, "rope_theta": 10000.0,
        "rope_scaling": None, "scale_emb": 1, "scale_depth": 1,
        "dim_model_base": 1,
    },
}


def infinite(value):
    """What transformers writes for infinities, read."""
    if isinstance(value, dict) and set(value) == {"__float__"}:
        return float(value["__float__"])
    return [infinite(it) for it in value] if isinstance(value, list) else value


def read(fields):
    """Every field, as transformers understands this config."""
    fields = copy.deepcopy(fields)
    if own := OWN.get(fields["model_type"]):
        for name, value in fields.items():
            if value is None and own.get(name) is not None:
                raise TypeError(name)
        for name in ("type", "factor") if fields.get("rope_scaling") else ():
            if fields["rope_scaling"].get(name) is None:
                raise ValueError(name)
        fields = own | fields
        fields["num_key_value_heads"] = (
            fields["num_key_value_heads"] or fields["num_attention_heads"])
        return fields
    fields = {name: infinite(value) for name, value in fields.items()}
    config = CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
    return json.loads(config.to_json_string(use_diff=False))


def paths(fields, within=()):
    for key, value in fields.items():
        if not within and (key in IDLE or key == "model_type"):
            continue
        yield (*within, key)
        if isinstance(value, dict) and (within or key in ROPE):
            yield from paths(value, (*within, key))


def without(fields, path, null):
    fields = copy.deepcopy(fields)
    place = fields
    for key in path[:-1]:
        place = place[key]
    if null:
        place[path[-1]] = None
    else:
        del place[path[-1]]
    return fields


def outcome(fields, whole):
    try:
        got = read(fields)
    except Exception as error:
        return {"error": type(error).__name__}
    assert got.keys() <= whole.keys() | fields.keys(), got.keys() - whole.keys()
    made = {
        "fields": {
            key: value
            for key, value in got.items()
            if key not in IDLE and value != whole.get(key)
        }
    }
    gone = [key for key in whole if key not in got and key not in IDLE]
    return made | ({"gone": gone} if gone else {})


def main():
    logging.set_verbosity_error()
    table = {"transformers": __version__, "configs": {}}
    cases = 0
    for folder in sorted(ROOT.iterdir()):
        for name in ("config.json", "config.older.json"):
            fields = json.loads((folder / name).read_text())
            whole = read(fields)
            entry = {
                "whole": {k: v for k, v in whole.items() if k not in IDLE},
                "absent": {},
                "null": {},
            }
            for path in paths(fields):
                for how in ("absent", "null"):
                    changed = without(fields, path, how == "null")
                    entry[how][".".join(path)] = outcome(changed, whole)
                    cases += 1
            table["configs"][f"{folder.name}/{name}"] = entry
    configs = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(entry, sort_keys=True)}"
        for name, entry in table["configs"].items())
    OUT.write_text(
        f"{{\"transformers\": {json.dumps(__version__)}, \"configs\": {{\n"
        f"{configs}\n}}}}\n")
    print(f"{cases} cases, {OUT.stat().st_size} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
