// The few functions of llama.cpp and ggml that quantprobe calls, bound at run time.
//
// No llama.cpp header is used: the addresses come from the library that llama_cpp has already loaded, so one build
// serves every backend, and exactly one copy of libllama is in the process (linking against it mapped two).
// Only llama_batch and ggml_init_params are passed by value; engine/abi.py compares the layout of llama_batch with
// llama_cpp's own mirror before anything is called.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>

struct llama_context;
struct llama_memory_i;
struct ggml_context;
struct ggml_tensor;
struct ggml_cgraph;
struct ggml_gallocr;
struct ggml_backend;
struct ggml_backend_buffer;
struct ggml_backend_buffer_type;
struct ggml_backend_device;
struct ggml_backend_reg;

struct llama_batch {
    int32_t n_tokens;

    int32_t *  token;
    float *    embd;
    int32_t *  pos;
    int32_t *  n_seq_id;
    int32_t ** seq_id;
    int8_t *   logits;
};

struct ggml_init_params {
    size_t mem_size;
    void * mem_buffer;
    bool   no_alloc;
};

// name, return type, arguments
// clang-format off: a table
#define QUANTPROBE_API(X) \
    X(llama_decode,                         int32_t,                    (llama_context *, llama_batch)) \
    X(llama_synchronize,                    void,                       (llama_context *)) \
    X(llama_get_logits,                     float *,                    (llama_context *)) \
    X(llama_get_memory,                     llama_memory_i *,           (const llama_context *)) \
    X(llama_memory_clear,                   void,                       (llama_memory_i *, bool)) \
    X(llama_memory_seq_cp,                  void,                       (llama_memory_i *, int32_t, int32_t, int32_t, int32_t)) \
    X(llama_memory_seq_rm,                  bool,                       (llama_memory_i *, int32_t, int32_t, int32_t)) \
    X(ggml_set_abort_callback,              void *,                     (void (*)(const char *))) \
    X(ggml_init,                            ggml_context *,             (ggml_init_params)) \
    X(ggml_free,                            void,                       (ggml_context *)) \
    X(ggml_tensor_overhead,                 size_t,                     ()) \
    X(ggml_graph_overhead,                  size_t,                     ()) \
    X(ggml_new_tensor_2d,                   ggml_tensor *,              (ggml_context *, int32_t, int64_t, int64_t)) \
    X(ggml_new_tensor_3d,                   ggml_tensor *,              (ggml_context *, int32_t, int64_t, int64_t, int64_t)) \
    X(ggml_new_graph,                       ggml_cgraph *,              (ggml_context *)) \
    X(ggml_build_forward_expand,            void,                       (ggml_cgraph *, ggml_tensor *)) \
    X(ggml_mul_mat,                         ggml_tensor *,              (ggml_context *, ggml_tensor *, ggml_tensor *)) \
    X(ggml_mul_mat_id,                      ggml_tensor *,              (ggml_context *, ggml_tensor *, ggml_tensor *, ggml_tensor *)) \
    X(ggml_scale,                           ggml_tensor *,              (ggml_context *, ggml_tensor *, float)) \
    X(ggml_tanh,                            ggml_tensor *,              (ggml_context *, ggml_tensor *)) \
    X(ggml_add,                             ggml_tensor *,              (ggml_context *, ggml_tensor *, ggml_tensor *)) \
    X(ggml_sub,                             ggml_tensor *,              (ggml_context *, ggml_tensor *, ggml_tensor *)) \
    X(ggml_mul,                             ggml_tensor *,              (ggml_context *, ggml_tensor *, ggml_tensor *)) \
    X(ggml_div,                             ggml_tensor *,              (ggml_context *, ggml_tensor *, ggml_tensor *)) \
    X(ggml_scale_bias,                      ggml_tensor *,              (ggml_context *, ggml_tensor *, float, float)) \
    X(ggml_exp,                             ggml_tensor *,              (ggml_context *, ggml_tensor *)) \
    X(ggml_log,                             ggml_tensor *,              (ggml_context *, ggml_tensor *)) \
    X(ggml_expm1,                           ggml_tensor *,              (ggml_context *, ggml_tensor *)) \
    X(ggml_abs,                             ggml_tensor *,              (ggml_context *, ggml_tensor *)) \
    X(ggml_sum_rows,                        ggml_tensor *,              (ggml_context *, ggml_tensor *)) \
    X(ggml_get_rows,                        ggml_tensor *,              (ggml_context *, ggml_tensor *, ggml_tensor *)) \
    X(ggml_top_k,                           ggml_tensor *,              (ggml_context *, ggml_tensor *, int32_t)) \
    X(ggml_pool_2d,                         ggml_tensor *,              (ggml_context *, ggml_tensor *, int32_t, int32_t, int32_t, int32_t, int32_t, float, float)) \
    X(ggml_reshape_2d,                      ggml_tensor *,              (ggml_context *, ggml_tensor *, int64_t, int64_t)) \
    X(ggml_reshape_3d,                      ggml_tensor *,              (ggml_context *, ggml_tensor *, int64_t, int64_t, int64_t)) \
    X(ggml_graph_n_nodes,                   int32_t,                    (ggml_cgraph *)) \
    X(ggml_graph_node,                      ggml_tensor *,              (ggml_cgraph *, int32_t)) \
    X(ggml_op_desc,                         const char *,               (const ggml_tensor *)) \
    X(ggml_set_input,                       void,                       (ggml_tensor *)) \
    X(ggml_set_output,                      void,                       (ggml_tensor *)) \
    X(ggml_get_name,                        const char *,               (const ggml_tensor *)) \
    X(ggml_get_data,                        void *,                     (const ggml_tensor *)) \
    X(ggml_nbytes,                          size_t,                     (const ggml_tensor *)) \
    X(ggml_nrows,                           int64_t,                    (const ggml_tensor *)) \
    X(ggml_element_size,                    size_t,                     (const ggml_tensor *)) \
    X(ggml_row_size,                        size_t,                     (int32_t, int64_t)) \
    X(ggml_gallocr_new,                     ggml_gallocr *,             (ggml_backend_buffer_type *)) \
    X(ggml_gallocr_free,                    void,                       (ggml_gallocr *)) \
    X(ggml_gallocr_alloc_graph,             bool,                       (ggml_gallocr *, ggml_cgraph *)) \
    X(ggml_backend_dev_count,               size_t,                     ()) \
    X(ggml_backend_dev_get,                 ggml_backend_device *,      (size_t)) \
    X(ggml_backend_dev_name,                const char *,               (ggml_backend_device *)) \
    X(ggml_backend_dev_description,         const char *,               (ggml_backend_device *)) \
    X(ggml_backend_dev_memory,              void,                       (ggml_backend_device *, size_t *, size_t *)) \
    X(ggml_backend_dev_type,                int32_t,                    (ggml_backend_device *)) \
    X(ggml_backend_dev_backend_reg,         ggml_backend_reg *,         (ggml_backend_device *)) \
    X(ggml_backend_dev_supports_op,         bool,                       (ggml_backend_device *, const ggml_tensor *)) \
    X(ggml_backend_dev_init,                ggml_backend *,             (ggml_backend_device *, const char *)) \
    X(ggml_backend_reg_by_name,             ggml_backend_reg *,         (const char *)) \
    X(ggml_backend_register,                void,                       (ggml_backend_reg *)) \
    X(ggml_backend_reg_name,                const char *,               (ggml_backend_reg *)) \
    X(ggml_backend_reg_get_proc_address,    void *,                     (ggml_backend_reg *, const char *)) \
    X(ggml_backend_free,                    void,                       (ggml_backend *)) \
    X(ggml_backend_get_default_buffer_type, ggml_backend_buffer_type *, (ggml_backend *)) \
    X(ggml_backend_dev_buffer_type,         ggml_backend_buffer_type *, (ggml_backend_device *)) \
    X(ggml_backend_buft_name,               const char *,               (ggml_backend_buffer_type *)) \
    X(ggml_backend_buft_is_host,            bool,                       (ggml_backend_buffer_type *)) \
    X(ggml_backend_alloc_ctx_tensors,       ggml_backend_buffer *,      (ggml_context *, ggml_backend *)) \
    X(ggml_backend_cpu_buffer_from_ptr,     ggml_backend_buffer *,      (void *, size_t)) \
    X(ggml_backend_tensor_alloc,            int32_t,                    (ggml_backend_buffer *, ggml_tensor *, void *)) \
    X(ggml_backend_tensor_set,              void,                       (ggml_tensor *, const void *, size_t, size_t)) \
    X(ggml_backend_tensor_get,              void,                       (const ggml_tensor *, void *, size_t, size_t)) \
    X(ggml_backend_tensor_copy,             void,                       (const ggml_tensor *, ggml_tensor *)) \
    X(ggml_backend_buffer_is_host,          bool,                       (ggml_backend_buffer *)) \
    X(ggml_backend_buffer_free,             void,                       (ggml_backend_buffer *)) \
    X(ggml_backend_graph_compute,           int32_t,                    (ggml_backend *, ggml_cgraph *))
// clang-format on

struct llama_api {
#define X(name, ret, args) ret(*name) args = nullptr;
    QUANTPROBE_API(X)
#undef X
};

// the bound functions; null until bind_llama_api
extern llama_api api;

// throws std::runtime_error that names the first missing function; nothing is bound then
void bind_llama_api(const std::unordered_map<std::string, uintptr_t> & addresses);

// throws std::runtime_error if bind_llama_api was not called
void require_llama_api();
