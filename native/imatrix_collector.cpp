#include "imatrix_collector.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

static const tensor_fields & fields(const ggml_tensor * t) {
    return *reinterpret_cast<const tensor_fields *>(t);
}

static constexpr int32_t TYPE_F32 = 0;
static constexpr int32_t TYPE_I32 = 26;

// CUDA0#blk.0.attn_k.weight#0 -> blk.0.attn_k.weight: the scheduler names its copies so
static std::string weight_name(const ggml_tensor * t) {
    const std::string name  = api.ggml_get_name(t);
    const size_t      first = name.find('#');
    if (first == std::string::npos) {
        return name;
    }
    return name.substr(first + 1, name.find('#', first + 1) - first - 1);
}

static void require(bool holds, const char * field) {
    if (!holds) {
        throw std::runtime_error(std::string("ggml_tensor.") + field + " is not where this build of quantprobe expects it");
    }
}

struct op_codes {
    int32_t mul_mat;
    int32_t mul_mat_id;
};

// makes both kinds of product, without data, and reads them through the mirror
static op_codes check_tensor_layout() {
    require_llama_api();
    ggml_context * ctx = api.ggml_init({ 16 * api.ggml_tensor_overhead(), nullptr, true });
    if (ctx == nullptr) {
        throw std::runtime_error("out of memory");
    }
    try {
        ggml_tensor * matrix  = api.ggml_new_tensor_2d(ctx, TYPE_F32, 32, 5);
        ggml_tensor * rows    = api.ggml_new_tensor_2d(ctx, TYPE_F32, 32, 7);
        ggml_tensor * experts = api.ggml_new_tensor_3d(ctx, TYPE_F32, 32, 5, 4);
        ggml_tensor * inputs  = api.ggml_new_tensor_3d(ctx, TYPE_F32, 32, 1, 7);
        ggml_tensor * ids     = api.ggml_new_tensor_2d(ctx, TYPE_I32, 2, 7);

        const auto & m = fields(experts);
        require(m.buffer == nullptr, "buffer");
        require(m.type == TYPE_F32 && fields(ids).type == TYPE_I32, "type");
        require(m.ne[0] == 32 && m.ne[1] == 5 && m.ne[2] == 4 && m.ne[3] == 1, "ne");
        require(m.nb[0] == 4 && m.nb[1] == 128 && m.nb[2] == 640 && m.nb[3] == 2560, "nb");

        const auto & dense  = fields(api.ggml_mul_mat(ctx, matrix, rows));
        const auto & routed = fields(api.ggml_mul_mat_id(ctx, experts, inputs, ids));
        require(dense.src[0] == matrix && dense.src[1] == rows && dense.src[2] == nullptr, "src");
        require(routed.src[0] == experts && routed.src[1] == inputs && routed.src[2] == ids && routed.src[3] == nullptr, "src");
        require(dense.op > m.op && routed.op > m.op && dense.op != routed.op, "op");

        const op_codes codes = { dense.op, routed.op };
        api.ggml_free(ctx);
        return codes;
    } catch (...) {
        api.ggml_free(ctx);
        throw;
    }
}

imatrix_collector::imatrix_collector(bool with_output) : with_output(with_output) {
    const op_codes codes = check_tensor_layout();
    op_mul_mat           = codes.mul_mat;
    op_mul_mat_id        = codes.mul_mat_id;
}

// exceptions must not cross llama.cpp's frames: note the failure, Python asks for it after the decode
bool imatrix_collector::callback(ggml_tensor * t, bool ask, void * user_data) {
    auto & self = *static_cast<imatrix_collector *>(user_data);
    try {
        return ask ? self.wants(t) : self.collect(t);
    } catch (const std::exception & error) {
        if (self.failure.empty()) {
            self.failure = error.what();
        }
        return false;
    }
}

bool imatrix_collector::wants(const ggml_tensor * t) {
    if (!failure.empty()) {
        return false;
    }
    const auto & node = fields(t);
    if (node.op != op_mul_mat && node.op != op_mul_mat_id) {
        return !with_output && std::strcmp(api.ggml_get_name(t), "result_norm") == 0;
    }
    const std::string name = weight_name(node.src[0]);
    if (node.op == op_mul_mat) {
        const auto & input = fields(node.src[1]);
        // llama-imatrix leaves out batches of fewer than 16 tokens, and so the products of single rows
        if (input.ne[1] < 16 || input.type != TYPE_F32) {
            return false;
        }
        if (name.compare(0, 4, "blk.") != 0 && !(with_output && name == "output.weight")) {
            return false;
        }
    }
    if (is_cached(node, name)) {
        // known already: without a stop at this node, and without reading the input again
        add(name);
        n_shared_nodes++;
        return false;
    }
    return true;
}

bool imatrix_collector::is_cached(const tensor_fields & node, const std::string & name) const {
    const auto & weight = fields(node.src[0]);
    return last.input == node.src[1] && last.ids == node.src[2] && last.op == node.op && last.n_matrices[0] == weight.ne[2] &&
           last.n_matrices[1] == weight.ne[3] && last.served.count(name) == 0;
}

