#include "row_metrics.hpp"

#include "abort_guard.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>

static constexpr int32_t type_f32 = 0;
static constexpr int32_t type_i32 = 26;
static constexpr int32_t pool_max = 0; // ggml_op_pool

static constexpr int32_t n_candidates = 16;      // of a top list of 10: a tie at its end shows in the others
static constexpr int64_t slice_bytes  = 1 << 24; // of one temporary, about seven of which live at once
static constexpr size_t  alignment    = 256;     // of a slice in its matrix: the most that a backend asks for
static constexpr int     n_nodes_max  = 96;

// the divisor of n_vocab next to its root, so that a row is about as many parts as a part has entries; 1 part if there is
// none between which a top list could be looked for
static int64_t find_chunk(int64_t n_vocab) {
    for (int64_t chunk = static_cast<int64_t>(std::sqrt(static_cast<double>(n_vocab))); chunk >= n_candidates; chunk--) {
        if (n_vocab % chunk == 0 && n_vocab / chunk > n_candidates) {
            return chunk;
        }
    }
    return n_vocab;
}

row_metrics::row_metrics(head_product & head, int64_t n_rows_max)
    : n_vocab(head.n_vocab), n_embd(head.n_embd), head(head), n_rows_max(n_rows_max), chunk(find_chunk(head.n_vocab)),
      n_chunks(head.n_vocab / chunk), n_top(static_cast<int32_t>(std::min<int64_t>(n_candidates, head.n_vocab))) {
    if (n_rows_max < 1) {
        throw std::invalid_argument("row metrics need room for at least one row");
    }

    const abort_guard guard;

    // slices begin at aligned addresses
    const int64_t row_bytes = sizeof(float) * n_vocab;
    const int64_t step      = alignment / std::gcd<int64_t>(row_bytes, alignment);
    n_slice                 = std::max<int64_t>(1, slice_bytes / row_bytes / step) * step;

    try {
        held = api.ggml_init({ 4 * api.ggml_tensor_overhead(), nullptr, true });
        if (held == nullptr) {
            throw std::bad_alloc();
        }
        base   = api.ggml_new_tensor_2d(held, type_f32, n_vocab, n_rows_max);
        quant  = api.ggml_new_tensor_2d(held, type_f32, n_vocab, n_rows_max);
        buffer = api.ggml_backend_alloc_ctx_tensors(held, head.backend);
        if (buffer == nullptr) {
            throw std::runtime_error("no memory for two blocks of " + std::to_string(n_rows_max) + " rows on " + head.device_name);
        }

        alloc = api.ggml_gallocr_new(api.ggml_backend_get_default_buffer_type(head.backend));
        arena.resize(n_nodes_max * api.ggml_tensor_overhead() + api.ggml_graph_overhead());

        // what is missing shows before the first decode
        const slice_graph g = build(0, std::min(n_slice, n_rows_max));
        api.ggml_free(g.ctx);
    } catch (...) {
        free_all();
        throw;
    }
}

row_metrics::~row_metrics() {
    free_all();
}

void row_metrics::free_all() {
    if (has_aborted()) {
        return;
    }
    if (alloc) {
        api.ggml_gallocr_free(alloc);
    }
    if (buffer) {
        api.ggml_backend_buffer_free(buffer);
    }
    if (held) {
        api.ggml_free(held);
    }
}

void row_metrics::clear() {
    n_rows_there = 0;
    failure.clear();
}

// exceptions must not cross llama.cpp's frames: note the failure, Python asks for it after the decode
bool row_metrics::callback(ggml_tensor * t, bool ask, void * user_data) {
    auto & self = *static_cast<row_metrics *>(user_data);
    if (ask) {
        return std::strcmp(api.ggml_get_name(t), "result_output") == 0;
    }
    try {
        self.take(t);
    } catch (const std::exception & error) {
        self.failure      = error.what();
        self.n_rows_there = 0;
    }
    return true;
}

