#include "abort_guard.hpp"

#include <cstdio>
#include <stdexcept>

static thread_local int depth = 0;

abort_guard::abort_guard() {
    depth++;
}

abort_guard::~abort_guard() {
    depth--;
}

void guard_aborts(bool on) {
    depth += on ? 1 : -1;
}

void throw_on_abort(const char * message) {
    if (depth > 0) {
        throw std::runtime_error(message);
    }
    std::fprintf(stderr, "%s\n", message);
}
