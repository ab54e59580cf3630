// One llama_context, driven batch by batch.
//
// What to decode is planned in Python (quantprobe/engine/plan.py); this class checks every precondition that llama.cpp
// would answer with an abort, decodes, and gives access to the rows of the last batch.

#pragma once

#include "llama_api.hpp"

#include <cstdint>
#include <vector>

// Rows of the graph node `result_norm`: the hidden state after the final norm, one row per flagged token, in
// micro-batch order. Address and callback go into llama_context_params before the context is created.
class hidden_collector {
  public:
    hidden_collector(int64_t n_embd) : n_embd(n_embd) {}

    void clear();

    // Whether the graph ends at result_norm: no logits are computed, llama.cpp copies what lay in their memory before.
    // Keys, values and recurrent states of the batch are written by then, as the layers come before the final norm.
    void end_graph(bool end) { ends_graph = end; }

    // nullptr error: fine so far
    const char * error() const { return failure; }

    int64_t n_rows() const { return static_cast<int64_t>(rows.size()) / n_embd; }

    const float * data() const { return rows.data(); }

    // ggml_backend_sched_eval_callback; user_data is a hidden_collector
    static bool callback(ggml_tensor * t, bool ask, void * user_data);

    const int64_t n_embd;

  private:
    void append(const ggml_tensor * t);

    std::vector<float> rows;
    const char *       failure    = nullptr;
    bool               ends_graph = false;
};

class decoder {
  public:
    // the limits are those that the context reports after its creation
    decoder(uintptr_t ctx, int64_t n_vocab, int32_t n_batch, int32_t n_outputs_max, int32_t n_seq_max);

    // Decodes one batch: token i goes at position pos[i] to the sequences seq[i] .. seq[i] + n_seq[i] - 1, which share its
    // cell; output[i] != 0 asks for its row.
    // Returns llama_decode's code (0: done). Throws std::invalid_argument on anything that llama.cpp would abort on.
    int32_t decode(const int32_t * tokens, const int32_t * pos, const int32_t * seq, const int32_t * n_seq, const int8_t * output,
                   int64_t n_tokens);

    // rows of the last batch, [n_rows, n_vocab], in batch order; valid until the next decode
    const float * logits() const { return rows; }

    int64_t n_rows() const { return n_rows_last; }

    void clear();
    void seq_cp(int32_t src, int32_t dst);
    void seq_rm(int32_t seq);

    const int64_t n_vocab;

  private:
    void check_seq(int32_t seq) const;

    llama_context * ctx;
    const int32_t   n_batch;
    const int32_t   n_outputs_max;
    const int32_t   n_seq_max;

    std::vector<int32_t> seq_ids; // 0 .. n_seq_max - 1: consecutive sequences are a part of it

    // the batch that is handed to llama.cpp
    std::vector<int32_t>   batch_tokens;
    std::vector<int32_t>   batch_pos;
    std::vector<int32_t>   batch_n_seq;
    std::vector<int32_t *> batch_seq_ptr;
    std::vector<int8_t>    batch_output;

    const float * rows        = nullptr;
    int64_t       n_rows_last = 0;
};
