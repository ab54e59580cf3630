// Sums of squared inputs of every weight matrix, as llama-imatrix collects them.
//
// A node's inputs are fields of ggml_tensor, which no function gives. The fields are read through a mirror whose layout
// is checked against tensors that ggml itself makes, before the first decode (check_tensor_layout).

#pragma once

#include "llama_api.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <unordered_set>
#include <vector>

// the beginning of ggml_tensor
struct tensor_fields {
    int32_t       type;
    void *        buffer;
    int64_t       ne[4];
    size_t        nb[4];
    int32_t       op;
    int32_t       op_params[16];
    int32_t       flags;
    ggml_tensor * src[10];
    ggml_tensor * view_src;
    size_t        view_offs;
    void *        data;
};

struct imatrix_entry {
    int64_t              n_columns;
    std::vector<double>  sums;   // [n_matrices or experts, n_columns]
    std::vector<int64_t> counts; // one, or one per expert
};

class imatrix_collector {
  public:
    // with_output: also output.weight; without it the output product is skipped, its result is not needed.
    // throws std::runtime_error that names the field if ggml_tensor is laid out otherwise here
    explicit imatrix_collector(bool with_output);

    // ggml_backend_sched_eval_callback; user_data is an imatrix_collector
    static bool callback(ggml_tensor * t, bool ask, void * user_data);

    // empty: fine so far
    const std::string & error() const { return failure; }

    const std::map<std::string, imatrix_entry> & entries() const { return stats; }

    // an entry from a checkpoint, before the first decode
    void restore(const std::string & name, imatrix_entry entry) { stats[name] = std::move(entry); }

    // nodes whose input was that of a node before, and was not read again
    int64_t n_shared() const { return n_shared_nodes; }

  private:
    bool wants(const ggml_tensor * t);
    bool collect(const ggml_tensor * t);
    void sum_dense(const tensor_fields & weight, const tensor_fields & input);
    void sum_experts(const tensor_fields & weight, const tensor_fields & input, const ggml_tensor * ids);
    void add(const std::string & name);
    bool is_cached(const tensor_fields & node, const std::string & name) const;

    const bool with_output;
    int32_t    op_mul_mat    = 0;
    int32_t    op_mul_mat_id = 0;

    std::map<std::string, imatrix_entry> stats;
    std::string                          failure;
    int64_t                              n_shared_nodes = 0;

    // The input read last: attention's q, k and v have one, and so have gate and up. A weight that was served has come
    // round again: the same node in the next graph, with other values.
    struct {
        const ggml_tensor *             input         = nullptr;
        const ggml_tensor *             ids           = nullptr;
        int32_t                         op            = 0;
        int64_t                         n_matrices[2] = { 0, 0 };
        int64_t                         n_columns     = 0;
        std::vector<double>             sums;
        std::vector<int64_t>            counts;
        std::unordered_set<std::string> served;
    } last;

    const uint8_t *      rows = nullptr; // of the input: in place, or in `fetched` if it is not in the host's memory
    std::vector<uint8_t> fetched;
    std::vector<uint8_t> fetched_ids;
};
