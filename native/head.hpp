// Hidden rows -> logits, through ggml's own matrix product on the device that the model's output layer uses.
//
// ggml rounds the rows to the head's partner type and sums in its own order; plain float32 BLAS differs from the model
// by a mean KLD of 4e-7 (F16) to 6e-4 (Q8_0), this product is bit-identical on the CPU.

#pragma once

#include "llama_api.hpp"

#include <cstdint>
#include <string>
#include <vector>

struct head_params {
    int32_t       type; // ggml_type of the matrix
    int64_t       n_embd;
    int64_t       n_vocab;
    const void *  data; // the matrix as it lies in the GGUF; must stay valid if it is used in place
    size_t        n_bytes;
    const float * bias;       // [n_vocab] or null
    float         scale;      // logits are multiplied by this; 1: not applied
    float         softcap;    // softcap * tanh(logits / softcap); 0: not applied
    size_t        device;     // index as in ggml_backend_dev_get
    int32_t       n_threads;  // CPU only
    int64_t       n_rows_max; // memory for so many rows is taken at once; 0: for each product as it comes
};

class head_product {
  public:
    head_product(const head_params & params);
    ~head_product();

    head_product(const head_product &)             = delete;
    head_product & operator=(const head_product &) = delete;

    // rows is [n_rows, n_embd]; the result [n_rows, n_vocab] is valid until the next call
    const float * compute(const float * rows, int64_t n_rows);

    // the same into a tensor [n_vocab, n_rows], on the device
    void compute_into(const float * rows, int64_t n_rows, ggml_tensor * logits);

    const int64_t n_embd;
    const int64_t n_vocab;

  private:
    friend class row_metrics; // works on its backend

    // in the arena, its tensors allocated; ctx is freed by whoever asked for it
    struct product_graph {
        ggml_context * ctx;
        ggml_tensor *  input;
        ggml_tensor *  logits;
        ggml_cgraph *  graph;
    };

    void place_weights(const head_params & params);
    product_graph build(int64_t n_rows);
    product_graph run(const float * rows, int64_t n_rows);
    void free_all();

    const float scale;
    const float softcap;

    ggml_backend_device * dev     = nullptr;
    ggml_backend *        backend = nullptr;
    ggml_context *        weights = nullptr;
    ggml_backend_buffer * buffer  = nullptr;
    ggml_gallocr *        alloc   = nullptr;
    ggml_tensor *         matrix  = nullptr;
    ggml_tensor *         bias    = nullptr;
    bool                  is_host = false;
    std::string           device_name;

    std::vector<uint8_t> arena; // ggml_context of the graph, made anew for each product
    std::vector<float>   fetched;
};
