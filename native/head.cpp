#include "head.hpp"

#include "abort_guard.hpp"

#include <new>
#include <stdexcept>
#include <string>

static constexpr int32_t type_f32  = 0;
static constexpr int32_t dev_cpu   = 0;  // ggml_backend_dev_type
static constexpr size_t  alignment = 32; // of tensor data, ggml's TENSOR_ALIGNMENT

typedef void (*set_n_threads_t)(ggml_backend *, int32_t);

head_product::head_product(const head_params & params)
    : n_embd(params.n_embd), n_vocab(params.n_vocab), scale(params.scale), softcap(params.softcap) {
    require_llama_api();

    const abort_guard guard;

    const size_t expected = api.ggml_row_size(params.type, n_embd) * n_vocab;
    if (params.n_bytes != expected) {
        throw std::invalid_argument("the head has " + std::to_string(params.n_bytes) + " bytes, its shape needs " +
                                    std::to_string(expected));
    }
    if (params.device >= api.ggml_backend_dev_count()) {
        throw std::invalid_argument("there is no device " + std::to_string(params.device));
    }

    dev         = api.ggml_backend_dev_get(params.device);
    device_name = api.ggml_backend_dev_name(dev);

    backend = api.ggml_backend_dev_init(dev, nullptr);
    if (backend == nullptr) {
        throw std::runtime_error("the device " + device_name + " cannot be initialized");
    }

    try {
        void * proc = api.ggml_backend_reg_get_proc_address(api.ggml_backend_dev_backend_reg(dev), "ggml_backend_set_n_threads");
        if (proc != nullptr && params.n_threads > 0) {
            reinterpret_cast<set_n_threads_t>(proc)(backend, params.n_threads);
        }

        is_host = api.ggml_backend_dev_type(dev) == dev_cpu;
        place_weights(params);

        alloc = api.ggml_gallocr_new(api.ggml_backend_get_default_buffer_type(backend));
        arena.resize(16 * api.ggml_tensor_overhead() + api.ggml_graph_overhead());

        // all the memory that a product needs is taken here: what is missing shows before the first one
        if (params.n_rows_max > 0) {
            product_graph graph = build(params.n_rows_max);
            api.ggml_free(graph.ctx);
        }
    } catch (...) {
        free_all();
        throw;
    }
}

head_product::~head_product() {
    free_all();
}

void head_product::free_all() {
    if (has_aborted()) {
        return;
    }
    if (alloc) {
        api.ggml_gallocr_free(alloc);
    }
    if (buffer) {
        api.ggml_backend_buffer_free(buffer);
    }
    if (weights) {
        api.ggml_free(weights);
    }
    if (backend) {
        api.ggml_backend_free(backend);
    }
}

void head_product::place_weights(const head_params & params) {
    weights = api.ggml_init({ 4 * api.ggml_tensor_overhead(), nullptr, true });
    if (weights == nullptr) {
        throw std::bad_alloc();
    }

    matrix = api.ggml_new_tensor_2d(weights, params.type, n_embd, n_vocab);

    // on the CPU the mapped file is used in place, as llama.cpp does; elsewhere, or if it lies askew, it is copied
    const bool in_place = is_host && params.bias == nullptr && reinterpret_cast<uintptr_t>(params.data) % alignment == 0;
    if (in_place) {
        void * data = const_cast<void *>(params.data);
        buffer      = api.ggml_backend_cpu_buffer_from_ptr(data, params.n_bytes);
        if (buffer == nullptr || api.ggml_backend_tensor_alloc(buffer, matrix, data) != 0) {
            throw std::runtime_error("the head cannot be used where it lies in memory");
        }
        return;
    }

    if (params.bias != nullptr) {
        bias = api.ggml_new_tensor_2d(weights, type_f32, n_vocab, 1);
    }
    buffer = api.ggml_backend_alloc_ctx_tensors(weights, backend);
    if (buffer == nullptr) {
        throw std::runtime_error("no memory for its " + std::to_string(params.n_bytes) + " bytes on " + device_name);
    }
    api.ggml_backend_tensor_set(matrix, params.data, 0, params.n_bytes);
    if (bias != nullptr) {
        api.ggml_backend_tensor_set(bias, params.bias, 0, sizeof(float) * n_vocab);
    }
}

head_product::product_graph head_product::build(int64_t n_rows) {
    ggml_context * ctx = api.ggml_init({ arena.size(), arena.data(), true });

    ggml_tensor * input = api.ggml_new_tensor_2d(ctx, type_f32, n_embd, n_rows);
    api.ggml_set_input(input);

    ggml_tensor * logits = api.ggml_mul_mat(ctx, matrix, input);
    if (bias != nullptr) {
        logits = api.ggml_add(ctx, logits, bias);
    }
    if (scale != 1.0f) {
        logits = api.ggml_scale(ctx, logits, scale);
    }
    if (softcap > 0.0f) {
        logits = api.ggml_scale(ctx, logits, 1.0f / softcap);
        logits = api.ggml_tanh(ctx, logits);
        logits = api.ggml_scale(ctx, logits, softcap);
    }
    api.ggml_set_output(logits);

    ggml_cgraph * graph = api.ggml_new_graph(ctx);
    api.ggml_build_forward_expand(graph, logits);

    if (!api.ggml_gallocr_alloc_graph(alloc, graph)) {
        api.ggml_free(ctx);
        throw std::runtime_error("no memory for " + std::to_string(n_rows) + " rows of logits on " + device_name);
    }
    return { ctx, input, logits, graph };
}

head_product::product_graph head_product::run(const float * rows, int64_t n_rows) {
    if (n_rows < 1) {
        throw std::invalid_argument("a head product needs at least one row");
    }

    product_graph graph = build(n_rows);
    api.ggml_backend_tensor_set(graph.input, rows, 0, sizeof(float) * n_embd * n_rows);

    const int32_t status = api.ggml_backend_graph_compute(backend, graph.graph);
    if (status != 0) {
        api.ggml_free(graph.ctx);
        throw std::runtime_error("ggml could not compute the head product (status " + std::to_string(status) + ")");
    }
    return graph;
}

const float * head_product::compute(const float * rows, int64_t n_rows) {
    const abort_guard   guard;
    const product_graph graph = run(rows, n_rows);

    const float * result = static_cast<const float *>(api.ggml_get_data(graph.logits));
    if (!is_host) {
        fetched.resize(n_rows * n_vocab);
        api.ggml_backend_tensor_get(graph.logits, fetched.data(), 0, sizeof(float) * n_rows * n_vocab);
        result = fetched.data();
    }

    api.ggml_free(graph.ctx);
    return result;
}

void head_product::compute_into(const float * rows, int64_t n_rows, ggml_tensor * logits) {
    const abort_guard   guard;
    const product_graph graph = run(rows, n_rows);
    api.ggml_backend_tensor_copy(graph.logits, logits);
    api.ggml_free(graph.ctx);
}
