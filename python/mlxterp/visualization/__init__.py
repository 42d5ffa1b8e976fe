"""Attention patterns: read, drawn, explored and searched for known heads.

Drawing needs matplotlib or plotly (`pip install "mlxterp[viz]"`), the
interactive page nothing.
"""

from .attention import (
    AttentionVisualizationConfig,
    attention_from_trace,
    attention_heatmap,
    get_attention_patterns,
)
from .interactive import (
    InteractiveAttentionConfig,
    display_interactive_attention,
    interactive_attention,
    interactive_attention_from_trace,
    save_interactive_attention,
)
from .patterns import (
    AttentionPatternDetector,
    HeadScore,
    copying_score,
    current_token_score,
    detect_head_types,
    detect_induction_heads,
    find_attention_pattern,
    first_token_score,
    induction_score,
    previous_token_score,
)

__all__ = [
    "AttentionVisualizationConfig",
    "get_attention_patterns",
    "attention_heatmap",
    "attention_from_trace",
    "InteractiveAttentionConfig",
    "interactive_attention",
    "display_interactive_attention",
    "save_interactive_attention",
    "interactive_attention_from_trace",
    "HeadScore",
    "AttentionPatternDetector",
    "detect_head_types",
    "detect_induction_heads",
    "find_attention_pattern",
    "induction_score",
    "previous_token_score",
    "first_token_score",
    "current_token_score",
    "copying_score",
]
