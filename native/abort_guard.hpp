// ggml answers a failed assertion, or a small allocation that was refused, with abort(): the interpreter would be gone.
//
// Within a guarded call the thread that made it gets a C++ exception instead, which crosses ggml's frames to
// llama.cpp's own catch (loading a model, making a context) or to ours (decoding, the head product). Other threads
// still abort, as without this.

#pragma once

class abort_guard {
  public:
    abort_guard();
    ~abort_guard();

    abort_guard(const abort_guard &)             = delete;
    abort_guard & operator=(const abort_guard &) = delete;
};

// the same for calls that Python makes through ctypes: true before the call, false after it, on the same thread
void guard_aborts(bool on);

// the ggml_abort_callback to hand to ggml_set_abort_callback
void throw_on_abort(const char * message);
