// The Python face of the engine: thin, private to quantprobe.engine.

#include "abort_guard.hpp"
#include "decoder.hpp"
#include "head.hpp"
#include "imatrix_collector.hpp"
#include "llama_api.hpp"
#include "log.hpp"
#include "row_metrics.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <regex>
#include <stdexcept>
#include <tuple>

namespace nb = nanobind;

using int32_array = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using int8_array  = nb::ndarray<const int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using byte_array  = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using row_array   = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using bias_array  = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using sum_array   = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using count_array = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using row_view    = nb::ndarray<nb::numpy, const float, nb::ndim<2>>;

// a view that keeps its owner alive; its content is that of the owner's last batch
static row_view view_rows(const float * data, int64_t n_rows, int64_t n_cols, nb::handle owner) {
    return row_view(data, { static_cast<size_t>(n_rows), static_cast<size_t>(n_cols) }, owner);
}

static std::vector<std::string> function_names() {
    std::vector<std::string> names;
#define X(name, ret, args) names.push_back(#name);
    QUANTPROBE_API(X)
#undef X
    return names;
}

static std::vector<std::tuple<std::string, size_t>> batch_layout() {
    // clang-format off: a table
    return {
        { "sizeof", sizeof(llama_batch) },
        { "n_tokens", offsetof(llama_batch, n_tokens) },
        { "token", offsetof(llama_batch, token) },
        { "embd", offsetof(llama_batch, embd) },
        { "pos", offsetof(llama_batch, pos) },
        { "n_seq_id", offsetof(llama_batch, n_seq_id) },
        { "seq_id", offsetof(llama_batch, seq_id) },
        { "logits", offsetof(llama_batch, logits) },
    };
    // clang-format on
}

// name, description, type, backend, free bytes, total bytes
using device_row = std::tuple<std::string, std::string, int32_t, std::string, size_t, size_t>;

static std::vector<device_row> list_devices() {
    require_llama_api();

    std::vector<device_row> devices;
    for (size_t i = 0; i < api.ggml_backend_dev_count(); i++) {
        ggml_backend_device * dev = api.ggml_backend_dev_get(i);

        size_t n_free  = 0;
        size_t n_total = 0;
        api.ggml_backend_dev_memory(dev, &n_free, &n_total);

        devices.emplace_back(api.ggml_backend_dev_name(dev), api.ggml_backend_dev_description(dev), api.ggml_backend_dev_type(dev),
                             api.ggml_backend_reg_name(api.ggml_backend_dev_backend_reg(dev)), n_free, n_total);
    }
    return devices;
}

// (name, address) of the buffer type of every device, in the order of list_devices
static std::vector<std::tuple<std::string, uintptr_t>> buffer_types() {
    require_llama_api();

    std::vector<std::tuple<std::string, uintptr_t>> types;
    for (size_t i = 0; i < api.ggml_backend_dev_count(); i++) {
        ggml_backend_buffer_type * buft = api.ggml_backend_dev_buffer_type(api.ggml_backend_dev_get(i));
        types.emplace_back(buft ? api.ggml_backend_buft_name(buft) : "", reinterpret_cast<uintptr_t>(buft));
    }
    return types;
}

static bool has_backend(const std::string & name) {
    require_llama_api();
    return api.ggml_backend_reg_by_name(name.c_str()) != nullptr;
}

// ggml's assertions become exceptions; nothing was computed, so llama.cpp can be used on
struct abort_guard_lite {
    abort_guard_lite() { guard_aborts(true); }

    ~abort_guard_lite() { guard_aborts(false); }
};

// the devices of an RPC server, behind all others; as add_rpc_devices of llama.cpp's common/arg.cpp
static void add_rpc_server(const std::string & address) {
    require_llama_api();

    const nb::gil_scoped_release release;
    const abort_guard_lite       guard;

    ggml_backend_reg * rpc  = api.ggml_backend_reg_by_name("RPC");
    void *             proc = rpc ? api.ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server") : nullptr;
    if (proc == nullptr) {
        throw std::runtime_error("llama.cpp was built without its RPC backend");
    }
    ggml_backend_reg * server = reinterpret_cast<ggml_backend_reg * (*)(const char *)>(proc)(address.c_str());
    if (server == nullptr) {
        throw std::runtime_error("it has no devices");
    }
    api.ggml_backend_register(server);
}

