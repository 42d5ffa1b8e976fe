"""Other tools' ways into a model, and their laxer habits: mlxterp 0.1 (`v01`),
TransformerLens, nnterp. Only the package's root and `InterpretableModel` import
from here."""

_TL = "mlxterp.compat.transformer_lens.HookedTransformer"
_NNTERP = "mlxterp.compat.nnterp.StandardizedTransformer"
_OF = dict.fromkeys(
    "cfg add_hook reset_hooks hooks loss_fn to_single_token to_string blocks OV QK "
    "get_token_position tokens_to_residual_directions stop_at_layer".split(),
    _TL,
) | dict.fromkeys(
    "next_token_probs input_ids project_on_vocab hidden_size num_layers num_heads scan "
    "dispatch".split(),
    _NNTERP,
)


def elsewhere(name: str) -> str:
    """What to say of an attribute that only another tool's model has."""
    return f" ({_OF[name]} has it.)" if name in _OF else ""
