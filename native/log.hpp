// llama.cpp's log, kept instead of printed.
//
// llama_cpp installs a callback whose level table hides errors; this one keeps the last lines so that Python can put
// llama.cpp's own words into its exceptions.

#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

// ggml_log_level: 1 debug, 2 info, 3 warn, 4 error; 5 continues the line before
struct log_line {
    int32_t     level;
    std::string text;
};

class log_buffer {
  public:
    // may be called from any thread, with text in pieces and without newlines
    void append(int32_t level, const char * text);

    // all complete and begun lines since the last call, oldest first; the buffer is empty afterwards
    std::vector<log_line> take();

  private:
    static constexpr size_t n_lines_max = 8192;

    std::mutex           mutex;
    std::deque<log_line> lines;
    bool                 open = false; // the last line has not seen its newline
};

log_buffer & global_log();

// the ggml_log_callback to hand to llama_log_set
void log_callback(int32_t level, const char * text, void * user_data);