// std::regex, as llama.cpp matches the patterns of tensor overrides
static std::vector<bool> matches(const std::string & pattern, const std::vector<std::string> & names) {
    try {
        const std::regex  regex(pattern);
        std::vector<bool> found;
        for (const std::string & name : names) {
            found.push_back(std::regex_search(name, regex));
        }
        return found;
    } catch (const std::regex_error & error) {
        throw std::invalid_argument(error.what());
    }
}

static int32_t decode(decoder & self, int32_array tokens, int32_array pos, int32_array seq, int32_array n_seq, int8_array output) {
    const size_t n = tokens.shape(0);
    if (pos.shape(0) != n || seq.shape(0) != n || n_seq.shape(0) != n || output.shape(0) != n) {
        throw std::invalid_argument("tokens, pos, seq, n_seq and output have different lengths");
    }
    const nb::gil_scoped_release release;
    return self.decode(tokens.data(), pos.data(), seq.data(), n_seq.data(), output.data(), static_cast<int64_t>(n));
}

// the product and the arrays that it uses in place
struct head_holder {
    byte_array                    matrix;
    std::unique_ptr<head_product> product;
};

static void check_head_rows(const head_holder & self, const row_array & rows) {
    if (static_cast<int64_t>(rows.shape(1)) != self.product->n_embd) {
        throw std::invalid_argument("the hidden rows have " + std::to_string(rows.shape(1)) + " columns, the head needs " +
                                    std::to_string(self.product->n_embd));
    }
}

static void check_targets(const row_array & rows, const int32_array & targets) {
    if (targets.shape(0) != rows.shape(0)) {
        throw std::invalid_argument("there is not one target for each row");
    }
}

template <typename T> static nb::object copy_array(const std::vector<T> & values, std::initializer_list<size_t> shape) {
    return nb::cast(nb::ndarray<nb::numpy, const T>(values.data(), shape, nb::handle()), nb::rv_policy::copy);
}

// sums, maxima, targets, top_ids, top of row_numbers
static nb::tuple measure_rows(row_metrics & self, row_array hidden, int32_array targets) {
    check_targets(hidden, targets);
    if (static_cast<int64_t>(hidden.shape(1)) != self.n_embd) {
        throw std::invalid_argument("the hidden rows do not fit the head");
    }

    const size_t n_rows = hidden.shape(0);
    row_numbers  found;
    {
        const nb::gil_scoped_release release;
        found = self.measure(hidden.data(), targets.data(), static_cast<int64_t>(n_rows));
    }
    const size_t n_top = static_cast<size_t>(found.n_top);
    return nb::make_tuple(copy_array(found.sums, { n_rows, size_t(row_numbers::n_sums) }), copy_array(found.maxima, { n_rows, 2 }),
                          copy_array(found.targets, { n_rows, 2 }), copy_array(found.top_ids, { n_rows, 2, n_top }),
                          copy_array(found.top, { n_rows, 2, n_top }));
}

// base and quant, [2, n_vocab]
static nb::object fetch_row(const row_metrics & self, int64_t row) {
    std::vector<float> rows(2 * self.n_vocab);
    self.fetch(row, rows.data(), rows.data() + self.n_vocab);
    return copy_array(rows, { 2, static_cast<size_t>(self.n_vocab) });
}

