"""mlxterp: read, edit and explain what happens inside language models on MLX.

from mlxterp import InterpretableModel, interventions as iv

model = InterpretableModel(module, tokenizer)
with model.trace("Hello", interventions={"layers.4": iv.scale(0.5)}):
    attn = model.layers[3].self_attn.output.save()
"""

import sys

from . import _core, visualization
from ._blas import check_blas
from ._core import (
    Intervention,
    Layout,
    PromptCache,
    SiteView,
    When,
    add_vector,
    at_positions,
    clamp,
    clamp_along,
    during,
    noise,
    on_heads,
    on_neurons,
    on_prompts,
    project_out,
    replace_with,
    scale,
    zero_out,
)
from .analysis import (
    heads,
    lenses,
    logits,
    metrics,
    steering,
    sweeps,
    tasks,
    tuned_lens,
)
from .analysis.activation_store import ActivationStore
from .analysis.collecting import collect
from .analysis.dashboards import FeatureDashboards, feature_dashboards
from .analysis.edges import EdgeScores, edges
from .analysis.features import feature_contexts
from .analysis.heads import head_circuits, head_scores, induction_ablation
from .analysis.jacobian_lens import (
    JacobianLens,
    JacobianSpace,
    LocalLens,
    jacobian_space,
    lens_directions,
    local_lens,
)
from .analysis.lenses import lens
from .analysis.logits import logit_attribution
from .analysis.probes import Probe, train_probe
from .analysis.sae_training import SAEConfig, train_sae
from .analysis.saes import SAE
from .compat.v01.sae import SAETrainer
from .analysis.steering import SteeringVector, steer, steer_sweep, steer_train
from .analysis.sweeps import (
    ablate,
    attribute,
    causal_trace,
    compare,
    patch,
    path_patch,
)
from .analysis.tasks import make_task
from .analysis.tuned_lens import TunedLens, train_tuned_lens
from .analysis.verify import verify
from .compat.transformer_lens import patching
from .core import ActivationCache, InterventionComposer, collect_activations
from .core.intervention import interventions
from .errors import (
    BadDataError,
    IoError,
    MlxterpError,
    OutOfRangeError,
    UnknownNameError,
    UsageError,
)
from .model import InterpretableModel
from .utils import batch_get_activations, get_activations

# `import mlxterp.sweeps` is as good as `from mlxterp import sweeps`.
for _module in (
    heads,
    lenses,
    logits,
    metrics,
    patching,
    steering,
    sweeps,
    tasks,
    tuned_lens,
):
    sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module

check_blas()

__version__ = _core.version

__all__ = [
    "ActivationCache",
    "ActivationStore",
    "BadDataError",
    "EdgeScores",
    "FeatureDashboards",
    "InterpretableModel",
    "JacobianLens",
    "JacobianSpace",
    "LocalLens",
    "Intervention",
    "InterventionComposer",
    "IoError",
    "Layout",
    "MlxterpError",
    "OutOfRangeError",
    "Probe",
    "PromptCache",
    "SAE",
    "SAEConfig",
    "SAETrainer",
    "SiteView",
    "SteeringVector",
    "TunedLens",
    "UnknownNameError",
    "UsageError",
    "When",
    "ablate",
    "add_vector",
    "at_positions",
    "attribute",
    "batch_get_activations",
    "causal_trace",
    "clamp",
    "clamp_along",
    "collect",
    "collect_activations",
    "compare",
    "during",
    "edges",
    "feature_contexts",
    "feature_dashboards",
    "get_activations",
    "head_circuits",
    "head_scores",
    "induction_ablation",
    "interventions",
    "jacobian_space",
    "lens",
    "lens_directions",
    "local_lens",
    "logit_attribution",
    "make_task",
    "metrics",
    "noise",
    "on_heads",
    "on_neurons",
    "on_prompts",
    "patch",
    "patching",
    "path_patch",
    "project_out",
    "replace_with",
    "scale",
    "steer",
    "steer_sweep",
    "steer_train",
    "train_probe",
    "train_sae",
    "train_tuned_lens",
    "verify",
    "visualization",
    "zero_out",
]
