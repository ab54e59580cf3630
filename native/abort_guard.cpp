#include "abort_guard.hpp"

#include <atomic>
#include <cstdio>
#include <mutex>
#include <stdexcept>
#include <string>

static thread_local int depth = 0;

static std::atomic<bool> aborted{ false };
static std::mutex        reason_mutex;
static std::string       reason;

static void enter() {
    if (aborted) {
        const std::lock_guard<std::mutex> lock(reason_mutex);
        throw std::runtime_error("llama.cpp has failed in this process already (" + reason + "); start a new one");
    }
    depth++;
}

abort_guard::abort_guard() {
    enter();
}

abort_guard::~abort_guard() {
    depth--;
}

void guard_aborts(bool on) {
    if (on) {
        enter();
    } else {
        depth--;
    }
}

bool has_aborted() {
    return aborted;
}

void throw_on_abort(const char * message) {
    if (depth > 0) {
        {
            const std::lock_guard<std::mutex> lock(reason_mutex);
            reason = message;
        }
        aborted = true;
        throw std::runtime_error(message);
    }
    std::fprintf(stderr, "%s\n", message);
}
