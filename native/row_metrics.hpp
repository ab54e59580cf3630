// Row metrics where the logits are: base and quant are compared by a small ggml graph on the device of the output layer, and
// a few hundred numbers of each row come back instead of two rows of the vocabulary.
//
// The quant's logits are copied from the decode's own node `result_output` within the device, the base's from the head
// product. Sums over the vocabulary are float32 within a part of a row and float64 over the parts. What a graph cannot say
// exactly (NaN, infinities, ties at the end of a top list) Python computes again from the rows, which `fetch` gives.

#pragma once

#include "head.hpp"
#include "llama_api.hpp"

#include <cstdint>
#include <string>
#include <vector>

// by row
struct row_numbers {
    // with x, y the logits less their maxima, b, q their exponentials, t = y - x + ln(sum b / sum q), d = b (e^t - 1):
    // b, q, b x, d, |d|, d - b t, d t, (b + d) t - (2 b + d) ln((1 + e^t) / 2)
    static constexpr int n_sums = 8;

    int32_t n_top; // candidates of a top list, unordered

    std::vector<double>  sums;    // [n_rows, n_sums]
    std::vector<float>   maxima;  // [n_rows, 2], base and quant
    std::vector<float>   targets; // [n_rows, 2], the target's logits
    std::vector<int32_t> top_ids; // [n_rows, 2, n_top]
    std::vector<float>   top;     // [n_rows, 2, n_top], their logits
};

class row_metrics {
  public:
    // the product must outlive it; memory for n_rows_max rows is taken on its device
    // throws std::runtime_error if there is none, or if the device lacks an operator
    row_metrics(head_product & head, int64_t n_rows_max);
    ~row_metrics();

    row_metrics(const row_metrics &)             = delete;
    row_metrics & operator=(const row_metrics &) = delete;

    // ggml_backend_sched_eval_callback; user_data is a row_metrics
    static bool callback(ggml_tensor * t, bool ask, void * user_data);

    // before each decode
    void clear();

    // rows of the last decode that are there
    int64_t n_rows() const { return n_rows_there; }

    // empty: fine so far
    const std::string & error() const { return failure; }

    // hidden is [n_rows, n_embd], one row for each row of the last decode
    row_numbers measure(const float * hidden, const int32_t * targets, int64_t n_rows);

    // one row of base and quant, [n_vocab] each, after measure
    void fetch(int64_t row, float * base, float * quant) const;

    const int64_t n_vocab;
    const int64_t n_embd;

  private:
    // of one of the two
    struct top_nodes {
        ggml_tensor * max;    // [1, n]
        ggml_tensor * chunks; // [n_top, n] the parts of the row that were looked into; null: all of it
        ggml_tensor * places; // [n_top, n] where in these
        ggml_tensor * values; // [1, n_top, n]
        ggml_tensor * target; // [1, 1, n]
    };

    // rows first .. first + n - 1; in the arena, ctx is freed by whoever asked for it
    struct slice_graph {
        ggml_context * ctx;
        ggml_cgraph *  graph;
        ggml_tensor *  targets;
        top_nodes      side[2];
        ggml_tensor *  sums[row_numbers::n_sums]; // [1, n_chunks * n]
    };

    void take(const ggml_tensor * t);
    ggml_tensor * leaf(ggml_context * ctx, const ggml_tensor * whole, int64_t first, int64_t n) const;
    slice_graph build(int64_t first, int64_t n);
    top_nodes find_top(ggml_context * ctx, ggml_tensor * rows, ggml_tensor * targets, int64_t n) const;
    void add_sums(ggml_context * ctx, ggml_tensor * base, ggml_tensor * quant, int64_t n, slice_graph & g) const;
    void require_operators(const slice_graph & g) const;
    void measure_slice(const int32_t * targets, int64_t first, int64_t n, row_numbers & out);
    void fetch_top(const top_nodes & nodes, int64_t first, int64_t n, int side, row_numbers & out) const;
    void free_all();

    head_product & head;
    const int64_t  n_rows_max;
    int64_t        n_slice; // rows of a graph
    int64_t        chunk;   // a row is n_chunks parts of this length
    int64_t        n_chunks;
    int32_t        n_top;

    ggml_context *        held   = nullptr; // of the two matrices
    ggml_backend_buffer * buffer = nullptr;
    ggml_gallocr *        alloc  = nullptr;
    ggml_tensor *         base   = nullptr; // [n_vocab, n_rows_max]
    ggml_tensor *         quant  = nullptr;

    int64_t     n_rows_there = 0;
    std::string failure;

    std::vector<uint8_t> arena; // ggml_context of the graph, made anew for each slice
};

// A sampler that takes a sequence's logits on the device and gives nothing on: llama.cpp then copies none of them to the host.
// These are backend_init and backend_apply of its llama_sampler_i.
struct sampler_data {
    ggml_tensor * logits;
    ggml_tensor * probs;
    ggml_tensor * sampled;
    ggml_tensor * candidates;
};

bool leave_logits_init(void * sampler, void * buffer_type, uint32_t n_outputs);
void leave_logits_apply(void * sampler, void * ctx, void * graph, sampler_data * data);
