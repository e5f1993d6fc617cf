/* log: what a line looks like, and that neither a guest's text nor its zeal gets into the log. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/log.h"
#include "proto/limits.h"

#define CLOCK "^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3} "

static char captured[1 << 18];
static int capture_fd = -1;
static int real_stderr = -1;

static void capture_start(void)
{
    char path[] = "/tmp/blkgate-log-XXXXXX";

    capture_fd = mkstemp(path);
    assert_true(capture_fd >= 0);
    unlink(path);
    fcntl(capture_fd, F_SETFL, O_APPEND);
    real_stderr = dup(STDERR_FILENO);
    assert_true(dup2(capture_fd, STDERR_FILENO) >= 0);
}

static const char *capture_end(void)
{
    ssize_t got = 0;

    assert_true(dup2(real_stderr, STDERR_FILENO) >= 0);
    close(real_stderr);
    got = pread(capture_fd, captured, sizeof(captured) - 1, 0);
    assert_true(got >= 0);
    captured[got] = '\0';
    close(capture_fd);
    return captured;
}

static void assert_matches(const char *text, const char *pattern)
{
    regex_t regex;

    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    if (regexec(&regex, text, 0, NULL, 0) != 0)
        fail_msg("\"%s\" does not match %s", text, pattern);
    regfree(&regex);
}

static size_t count_lines(const char *text)
{
    size_t lines = 0;

    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

static void test_on_a_terminal(void **state)
{
    (void)state;
    unsetenv("JOURNAL_STREAM");
    capture_start();
    log_error("5/xvda (root)", "cannot be opened: %s", "no route");
    assert_matches(capture_end(), CLOCK "error: 5/xvda \\(root\\): cannot be opened: no route\n$");
    capture_start();
    log_info(NULL, "started");
    assert_matches(capture_end(), CLOCK "info: started\n$");
}

static void test_in_the_journal(void **state)
{
    static const struct {
        enum log_level level;
        const char *line;
    } lines[] = {
        {LOG_LEVEL_ERROR, "<3>a: x\n"},
        {LOG_LEVEL_WARNING, "<4>a: x\n"},
        {LOG_LEVEL_INFO, "<6>a: x\n"},
        {LOG_LEVEL_DEBUG, "<7>a: x\n"},
    };
    struct stat status;
    char stream[64];

    (void)state;
    log_set_level(LOG_LEVEL_DEBUG);
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        capture_start();
        assert_int_equal(fstat(STDERR_FILENO, &status), 0);
        snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)status.st_dev,
                 (uintmax_t)status.st_ino);
        setenv("JOURNAL_STREAM", stream, 1);
        log_line(lines[i].level, "a", "x");
        assert_string_equal(capture_end(), lines[i].line);
    }
    log_set_level(LOG_LEVEL_INFO);
}

/* Inherited from a service, but stderr goes elsewhere: a file wants a clock. */
static void test_another_journal(void **state)
{
    static const char *const streams[] = {"",  "1",   "1:",   "1:2",
                                          ":", "x:y", "1:2x", "99999999999999999999999:1"};

    (void)state;
    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
        setenv("JOURNAL_STREAM", streams[i], 1);
        capture_start();
        log_info(NULL, "x");
        assert_matches(capture_end(), CLOCK "info: x\n$");
    }
    unsetenv("JOURNAL_STREAM");
}

static void test_levels(void **state)
{
    struct log_limit limit = {0};

    (void)state;
    for (int level = LOG_LEVEL_ERROR; level <= LOG_LEVEL_DEBUG; level++) {
        log_set_level((enum log_level)level);
        capture_start();
        log_error(NULL, "x");
        log_warning(NULL, "x");
        log_info(NULL, "x");
        log_debug(NULL, "x");
        assert_int_equal(count_lines(capture_end()), level + 1);
    }
    log_set_level(LOG_LEVEL_INFO);
    capture_start();
    for (unsigned i = 0; i < 100; i++)
        log_limited(&limit, LOG_LEVEL_DEBUG, NULL, "x");
    assert_string_equal(capture_end(), "");
    assert_int_equal(limit.lines, 0); /* nor does it use up what is wanted */
}

static void test_printable(void **state)
{
    (void)state;
    capture_start();
    log_info("a\x1b[2J", "%s", "b\nc\x7f\xc2\x9b\td~ ");
    assert_matches(capture_end(),
                   "info: a\\\\x1b\\[2J: b\\\\x0ac\\\\x7f\\\\xc2\\\\x9b\\\\x09d~ \n$");
}

