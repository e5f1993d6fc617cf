#include "gateway/log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "proto/limits.h"

/* Below PIPE_BUF, so that lines of two threads (or processes) on one pipe never mix. */
enum { LINE_BYTES = 1024 };

static const struct {
    const char *name;
    int priority; /* syslog's, which journald reads */
} levels[] = {
    [LOG_LEVEL_ERROR] = {"error", 3},
    [LOG_LEVEL_WARNING] = {"warning", 4},
    [LOG_LEVEL_INFO] = {"info", 6},
    [LOG_LEVEL_DEBUG] = {"debug", 7},
};

static atomic_int current_level = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&current_level, (int)level, memory_order_relaxed);
}

static bool is_wanted(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&current_level, memory_order_relaxed);
}

/* The variable is inherited by everything a service starts, redirected or not: only if it names
 * our stderr does journald read what we write there. */
static bool is_journal(void)
{
    uintmax_t device;
    uintmax_t inode;
    struct stat status;
    char *end;
    const char *stream = getenv("JOURNAL_STREAM");

    if (!stream)
        return false;
    device = strtoumax(stream, &end, 10);
    if (end == stream || *end != ':')
        return false;
    stream = end + 1;
    inode = strtoumax(stream, &end, 10);
    if (end == stream || *end != '\0' || fstat(STDERR_FILENO, &status) < 0)
        return false;
    return (uintmax_t)status.st_dev == device && (uintmax_t)status.st_ino == inode;
}

struct line {
    size_t used;
    bool is_cut; /* it is full, and says so */
    char text[LINE_BYTES];
};

/* Text of guests and servers may hold anything: an escape sequence must not reach a terminal, nor
 * a line feed forge a line. Leaves room for an end that shows that something was cut. */
static void line_add(struct line *line, const char *text)
{
    static const char cut[] = "...";
    const size_t room = sizeof(line->text) - sizeof(cut) - 1;

    for (; *text && !line->is_cut; text++) {
        const unsigned char c = (unsigned char)*text;
        const bool plain = c >= 0x20 && c < 0x7f;

        if (line->used + (plain ? 1 : 4) > room) {
            memcpy(line->text + line->used, cut, sizeof(cut) - 1);
            line->used += sizeof(cut) - 1;
            line->is_cut = true;
        } else if (plain) {
            line->text[line->used++] = (char)c;
        } else {
            line->used += (size_t)snprintf(line->text + line->used, 5, "\\x%02x", c);
        }
    }
}

static void line_start(struct line *line, enum log_level level)
{
    int length = 0;

    line->used = 0;
    line->is_cut = false;
    if (is_journal()) {
        length = snprintf(line->text, sizeof(line->text), "<%d>", levels[level].priority);
    } else {
        struct timespec now;
        struct tm local;
        char clock[sizeof("2026-01-01 00:00:00")];

        clock_gettime(CLOCK_REALTIME, &now);
        if (!localtime_r(&now.tv_sec, &local) ||
            strftime(clock, sizeof(clock), "%Y-%m-%d %H:%M:%S", &local) == 0)
            clock[0] = '\0';
        length = snprintf(line->text, sizeof(line->text), "%s.%03ld %s: ", clock,
                          now.tv_nsec / 1000000, levels[level].name);
    }
    if (length > 0)
        line->used = (size_t)length;
}

/* False: it would have to wait for whoever reads, and an I/O loop with it (law 7). A line that
 * finds room in a pipe finds it for all of its bytes, for it is below PIPE_BUF. */
static bool put(const struct line *line)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};

    if (send(STDERR_FILENO, line->text, line->used, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return true;
    if (errno != ENOTSOCK)
        return errno != EAGAIN; /* any other error: there is nobody to wait for */
    if (poll(&out, 1, 0) == 0)
        return false;
    while (write(STDERR_FILENO, line->text, line->used) < 0 && errno == EINTR)
        ;
    return true;
}

/* One at a time: of two that saw the same room, one would wait. */
static void put_or_count(const struct line *line)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static unsigned long lost;
    struct line apology;
    char text[80];

    pthread_mutex_lock(&lock);
    if (lost > 0) {
        snprintf(text, sizeof(text), "%lu log lines are lost: they were not read in time\n", lost);
        line_start(&apology, LOG_LEVEL_WARNING);
        memcpy(apology.text + apology.used, text, strlen(text));
        apology.used += strlen(text);
        if (put(&apology))
            lost = 0;
    }
    if (lost > 0 || !put(line))
        lost++;
    pthread_mutex_unlock(&lock);
}

static void log_text(enum log_level level, const char *who, const char *text)
{
    const int saved_errno = errno; /* callers log between a failure and its return */
    struct line line;

    line_start(&line, level);
    if (who) {
        line_add(&line, who);
        line_add(&line, ": ");
    }
    line_add(&line, text);
    line.text[line.used++] = '\n';
    put_or_count(&line);
    errno = saved_errno;
}

static void log_format(enum log_level level, const char *who, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

static void log_format(enum log_level level, const char *who, const char *format, va_list args)
{
    char text[LINE_BYTES];

    if (vsnprintf(text, sizeof(text), format, args) >= 0)
        log_text(level, who, text);
}

void log_line(enum log_level level, const char *who, const char *format, ...)
{
    va_list args;

    if (!is_wanted(level))
        return;
    va_start(args, format);
    log_format(level, who, format, args);
    va_end(args);
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void log_limited(struct log_limit *limit, enum log_level level, const char *who, const char *format,
                 ...)
{
    const uint64_t now = now_ms();
    va_list args;

    if (!is_wanted(level))
        return;
    if (limit->lines == 0 || now - limit->window_start_ms >= LIMIT_LOG_WINDOW_MS) {
        if (limit->left_out > 0)
            log_line(level, who, "%" PRIu32 " more such messages were left out in %" PRIu64 " s",
                     limit->left_out, (now - limit->window_start_ms) / 1000);
        *limit = (struct log_limit){.window_start_ms = now};
    }
    if (limit->lines >= LIMIT_LOG_LINES) {
        if (limit->left_out < UINT32_MAX)
            limit->left_out++;
        return;
    }
    limit->lines++;
    va_start(args, format);
    log_format(level, who, format, args);
    va_end(args);
}