bool imatrix_collector::collect(const ggml_tensor * t) {
    const auto & node = fields(t);
    if (node.op != op_mul_mat && node.op != op_mul_mat_id) {
        return false; // result_norm: what follows is the output product
    }
    const auto & weight = fields(node.src[0]);
    const auto & input  = fields(node.src[1]);
    if (input.type != TYPE_F32 || input.nb[0] != sizeof(float)) {
        throw std::runtime_error("the input of " + weight_name(node.src[0]) + " is not in rows of float32");
    }
    if (input.buffer != nullptr && api.ggml_backend_buffer_is_host(static_cast<ggml_backend_buffer *>(input.buffer))) {
        rows = static_cast<const uint8_t *>(api.ggml_get_data(node.src[1]));
    } else {
        fetched.resize(api.ggml_nbytes(node.src[1]));
        api.ggml_backend_tensor_get(node.src[1], fetched.data(), 0, fetched.size());
        rows = fetched.data();
    }

    last.input         = node.src[1];
    last.ids           = node.src[2];
    last.op            = node.op;
    last.n_matrices[0] = weight.ne[2];
    last.n_matrices[1] = weight.ne[3];
    last.n_columns     = input.ne[0];
    last.served.clear();
    last.sums.assign(static_cast<size_t>(input.ne[0] * weight.ne[2] * weight.ne[3]), 0.0);
    if (node.op == op_mul_mat) {
        sum_dense(weight, input);
    } else {
        sum_experts(weight, input, node.src[2]);
    }

    const std::string name = weight_name(node.src[0]);
    if (!std::all_of(last.sums.begin(), last.sums.end(), [](double sum) { return std::isfinite(sum); })) {
        throw std::runtime_error("the input of " + name + " holds NaN or infinity");
    }
    add(name);
    return true;
}

static void add_squares(double * sums, const float * x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        sums[i] += static_cast<double>(x[i]) * x[i];
    }
}

// four rows, added up in float32 first: half the time, and at most three roundings of 6e-8 each
static void add_four_squares(double * sums, const uint8_t * row, size_t stride, int64_t n) {
    const float * a = reinterpret_cast<const float *>(row);
    const float * b = reinterpret_cast<const float *>(row + stride);
    const float * c = reinterpret_cast<const float *>(row + 2 * stride);
    const float * d = reinterpret_cast<const float *>(row + 3 * stride);
    for (int64_t i = 0; i < n; i++) {
        sums[i] += (a[i] * a[i] + b[i] * b[i]) + (c[i] * c[i] + d[i] * d[i]);
    }
}

// weights of more than two dimensions have a matrix for each pair of their last two; inputs go round them
void imatrix_collector::sum_dense(const tensor_fields & weight, const tensor_fields & input) {
    for (int64_t i3 = 0; i3 < input.ne[3]; i3++) {
        for (int64_t i2 = 0; i2 < input.ne[2]; i2++) {
            const int64_t   matrix = (i3 % weight.ne[3]) * weight.ne[2] + (i2 % weight.ne[2]);
            double *        sums   = last.sums.data() + matrix * input.ne[0];
            const uint8_t * first  = rows + i2 * input.nb[2] + i3 * input.nb[3];
            int64_t         i1     = 0;
            for (; i1 + 4 <= input.ne[1]; i1 += 4) {
                add_four_squares(sums, first + i1 * input.nb[1], input.nb[1], input.ne[0]);
            }
            for (; i1 < input.ne[1]; i1++) {
                add_squares(sums, reinterpret_cast<const float *>(first + i1 * input.nb[1]), input.ne[0]);
            }
        }
    }
    last.counts.assign(1, input.ne[1] * input.ne[2] * input.ne[3] / (weight.ne[2] * weight.ne[3]));
}

// input is [n_columns, n_used or 1, n_tokens], ids [n_used, n_tokens] and not contiguous
void imatrix_collector::sum_experts(const tensor_fields & weight, const tensor_fields & input, const ggml_tensor * ids) {
    const auto &  chosen    = fields(ids);
    const int64_t n_experts = weight.ne[2];
    if (chosen.type != TYPE_I32 || chosen.ne[1] != input.ne[2] || input.ne[3] != 1 || weight.ne[3] != 1) {
        throw std::runtime_error("a product with experts has a shape that is not known");
    }
    fetched_ids.resize(api.ggml_nbytes(ids));
    api.ggml_backend_tensor_get(ids, fetched_ids.data(), 0, fetched_ids.size());

    last.counts.assign(static_cast<size_t>(n_experts), 0);
    for (int64_t token = 0; token < chosen.ne[1]; token++) {
        for (int64_t slot = 0; slot < chosen.ne[0]; slot++) {
            int32_t expert = 0;
            std::memcpy(&expert, fetched_ids.data() + token * chosen.nb[1] + slot * chosen.nb[0], sizeof(expert));
            if (expert < 0 || expert >= n_experts) {
                throw std::runtime_error("a token was sent to an expert that does not exist");
            }
            const uint8_t * row = rows + (slot % input.ne[1]) * input.nb[1] + token * input.nb[2];
            add_squares(last.sums.data() + expert * input.ne[0], reinterpret_cast<const float *>(row), input.ne[0]);
            last.counts[static_cast<size_t>(expert)]++;
        }
    }
}

void imatrix_collector::add(const std::string & name) {
    auto & entry = stats[name];
    if (entry.sums.empty()) {
        entry.n_columns = last.n_columns;
        entry.sums.assign(last.sums.size(), 0.0);
        entry.counts.assign(last.counts.size(), 0);
    }
    if (entry.sums.size() != last.sums.size() || (entry.counts.size() != last.counts.size() && last.counts.size() != 1)) {
        throw std::runtime_error(name + " was used in two shapes");
    }
    for (size_t i = 0; i < last.sums.size(); i++) {
        entry.sums[i] += last.sums[i];
    }
    for (size_t i = 0; i < entry.counts.size(); i++) {
        entry.counts[i] += last.counts[last.counts.size() == 1 ? 0 : i];
    }
    last.served.insert(name);
}
