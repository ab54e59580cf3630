#include "log.hpp"

static constexpr int32_t level_cont = 5;

void log_buffer::append(int32_t level, const char * text) {
    if (text == nullptr) {
        return;
    }

    const std::lock_guard<std::mutex> lock(mutex);

    const std::string piece(text);
    size_t            begin = 0;

    while (begin < piece.size()) {
        const size_t end = piece.find('\n', begin);
        const bool   eol = end != std::string::npos;

        if (!open) {
            const int32_t line_level = level == level_cont && !lines.empty() ? lines.back().level : level;
            lines.push_back({ line_level, "" });
            if (lines.size() > n_lines_max) {
                lines.pop_front();
            }
        }

        lines.back().text.append(piece, begin, (eol ? end : piece.size()) - begin);
        open  = !eol;
        begin = eol ? end + 1 : piece.size();
    }
}

std::vector<log_line> log_buffer::take() {
    const std::lock_guard<std::mutex> lock(mutex);

    std::vector<log_line> taken(lines.begin(), lines.end());
    lines.clear();
    open = false;

    return taken;
}

log_buffer & global_log() {
    static log_buffer log;
    return log;
}

void log_callback(int32_t level, const char * text, void * /*user_data*/) {
    global_log().append(level, text);
}
