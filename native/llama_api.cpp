#include "llama_api.hpp"

#include "abort_guard.hpp"

#include <stdexcept>

llama_api api;

void bind_llama_api(const std::unordered_map<std::string, uintptr_t> & addresses) {
    llama_api bound;

    auto find = [&](const char * name) {
        const auto it = addresses.find(name);
        if (it == addresses.end() || it->second == 0) {
            throw std::runtime_error(std::string("no address for the llama.cpp function ") + name);
        }
        return it->second;
    };

#define X(name, ret, args) bound.name = reinterpret_cast<ret(*) args>(find(#name));
    QUANTPROBE_API(X)
#undef X

    api = bound;
    api.ggml_set_abort_callback(&throw_on_abort);
}

void require_llama_api() {
    if (api.llama_decode == nullptr) {
        throw std::runtime_error("the llama.cpp functions are not bound; import quantprobe.engine.abi first");
    }
}
