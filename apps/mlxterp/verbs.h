// apps/mlxterp/verbs.h: the commands. Each adds itself to the program and says
// what to run when it is chosen.

#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace mlxterp::cli {

using Run = std::function<void()>;

Run add_info(CLI::App& app);
Run add_sites(CLI::App& app);
Run add_tokens(CLI::App& app);
Run add_families(CLI::App& app);
Run add_trace(CLI::App& app);
Run add_generate(CLI::App& app);
Run add_lens(CLI::App& app);
Run add_attention(CLI::App& app);
Run add_tuned_lens(CLI::App& app);
Run add_jlens(CLI::App& app);
Run add_collect(CLI::App& app);
Run add_probe(CLI::App& app);
Run add_patch(CLI::App& app);
Run add_ablate(CLI::App& app);
Run add_causal_trace(CLI::App& app);
Run add_path_patch(CLI::App& app);
Run add_attribute(CLI::App& app);
Run add_edges(CLI::App& app);
Run add_dla(CLI::App& app);
Run add_heads(CLI::App& app);
Run add_features(CLI::App& app);
Run add_steer(CLI::App& app);
Run add_steer_apply(CLI::App& app);  // one of add_steer's own
Run add_sae(CLI::App& app);
Run add_sae_train(CLI::App& app);
Run add_tasks(CLI::App& app);
Run add_verify(CLI::App& app);

/** `mlxterp sae eval`. */
Run add_sae_eval(CLI::App& app);
/** `mlxterp sae dashboards`. */
Run add_sae_dashboards(CLI::App& app);

}  // namespace mlxterp::cli