void row_metrics::take(const ggml_tensor * t) {
    const int64_t n = api.ggml_nrows(t);
    if (n == 0 || !failure.empty()) {
        return;
    }
    if (n_rows_there > 0) {
        failure = "the batch was computed in several micro-batches";
        return;
    }
    if (n > n_rows_max || api.ggml_element_size(t) != sizeof(float) || api.ggml_nbytes(t) != sizeof(float) * n_vocab * n) {
        failure = "the node result_output is not a contiguous float32 matrix of n_vocab columns";
        return;
    }

    std::vector<uint8_t> memory(2 * api.ggml_tensor_overhead());
    ggml_context *       ctx = api.ggml_init({ memory.size(), memory.data(), true });
    api.ggml_backend_tensor_copy(t, leaf(ctx, quant, 0, n));
    api.ggml_free(ctx);
    n_rows_there = n;
}

// rows of a matrix that is there already, as a tensor that has no history: a view would bring its source into the graph
ggml_tensor * row_metrics::leaf(ggml_context * ctx, const ggml_tensor * whole, int64_t first, int64_t n) const {
    ggml_tensor * rows = api.ggml_new_tensor_2d(ctx, type_f32, n_vocab, n);
    char *        data = static_cast<char *>(api.ggml_get_data(whole)) + sizeof(float) * n_vocab * first;
    if (api.ggml_backend_tensor_alloc(buffer, rows, data) != 0) {
        throw std::runtime_error("a block of rows cannot be used where it lies on " + head.device_name);
    }
    return rows;
}

// the largest entries lie in the parts with the largest maxima: sorting those is enough
row_metrics::top_nodes row_metrics::find_top(ggml_context * ctx, ggml_tensor * rows, ggml_tensor * targets, int64_t n) const {
    top_nodes nodes = {};

    const int32_t width = static_cast<int32_t>(chunk);

    ggml_tensor * maxima = api.ggml_pool_2d(ctx, rows, pool_max, width, 1, width, 1, 0, 0);
    ggml_tensor * within = rows;
    int64_t       length = n_vocab;
    nodes.max            = maxima;
    if (n_chunks > 1) {
        const int32_t all = static_cast<int32_t>(n_chunks);

        length       = chunk * n_top;
        nodes.max    = api.ggml_pool_2d(ctx, maxima, pool_max, all, 1, all, 1, 0, 0);
        nodes.chunks = api.ggml_top_k(ctx, maxima, n_top);
        within       = api.ggml_get_rows(ctx, api.ggml_reshape_3d(ctx, rows, chunk, n_chunks, n), nodes.chunks);
        within       = api.ggml_reshape_2d(ctx, within, length, n);
    }
    nodes.places = api.ggml_top_k(ctx, within, n_top);
    nodes.values = api.ggml_get_rows(ctx, api.ggml_reshape_3d(ctx, within, 1, length, n), nodes.places);
    nodes.target = api.ggml_get_rows(ctx, api.ggml_reshape_3d(ctx, rows, 1, n_vocab, n), targets);
    return nodes;
}