// (name, sums [n_rows, n_columns], counts) of every entry, copied
static nb::list imatrix_entries(const imatrix_collector & self) {
    nb::list list;
    for (const auto & [name, entry] : self.entries()) {
        const size_t n_columns = static_cast<size_t>(entry.n_columns);
        const auto sums = nb::ndarray<nb::numpy, const double, nb::ndim<2>>(entry.sums.data(), { entry.sums.size() / n_columns, n_columns },
                                                                            nb::handle());
        const auto counts = nb::ndarray<nb::numpy, const int64_t, nb::ndim<1>>(entry.counts.data(), { entry.counts.size() }, nb::handle());
        list.append(nb::make_tuple(name, nb::cast(sums, nb::rv_policy::copy), nb::cast(counts, nb::rv_policy::copy)));
    }
    return list;
}

static void restore_imatrix(imatrix_collector & self, const std::string & name, sum_array sums, count_array counts) {
    const size_t n_columns = sums.shape(1);
    self.restore(name, { static_cast<int64_t>(n_columns), std::vector<double>(sums.data(), sums.data() + sums.size()),
                         std::vector<int64_t>(counts.data(), counts.data() + counts.size()) });
}

NB_MODULE(_native, m) {
    m.doc() = "quantprobe's C++ engine; use quantprobe.engine";

    m.def("function_names", &function_names, "Names of the llama.cpp functions that bind() needs.");
    m.def("batch_layout", &batch_layout, "Size and field offsets of llama_batch as compiled here.");
    m.def("bind", &bind_llama_api, nb::arg("addresses"), "Take the addresses of llama.cpp's functions.");
    m.def("guard_aborts", &guard_aborts, nb::arg("on"), "Turn ggml's aborts on this thread into exceptions, or no longer.");
    m.def("has_aborted", &has_aborted, "Whether an abort was caught out of a computation: every guarded call is then refused.");
    m.def("list_devices", &list_devices, "(name, description, type, backend, free, total) of every device.");

    m.def("buffer_types", &buffer_types, "(name, address) of every device's buffer type.");
    m.def("has_backend", &has_backend, nb::arg("name"), "Whether llama.cpp has a backend of this name.");
    m.def("add_rpc_server", &add_rpc_server, nb::arg("address"), "Add the devices of an RPC server, HOST:PORT.");
    m.def("matches", &matches, nb::arg("pattern"), nb::arg("names"), "Which names have a part that matches, by std::regex.");

    m.def("log_callback", [] { return reinterpret_cast<uintptr_t>(&log_callback); }, "Address of the log callback.");
    m.def(
        "take_log",
        [] {
            std::vector<std::tuple<int32_t, std::string>> lines;
            for (const auto & line : global_log().take()) {
                lines.emplace_back(line.level, line.text);
            }
            return lines;
        },
        "(level, text) of llama.cpp's log lines since the last call.");

    nb::class_<hidden_collector>(m, "HiddenCollector")
        .def(nb::init<int64_t>(), nb::arg("n_embd"))
        .def_prop_ro("address", [](hidden_collector & self) { return reinterpret_cast<uintptr_t>(&self); })
        .def_prop_ro_static("callback", [](nb::handle) { return reinterpret_cast<uintptr_t>(&hidden_collector::callback); })
        .def_prop_ro("error", &hidden_collector::error)
        .def("clear", &hidden_collector::clear)
        .def("end_graph", &hidden_collector::end_graph, nb::arg("end"))
        .def("rows", [](nb::handle self) {
            const auto & collector = nb::cast<hidden_collector &>(self);
            return view_rows(collector.data(), collector.n_rows(), collector.n_embd, self);
        });

    nb::class_<imatrix_collector>(m, "ImatrixCollector")
        .def(nb::init<bool>(), nb::arg("with_output"))
        .def_prop_ro("address", [](imatrix_collector & self) { return reinterpret_cast<uintptr_t>(&self); })
        .def_prop_ro_static("callback", [](nb::handle) { return reinterpret_cast<uintptr_t>(&imatrix_collector::callback); })
        .def_prop_ro("error", &imatrix_collector::error)
        .def_prop_ro("n_shared", &imatrix_collector::n_shared)
        .def("entries", &imatrix_entries)
        .def("restore", &restore_imatrix, nb::arg("name"), nb::arg("sums"), nb::arg("counts"));

    nb::class_<decoder>(m, "Decoder")
        .def(nb::init<uintptr_t, int64_t, int32_t, int32_t, int32_t>(), nb::arg("ctx"), nb::arg("n_vocab"), nb::arg("n_batch"),
             nb::arg("n_outputs_max"), nb::arg("n_seq_max"))
        .def("decode", &decode, nb::arg("tokens"), nb::arg("pos"), nb::arg("seq"), nb::arg("n_seq"), nb::arg("output"))
        .def("logits",
             [](nb::handle self) {
                 const auto & dec = nb::cast<decoder &>(self);
                 return view_rows(dec.logits(), dec.n_rows(), dec.n_vocab, self);
             })
        .def("clear", &decoder::clear)
        .def("seq_cp", &decoder::seq_cp, nb::arg("src"), nb::arg("dst"))
        .def("seq_rm", &decoder::seq_rm, nb::arg("seq"));

    nb::class_<head_holder>(m, "HeadProduct")
        .def(
            "__init__",
            [](head_holder * self, int32_t type, int64_t n_embd, int64_t n_vocab, byte_array matrix, nb::object bias, float scale,
               float softcap, size_t device, int32_t n_threads, int64_t n_rows_max) {
                bias_array bias_rows;
                if (!bias.is_none()) {
                    bias_rows = nb::cast<bias_array>(bias);
                    if (static_cast<int64_t>(bias_rows.shape(0)) != n_vocab) {
                        throw std::invalid_argument("the output bias does not fit the vocabulary");
                    }
                }
                const float *     bias_data = bias.is_none() ? nullptr : bias_rows.data();
                const head_params params    = { type,  n_embd,  n_vocab, matrix.data(), matrix.shape(0), bias_data,
                                                scale, softcap, device,  n_threads,     n_rows_max };
                new (self) head_holder{ matrix, std::make_unique<head_product>(params) };
            },
            nb::arg("type"), nb::arg("n_embd"), nb::arg("n_vocab"), nb::arg("matrix"), nb::arg("bias").none(), nb::arg("scale"),
            nb::arg("softcap"), nb::arg("device"), nb::arg("n_threads"), nb::arg("n_rows_max"))
        .def(
            "compute",
            [](nb::handle self, row_array rows) {
                auto &        holder = nb::cast<head_holder &>(self);
                const int64_t n_rows = static_cast<int64_t>(rows.shape(0));
                check_head_rows(holder, rows);

                const float * logits = nullptr;
                {
                    const nb::gil_scoped_release release;
                    logits = holder.product->compute(rows.data(), n_rows);
                }
                return view_rows(logits, n_rows, holder.product->n_vocab, self);
            },
            nb::arg("rows"));

    nb::class_<row_metrics>(m, "RowMetrics")
        .def(
            "__init__",
            [](row_metrics * self, head_holder & head, int64_t n_rows_max) { new (self) row_metrics(*head.product, n_rows_max); },
            nb::arg("head"), nb::arg("n_rows_max"), nb::keep_alive<1, 2>())
        .def_prop_ro("address", [](row_metrics & self) { return reinterpret_cast<uintptr_t>(&self); })
        .def_prop_ro_static("callback", [](nb::handle) { return reinterpret_cast<uintptr_t>(&row_metrics::callback); })
        .def_prop_ro("error", &row_metrics::error)
        .def_prop_ro("n_rows", &row_metrics::n_rows)
        .def("clear", &row_metrics::clear)
        .def("measure", &measure_rows, nb::arg("hidden"), nb::arg("targets"))
        .def("fetch", &fetch_row, nb::arg("row"));
    m.def(
        "leave_logits",
        [] { return std::make_tuple(reinterpret_cast<uintptr_t>(&leave_logits_init), reinterpret_cast<uintptr_t>(&leave_logits_apply)); },
        "Addresses of backend_init and backend_apply of a sampler after which no logits are copied to the host.");
}
