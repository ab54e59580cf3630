// ggml answers a failed assertion, or a small allocation that was refused, with abort(): the interpreter would be gone.
//
// Within a guarded call the thread that made it gets a C++ exception instead, which crosses ggml's frames to
// llama.cpp's own catch (loading a model, making a context) or to ours (decoding, the head product). Other threads
// still abort, as without this.
//
// Out of a computation, the exception leaves ggml in the middle of its work: where that was a parallel region, the other
// threads wait at its barrier for ever, and the next region would hang. So the first one is the last: every later guarded
// call is refused, and nothing of llama.cpp is freed any more (the process ends soon, and its memory with it). Loading
// a model and making a context compute nothing, and llama.cpp cleans up after them itself: there work goes on.

#pragma once

class abort_guard {
  public:
    // throws std::runtime_error after a caught abort
    abort_guard();
    ~abort_guard();

    abort_guard(const abort_guard &)             = delete;
    abort_guard & operator=(const abort_guard &) = delete;
};

// the same for loading and making contexts, which Python does through ctypes: true before the call, false after it, on
// the same thread
void guard_aborts(bool on);

// whether an abort was caught out of a computation
bool has_aborted();

// the ggml_abort_callback to hand to ggml_set_abort_callback
void throw_on_abort(const char * message);