void row_metrics::add_sums(ggml_context * ctx, ggml_tensor * base_rows, ggml_tensor * quant_rows, int64_t n, slice_graph & g) const {
    const auto parts = [&](ggml_tensor * t) {
        return api.ggml_sum_rows(ctx, api.ggml_reshape_2d(ctx, t, chunk, n_chunks * n));
    };
    const auto total = [&](ggml_tensor * sums) {
        return api.ggml_sum_rows(ctx, api.ggml_reshape_2d(ctx, sums, n_chunks, n));
    };

    ggml_tensor * x = api.ggml_sub(ctx, base_rows, g.side[0].max);
    ggml_tensor * y = api.ggml_sub(ctx, quant_rows, g.side[1].max);
    ggml_tensor * b = api.ggml_exp(ctx, x);
    g.sums[0]       = parts(b);
    g.sums[1]       = parts(api.ggml_exp(ctx, y));
    g.sums[2]       = parts(api.ggml_mul(ctx, b, x));

    // t = ln(q' / b) and d = q' - b with q' normalised as b: what is small is computed as such, not as a difference of what is
    // not, and an error of both normalisers cancels to the first order
    // (logits that are close are subtracted without rounding, unlike y and x)
    ggml_tensor * ratio = api.ggml_log(ctx, api.ggml_div(ctx, total(g.sums[0]), total(g.sums[1])));
    ggml_tensor * shift = api.ggml_add(ctx, api.ggml_sub(ctx, g.side[0].max, g.side[1].max), ratio);
    ggml_tensor * t     = api.ggml_add(ctx, api.ggml_sub(ctx, quant_rows, base_rows), shift);
    ggml_tensor * grown = api.ggml_expm1(ctx, t);
    ggml_tensor * d     = api.ggml_mul(ctx, b, grown);
    ggml_tensor * bt    = api.ggml_mul(ctx, b, t);
    ggml_tensor * dt    = api.ggml_mul(ctx, d, t);
    g.sums[3]           = parts(d);
    g.sums[4]           = parts(api.ggml_abs(ctx, d));
    g.sums[5]           = parts(api.ggml_sub(ctx, d, bt));
    g.sums[6]           = parts(dt);

    ggml_tensor * both = api.ggml_add(ctx, api.ggml_add(ctx, b, d), b);
    ggml_tensor * mean = api.ggml_log(ctx, api.ggml_scale_bias(ctx, grown, 0.5f, 1.0f)); // ln((1 + e^t) / 2)
    g.sums[7]          = parts(api.ggml_sub(ctx, api.ggml_add(ctx, bt, dt), api.ggml_mul(ctx, both, mean)));
}

row_metrics::slice_graph row_metrics::build(int64_t first, int64_t n) {
    slice_graph g = {};

    g.ctx = api.ggml_init({ arena.size(), arena.data(), true });
    try {
        g.targets = api.ggml_new_tensor_2d(g.ctx, type_i32, 1, n);
        api.ggml_set_input(g.targets);

        ggml_tensor * rows[2] = { leaf(g.ctx, base, first, n), leaf(g.ctx, quant, first, n) };
        for (int i = 0; i < 2; i++) {
            g.side[i] = find_top(g.ctx, rows[i], g.targets, n);
        }
        add_sums(g.ctx, rows[0], rows[1], n, g);

        g.graph           = api.ggml_new_graph(g.ctx);
        const auto output = [&](ggml_tensor * t) {
            api.ggml_set_output(t);
            api.ggml_build_forward_expand(g.graph, t);
        };
        for (const top_nodes & side : g.side) {
            for (ggml_tensor * t : { side.max, side.chunks, side.places, side.values, side.target }) {
                if (t != nullptr) {
                    output(t);
                }
            }
        }
        for (ggml_tensor * t : g.sums) {
            output(t);
        }

        require_operators(g);
        if (!api.ggml_gallocr_alloc_graph(alloc, g.graph)) {
            throw std::runtime_error("no memory to compare " + std::to_string(n) + " rows on " + head.device_name);
        }
        return g;
    } catch (...) {
        api.ggml_free(g.ctx);
        throw;
    }
}

void row_metrics::require_operators(const slice_graph & g) const {
    for (int32_t i = 0; i < api.ggml_graph_n_nodes(g.graph); i++) {
        const ggml_tensor * node = api.ggml_graph_node(g.graph, i);
        if (!api.ggml_backend_dev_supports_op(head.dev, node)) {
            throw std::runtime_error(head.device_name + " cannot compute " + api.ggml_op_desc(node));
        }
    }
}

