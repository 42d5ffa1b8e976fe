/* steer_llama_cpp MODEL DIRECTIONS OUT ID...: llama.cpp's logits at the last of
 * the tokens, as it is and with a control vector of one layer at a time.
 * DIRECTIONS: float32 [layers - 1, d_model]. OUT: float32 [layers, vocab].
 * make_steering.py compiles and runs it. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "llama.h"

static int run(
    struct llama_context* context, llama_token* ids, int n, FILE* out, int vocab) {
  llama_memory_clear(llama_get_memory(context), true);
  if (llama_decode(context, llama_batch_get_one(ids, n))) return 1;
  const float* logits = llama_get_logits_ith(context, -1);
  return fwrite(logits, sizeof(float), vocab, out) != (size_t)vocab;
}

int main(int argc, char** argv) {
  if (argc < 5) return 2;
  ggml_backend_load_all_from_path(getenv("GGML_FOLDER"));
  llama_backend_init();
  struct llama_model* model =
      llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) return 3;
  struct llama_context_params params = llama_context_default_params();
  params.n_ctx = 64;
  params.n_threads = params.n_threads_batch = 1;
  params.type_k = params.type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  struct llama_context* context = llama_init_from_model(model, params);
  const int layers = llama_model_n_layer(model), d = llama_model_n_embd(model);
  const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
  const size_t count = (size_t)d * (layers - 1);
  float* all = malloc(sizeof(float) * count);
  float* one = malloc(sizeof(float) * count);
  FILE* in = fopen(argv[2], "rb");
  FILE* out = fopen(argv[3], "wb");
  if (!in || !out || fread(all, sizeof(float), count, in) != count) return 4;
  const int n = argc - 4;
  llama_token* ids = malloc(sizeof(llama_token) * n);
  for (int i = 0; i < n; ++i)
    ids[i] = atoi(argv[4 + i]);
  if (run(context, ids, n, out, vocab)) return 5;
  for (int layer = 1; layer < layers; ++layer) {
    memset(one, 0, sizeof(float) * count);
    const size_t at = (size_t)d * (layer - 1);
    memcpy(one + at, all + at, sizeof(float) * d);
    if (llama_set_adapter_cvec(context, one, count, d, 1, layers)) return 6;
    if (run(context, ids, n, out, vocab)) return 7;
  }
  return fclose(out) != 0;
}
