// mlxterp/mlxterp.h: everything, like mlx/mlx.h.

#pragma once

#include "mlxterp/analysis/heads.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/analysis/metric.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/core/blas.h"
#include "mlxterp/core/error.h"
#include "mlxterp/core/paths.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/hub.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/models/decoder.h"
#include "mlxterp/nn/module.h"
#include "mlxterp/text/tokenizer.h"
#include "mlxterp/trace/collect.h"
#include "mlxterp/trace/intervention.h"
#include "mlxterp/trace/model.h"
#include "mlxterp/trace/verify.h"
#include "mlxterp/view/heatmap.h"
#include "mlxterp/view/lens.h"
#include "mlxterp/view/terminal.h"