row_numbers row_metrics::measure(const float * hidden, const int32_t * targets, int64_t n_rows) {
    if (n_rows != n_rows_there) {
        throw std::invalid_argument(std::to_string(n_rows) + " rows are to be compared, the decode left " + std::to_string(n_rows_there));
    }
    for (int64_t i = 0; i < n_rows; i++) {
        if (targets[i] < 0 || targets[i] >= n_vocab) {
            throw std::invalid_argument("a target is outside the vocabulary");
        }
    }

    const abort_guard guard;

    // in one product, as the capture made it: ggml has other kernels for other numbers of rows
    std::vector<uint8_t> memory(2 * api.ggml_tensor_overhead());
    ggml_context *       ctx = api.ggml_init({ memory.size(), memory.data(), true });
    try {
        head.compute_into(hidden, n_rows, leaf(ctx, base, 0, n_rows));
    } catch (...) {
        api.ggml_free(ctx);
        throw;
    }
    api.ggml_free(ctx);

    row_numbers out;
    out.n_top = n_top;
    out.sums.resize(n_rows * row_numbers::n_sums);
    out.maxima.resize(n_rows * 2);
    out.targets.resize(n_rows * 2);
    out.top_ids.resize(n_rows * 2 * n_top);
    out.top.resize(n_rows * 2 * n_top);
    for (int64_t first = 0; first < n_rows; first += n_slice) {
        measure_slice(targets, first, std::min(n_slice, n_rows - first), out);
    }
    return out;
}

template <typename T> static std::vector<T> fetch_all(const ggml_tensor * t) {
    std::vector<T> values(api.ggml_nbytes(t) / sizeof(T));
    api.ggml_backend_tensor_get(t, values.data(), 0, values.size() * sizeof(T));
    return values;
}

void row_metrics::measure_slice(const int32_t * targets, int64_t first, int64_t n, row_numbers & out) {
    const slice_graph g = build(first, n);
    try {
        api.ggml_backend_tensor_set(g.targets, targets + first, 0, sizeof(int32_t) * n);

        const int32_t status = api.ggml_backend_graph_compute(head.backend, g.graph);
        if (status != 0) {
            throw std::runtime_error("ggml could not compare rows (status " + std::to_string(status) + ")");
        }

        for (int side = 0; side < 2; side++) {
            fetch_top(g.side[side], first, n, side, out);
        }
        for (int k = 0; k < row_numbers::n_sums; k++) {
            const std::vector<float> parts = fetch_all<float>(g.sums[k]);
            for (int64_t i = 0; i < n; i++) {
                double sum = 0.0;
                for (int64_t j = 0; j < n_chunks; j++) {
                    sum += parts[i * n_chunks + j];
                }
                out.sums[(first + i) * row_numbers::n_sums + k] = sum;
            }
        }
    } catch (...) {
        api.ggml_free(g.ctx);
        throw;
    }
    api.ggml_free(g.ctx);
}

void row_metrics::fetch_top(const top_nodes & nodes, int64_t first, int64_t n, int side, row_numbers & out) const {
    const std::vector<float>   max    = fetch_all<float>(nodes.max);
    const std::vector<float>   target = fetch_all<float>(nodes.target);
    const std::vector<float>   values = fetch_all<float>(nodes.values);
    const std::vector<int32_t> places = fetch_all<int32_t>(nodes.places);
    const std::vector<int32_t> chunks = nodes.chunks != nullptr ? fetch_all<int32_t>(nodes.chunks) : std::vector<int32_t>();

    for (int64_t i = 0; i < n; i++) {
        const int64_t row = (first + i) * 2 + side;
        out.maxima[row]   = max[i];
        out.targets[row]  = target[i];
        for (int32_t k = 0; k < n_top; k++) {
            const int64_t place          = places[i * n_top + k];
            const int64_t id             = chunks.empty() ? place : chunks[i * n_top + place / chunk] * chunk + place % chunk;
            out.top_ids[row * n_top + k] = static_cast<int32_t>(id);
            out.top[row * n_top + k]     = values[i * n_top + k];
        }
    }
}

void row_metrics::fetch(int64_t row, float * base_row, float * quant_row) const {
    if (row < 0 || row >= n_rows_there) {
        throw std::invalid_argument("there is no row " + std::to_string(row));
    }
    const abort_guard guard;
    const size_t      n_bytes = sizeof(float) * n_vocab;
    api.ggml_backend_tensor_get(base, base_row, n_bytes * row, n_bytes);
    api.ggml_backend_tensor_get(quant, quant_row, n_bytes * row, n_bytes);
}

bool leave_logits_init(void *, void *, uint32_t) {
    return true;
}

void leave_logits_apply(void *, void *, void *, sampler_data * data) {
    data->logits = nullptr;
}
