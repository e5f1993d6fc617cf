/*
 * log: lines for people, on stderr, thread-safe, one write(2) a line. It never waits: what nobody
 * reads is lost, and the next line that gets through is preceded by one that counts it.
 *
 * Under systemd (JOURNAL_STREAM names our stderr) lines carry the <N> priority prefix that
 * journald reads; otherwise time and level. Only the edges of the daemon log (main, backend, vbd,
 * disk); the core returns errors. A line says what could not be done, to which disk, with what
 * consequence.
 *
 * What a guest or server can cause goes through a struct log_limit: LIMIT_LOG_LINES in
 * LIMIT_LOG_WINDOW_MS; the first line after that is preceded by one that counts what was left out.
 * Text from guests, servers and xenstore is made printable before it reaches the terminal.
 */
#ifndef BLKGATE_GATEWAY_LOG_H
#define BLKGATE_GATEWAY_LOG_H

#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Zero-initialised; belongs to one disk (or the like) and one kind of message; one thread. */
struct log_limit {
    uint64_t window_start_ms;
    uint32_t lines;
    uint32_t left_out;
};

void log_set_level(enum log_level level);

/* `who` is a disk's name, or NULL for the daemon itself. */
void log_line(enum log_level level, const char *who, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void log_limited(struct log_limit *limit, enum log_level level, const char *who, const char *format,
                 ...) __attribute__((format(printf, 4, 5)));

#define log_error(who, ...)   log_line(LOG_LEVEL_ERROR, who, __VA_ARGS__)
#define log_warning(who, ...) log_line(LOG_LEVEL_WARNING, who, __VA_ARGS__)
#define log_info(who, ...)    log_line(LOG_LEVEL_INFO, who, __VA_ARGS__)
#define log_debug(who, ...)   log_line(LOG_LEVEL_DEBUG, who, __VA_ARGS__)

#endif
