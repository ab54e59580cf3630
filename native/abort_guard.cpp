#include "abort_guard.hpp"

#include <atomic>
#include <cstdio>
#include <mutex>
#include <stdexcept>
#include <string>

// guarded calls of this thread, and those of them that compute
static thread_local int n_guards    = 0;
static thread_local int n_computing = 0;

static std::atomic<bool> aborted{ false };
static std::mutex        reason_mutex;
static std::string       reason;

static void enter() {
    if (aborted) {
        const std::lock_guard<std::mutex> lock(reason_mutex);
        throw std::runtime_error("llama.cpp has failed in this process already (" + reason + "); start a new one");
    }
    n_guards++;
}

abort_guard::abort_guard() {
    enter();
    n_computing++;
}

abort_guard::~abort_guard() {
    n_guards--;
    n_computing--;
}

void guard_aborts(bool on) {
    if (on) {
        enter();
    } else {
        n_guards--;
    }
}

bool has_aborted() {
    return aborted;
}

void throw_on_abort(const char * message) {
    if (n_guards > 0) {
        if (n_computing > 0) {
            const std::lock_guard<std::mutex> lock(reason_mutex);
            reason  = message;
            aborted = true;
        }
        throw std::runtime_error(message);
    }
    std::fprintf(stderr, "%s\n", message);
}