static void test_long_text(void **state)
{
    char text[5000];
    const char *line = NULL;

    (void)state;
    for (int c = 'a'; c >= 1; c -= 'a' - 1) { /* plain, and four bytes for each */
        memset(text, c, sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        capture_start();
        log_info(text, "%s", text);
        line = capture_end();
        assert_true(strlen(line) <= 1024);
        assert_true(strlen(line) > 1000);
        assert_string_equal(line + strlen(line) - 4, "...\n");
        assert_int_equal(count_lines(line), 1);
    }
}

static void test_errno_is_kept(void **state)
{
    (void)state;
    errno = EXDEV;
    capture_start();
    errno = EXDEV;
    log_error(NULL, "%m");
    assert_int_equal(errno, EXDEV);
    close(STDERR_FILENO);
    errno = EXDEV;
    log_error(NULL, "to nobody");
    assert_int_equal(errno, EXDEV);
    assert_matches(capture_end(), "error: Invalid cross-device link\n$");
}

static void test_limit(void **state)
{
    struct log_limit limit = {0};
    const char *text = NULL;

    (void)state;
    capture_start();
    for (unsigned i = 0; i < 1000; i++)
        log_limited(&limit, LOG_LEVEL_WARNING, "5/xvda", "bad request %u", i);
    text = capture_end();
    assert_int_equal(count_lines(text), LIMIT_LOG_LINES);
    assert_non_null(strstr(text, "bad request 4\n"));
    assert_int_equal(limit.left_out, 1000 - LIMIT_LOG_LINES);

    limit.window_start_ms -= LIMIT_LOG_WINDOW_MS; /* as if it had passed */
    capture_start();
    log_limited(&limit, LOG_LEVEL_WARNING, "5/xvda", "bad request %u", 1000);
    text = capture_end();
    assert_matches(text, "warning: 5/xvda: 995 more such messages were left out in 10 s\n"
                         ".*warning: 5/xvda: bad request 1000\n$");
    assert_int_equal(count_lines(text), 2);

    limit.window_start_ms -= LIMIT_LOG_WINDOW_MS; /* nothing was left out in this one */
    capture_start();
    log_limited(&limit, LOG_LEVEL_WARNING, "5/xvda", "x");
    assert_int_equal(count_lines(capture_end()), 1);
}

enum { THREADS = 8, LINES = 100 };

static void *log_many(void *arg)
{
    for (unsigned i = 0; i < LINES; i++)
        log_info(arg, "%0200d", 0);
    return NULL;
}

static void test_threads_do_not_mix(void **state)
{
    static char names[THREADS][2] = {"a", "b", "c", "d", "e", "f", "g", "h"};
    pthread_t threads[THREADS];
    const char *text = NULL;

    (void)state;
    capture_start();
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, log_many, names[i]), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    text = capture_end();
    assert_int_equal(count_lines(text), THREADS * LINES);
    for (const char *end = NULL; (end = strchr(text, '\n')); text = end + 1)
        assert_int_equal(end - text, strlen("2026-01-01 00:00:00.000 info: a: ") + 200);
}

/* Takes what is there, and says how many lines that was. */
static size_t drain(int fd)
{
    ssize_t got = 0;
    size_t used = 0;

    fcntl(fd, F_SETFL, O_NONBLOCK);
    while ((got = read(fd, captured + used, sizeof(captured) - 1 - used)) > 0)
        used += (size_t)got;
    captured[used] = '\0';
    return count_lines(captured);
}

/* Law 7: a journald that stands still must not stop an I/O loop. */
static void test_a_reader_that_does_not_read(void **state)
{
    enum { MANY = 3000 };
    char text[200], lost[80];
    int ends[2];
    size_t lines;

    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (int kind = 0; kind < 2; kind++) {
        assert_int_equal(kind ? socketpair(AF_UNIX, SOCK_STREAM, 0, ends) : pipe(ends), 0);
        real_stderr = dup(STDERR_FILENO);
        assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
        alarm(20);
        for (unsigned i = 0; i < MANY; i++)
            log_error(NULL, "%s", text);
        alarm(0);
        lines = drain(ends[0]);
        log_error(NULL, "read again");
        snprintf(lost, sizeof(lost), "warning: %zu log lines are lost", MANY - lines);
        assert_int_equal(drain(ends[0]), 2);
        assert_true(dup2(real_stderr, STDERR_FILENO) >= 0);
        close(real_stderr);
        close(ends[0]);
        close(ends[1]);
        assert_in_range(lines, 100, MANY - 1);
        assert_non_null(strstr(captured, lost));
        assert_non_null(strstr(captured, "read again\n"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_on_a_terminal),
        cmocka_unit_test(test_in_the_journal),
        cmocka_unit_test(test_another_journal),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_printable),
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_errno_is_kept),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_threads_do_not_mix),
        cmocka_unit_test(test_a_reader_that_does_not_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
