#include "decoder.hpp"

#include "abort_guard.hpp"

#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

void hidden_collector::clear() {
    rows.clear();
    failure = nullptr;
}

bool hidden_collector::callback(ggml_tensor * t, bool ask, void * user_data) {
    if (ask) {
        return std::strcmp(api.ggml_get_name(t), "result_norm") == 0;
    }
    auto & self = *static_cast<hidden_collector *>(user_data);
    self.append(t);
    // false ends the computation of this part of the graph, and the decode succeeds (ggml_backend_sched_compute_splits)
    return !self.ends_graph;
}

void hidden_collector::append(const ggml_tensor * t) {
    const int64_t n_new = api.ggml_nrows(t);
    if (n_new == 0 || failure != nullptr) {
        return;
    }

    // exceptions must not cross llama.cpp's frames: note the failure, Python asks for it after the decode
    const size_t n_bytes = api.ggml_nbytes(t);
    if (api.ggml_element_size(t) != sizeof(float) || n_bytes != sizeof(float) * n_embd * n_new) {
        failure = "the node result_norm is not a contiguous float32 matrix of n_embd columns";
        return;
    }

    try {
        const size_t offset = rows.size();
        rows.resize(offset + n_embd * n_new);
        api.ggml_backend_tensor_get(t, rows.data() + offset, 0, n_bytes);
    } catch (const std::bad_alloc &) {
        failure = "out of memory while copying hidden rows";
    }
}

decoder::decoder(uintptr_t ctx, int64_t n_vocab, int32_t n_batch, int32_t n_outputs_max, int32_t n_seq_max)
    : n_vocab(n_vocab), ctx(reinterpret_cast<llama_context *>(ctx)), n_batch(n_batch), n_outputs_max(n_outputs_max), n_seq_max(n_seq_max) {
    require_llama_api();
    if (ctx == 0 || n_vocab < 1 || n_batch < 1 || n_outputs_max < 1 || n_seq_max < 1) {
        throw std::invalid_argument("a decoder needs a context and positive limits");
    }
    seq_ids.resize(n_seq_max);
    std::iota(seq_ids.begin(), seq_ids.end(), 0);
}

int32_t decoder::decode(const int32_t * tokens, const int32_t * pos, const int32_t * seq, const int32_t * n_seq, const int8_t * output,
                        int64_t n_tokens) {
    if (n_tokens < 1 || n_tokens > n_batch) {
        throw std::invalid_argument("a batch of " + std::to_string(n_tokens) + " tokens; n_batch is " + std::to_string(n_batch));
    }

    int64_t n_output = 0;
    for (int64_t i = 0; i < n_tokens; i++) {
        if (tokens[i] < 0 || tokens[i] >= n_vocab) {
            throw std::invalid_argument("token " + std::to_string(tokens[i]) + " is outside the vocabulary of " + std::to_string(n_vocab));
        }
        if (pos[i] < 0) {
            throw std::invalid_argument("a token has the position " + std::to_string(pos[i]));
        }
        check_seq(seq[i]);
        if (n_seq[i] < 1 || n_seq[i] > n_seq_max - seq[i]) {
            throw std::invalid_argument("a token is for " + std::to_string(n_seq[i]) + " sequences from " + std::to_string(seq[i]) +
                                        " on; n_seq_max is " + std::to_string(n_seq_max));
        }
        n_output += output[i] != 0;
    }
    if (n_output > n_outputs_max) {
        throw std::invalid_argument(std::to_string(n_output) + " rows are asked for; n_outputs_max is " + std::to_string(n_outputs_max));
    }

    // llama_batch is not const: copy, so that the caller's arrays stay as they are
    batch_tokens.assign(tokens, tokens + n_tokens);
    batch_pos.assign(pos, pos + n_tokens);
    batch_n_seq.assign(n_seq, n_seq + n_tokens);
    batch_output.assign(output, output + n_tokens);
    batch_seq_ptr.resize(n_tokens);
    for (int64_t i = 0; i < n_tokens; i++) {
        batch_seq_ptr[i] = &seq_ids[seq[i]];
    }

    rows        = nullptr;
    n_rows_last = 0;

    llama_batch batch = {};
    batch.n_tokens    = static_cast<int32_t>(n_tokens);
    batch.token       = batch_tokens.data();
    batch.pos         = batch_pos.data();
    batch.n_seq_id    = batch_n_seq.data();
    batch.seq_id      = batch_seq_ptr.data();
    batch.logits      = batch_output.data();

    const abort_guard guard;

    const int32_t status = api.llama_decode(ctx, batch);
    if (status != 0) {
        return status;
    }

    // waits for the GPU here, where the GIL is not held
    api.llama_synchronize(ctx);
    if (n_output > 0) {
        rows        = api.llama_get_logits(ctx);
        n_rows_last = n_output;
    }
    return 0;
}

void decoder::clear() {
    const abort_guard guard;
    // with the data: without flash attention a NaN left in a masked cell reaches the next window's rows, as 0 * NaN
    api.llama_memory_clear(api.llama_get_memory(ctx), true);
}

void decoder::seq_cp(int32_t src, int32_t dst) {
    check_seq(src);
    check_seq(dst);
    const abort_guard guard;
    api.llama_memory_seq_cp(api.llama_get_memory(ctx), src, dst, -1, -1);
}

void decoder::seq_rm(int32_t seq) {
    check_seq(seq);
    const abort_guard guard;
    // whole sequences only: recurrent models cannot remove a part
    api.llama_memory_seq_rm(api.llama_get_memory(ctx), seq, -1, -1);
}

void decoder::check_seq(int32_t seq) const {
    if (seq < 0 || seq >= n_seq_max) {
        throw std::invalid_argument("sequence " + std::to_string(seq) + "; n_seq_max is " + std::to_string(n_seq_max));
    }
}
