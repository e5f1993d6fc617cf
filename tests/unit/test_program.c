/* program: an operator's program, well-behaved or not, ends and says how (laws 7 and 10). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "gateway/program.h"
#include "proto/limits.h"
#include "tests/unit/script.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { LONG_MS = 600000 }; /* nothing here takes as long: ctest would end it before */

static struct {
    unsigned lines;
    size_t longest;
    char text[8192]; /* the first of them */
    bool cancel_at_line;
    char reason[LIMIT_REASON_BYTES];
} seen;

static void on_said(void *arg, const char *line)
{
    const size_t length = strlen(line);

    (void)arg;
    seen.lines++;
    if (length > seen.longest)
        seen.longest = length;
    if (strlen(seen.text) + length + 2 < sizeof seen.text)
        sprintf(seen.text + strlen(seen.text), "%s\n", line);
}

static bool is_cancelled(void *arg)
{
    (void)arg;
    return seen.cancel_at_line && seen.lines > 0;
}

static int run_argv(char *const *argv, uint32_t timeout_ms)
{
    char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", word[] = "WORD=a b";
    char *const envp[] = {path, word, NULL};
    const struct program program = {.argv = argv,
                                    .envp = envp,
                                    .timeout_ms = timeout_ms,
                                    .said = on_said,
                                    .is_cancelled = is_cancelled};
    pid_t left = -1;
    int err;

    seen.lines = 0;
    seen.longest = 0;
    seen.text[0] = seen.reason[0] = '\0';
    err = program_run(&program, &left, seen.reason, sizeof seen.reason);
    assert_int_equal(left, 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nothing is left to reap */
    assert_int_equal(errno, ECHILD);
    return err;
}

static int run_file(const char *path, uint32_t timeout_ms)
{
    char name[128], argument[] = "two words";
    char *const argv[] = {name, argument, NULL};

    snprintf(name, sizeof name, "%s", path);
    return run_argv(argv, timeout_ms);
}

static int run(const char *body, uint32_t timeout_ms)
{
    return run_file(write_script(body), timeout_ms);
}

static void test_results(void **state)
{
    static const struct {
        const char *body;
        int err;
        const char *said;   /* all of it */
        const char *reason; /* its end */
    } cases[] = {
        {"exit 0", 0, "", ""},
        {"echo one; echo two >&2; echo three", 0, "one\ntwo\nthree\n", ""},
        {"echo \"$1, $WORD, $#\"", 0, "two words, a b, 1\n", ""},
        {"exit 3", -EPROTO, "", "script ended with status 3"},
        {"echo first; echo last; exit 1", -EPROTO, "first\nlast\n", "ended with status 1: last"},
        {"printf 'cut off'; exit 1", -EPROTO, "cut off\n", "ended with status 1: cut off"},
        {"echo why; kill -9 $$", -EPROTO, "why\n", "script was ended by signal 9: why"},
        {"kill -TERM $$; sleep 1000", -EPROTO, "", "was ended by signal 15"},
        {"printf 'a\\0b\\n\\n\\nc'", 0, "a b\nc\n", ""},
        {"cat; echo end", 0, "end\n", ""},                             /* standard input is empty */
        {"exec >&- 2>&-; sleep 0.1; exit 5", -EPROTO, "", "status 5"}, /* an end before its own */
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const size_t length = strlen(cases[i].reason);
        const int err = run(cases[i].body, LONG_MS);
        const size_t got = strlen(seen.reason);

        if (err != cases[i].err || strcmp(seen.text, cases[i].said) != 0 || got < length ||
            strcmp(seen.reason + got - length, cases[i].reason) != 0)
            fail_msg("%s\nis %d (%s) and says\n%s", cases[i].body, err, seen.reason, seen.text);
    }
}

static void test_what_cannot_be_run(void **state)
{
    (void)state;
    assert_int_equal(run_file("/nowhere/fence", LONG_MS), -ENOENT);
    assert_string_equal(seen.reason, "/nowhere/fence cannot be run: No such file or directory");
    assert_int_equal(run_file(directory, LONG_MS), -EACCES);
    assert_int_equal(run_file(write_program("plain", "#!/bin/sh\n", 0600), LONG_MS), -EACCES);
    assert_non_null(strstr(seen.reason, "plain cannot be run: Permission denied"));
    assert_int_equal(run_file(write_program("bare", "exit 0\n", 0700), LONG_MS), -ENOEXEC);
    assert_int_equal(run_file(write_program("lost", "#!/nowhere/sh\n", 0700), LONG_MS), -ENOENT);
}

/* It and all that it has started, though they will not hear of SIGTERM. */
static void test_hang_is_killed(void **state)
{
    (void)state;
    assert_int_equal(run("trap '' TERM INT HUP; echo busy\n"
                         "sleep 1000 & echo $! >x; mv x hanging; sleep 1000",
                         300),
                     -ETIMEDOUT);
    assert_non_null(strstr(seen.reason, "did not end within 300 ms and was killed: busy"));
    wait_until_gone(wait_for_pid("hanging"));
    unlink("hanging");
}

static void test_cancel(void **state)
{
    (void)state;
    seen.cancel_at_line = true;
    assert_int_equal(
        run("sleep 1000 & echo $! >x; mv x cancelled; echo there; sleep 1000", LONG_MS),
        -ECANCELED);
    seen.cancel_at_line = false;
    wait_until_gone(wait_for_pid("cancelled"));
}

static void test_flood(void **state)
{
    (void)state;
    assert_int_equal(run("yes | head -n 300000", LONG_MS), 0);
    assert_int_equal(seen.lines, 300000);
    assert_int_equal(run("head -c 5000000 /dev/zero | tr '\\0' x; echo; echo end", LONG_MS), 0);
    assert_int_equal(seen.lines, 2);
    assert_in_range(seen.longest, 200, 1000);
    assert_int_equal(run("exec yes", 300), -ETIMEDOUT); /* for ever */
    assert_true(seen.lines > 0);
}

/* The end of its group does not reach who left it, and who left it does not hold us up. */
static void test_grandchildren(void **state)
{
    pid_t near, far;

    (void)state;
    assert_int_equal(run("sleep 1000 & echo $! >near\n"
                         "setsid sh -c 'echo $$ >x; mv x far; exec sleep 1000' &\n"
                         "until [ -e far ] || [ ! -e $0 ]; do sleep 0.01; done; echo done",
                         LONG_MS),
                     0);
    assert_string_equal(seen.text, "done\n");
    near = wait_for_pid("near");
    far = wait_for_pid("far");
    wait_until_gone(near);
    assert_false(is_gone(far));
    assert_int_equal(kill(far, SIGKILL), 0);
}

/* Neither what we block or ignore, ... */
static void test_inherits_no_signals(void **state)
{
    char grep[] = "/bin/grep", option[] = "-E", what[] = "Sig(Blk|Ign)",
         where[] = "/proc/self/status";
    char *const argv[] = {grep, option, what, where,
                          NULL}; /* for a shell may set them back itself */
    unsigned long long blocked = 1, ignored = 1;
    sigset_t signals, before;

    (void)state;
    sigfillset(&signals);
    sigprocmask(SIG_BLOCK, &signals, &before);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    assert_int_equal(run_argv(argv, LONG_MS), 0);
    sigprocmask(SIG_SETMASK, &before, NULL);
    signal(SIGPIPE, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    assert_int_equal(sscanf(seen.text, "SigBlk: %llx SigIgn: %llx", &blocked, &ignored), 2);
    assert_int_equal(blocked, 0);
    assert_int_equal(ignored & 0x7fffffff, 0); /* above: glibc's own */
}

/* ... nor what we have open, nor our environment. */
static void test_inherits_nothing(void **state)
{
    char env[] = "/usr/bin/env";
    char *const argv[] = {env, NULL};
    const int leak = open("leak", O_WRONLY | O_CREAT, 0600); /* not close-on-exec */

    (void)state;
    assert_true(leak >= 0);
    assert_int_equal(run("readlink /proc/$$/fd/0; readlink /proc/$$/fd/*\n"
                         "ps -o pgid= -p $$ | grep -qw $$ && echo leader",
                         LONG_MS),
                     0);
    close(leak);
    assert_int_equal(strncmp(seen.text, "/dev/null\n", 10), 0);
    assert_null(strstr(seen.text, "/leak"));
    assert_non_null(strstr(seen.text, "leader\n"));

    assert_int_equal(run_argv(argv, LONG_MS), 0);
    assert_string_equal(seen.text, "PATH=/usr/sbin:/usr/bin:/sbin:/bin\nWORD=a b\n");
}

/* Whoever ignores SIGCHLD is told no status: that must not pass for success. */
static void test_unseen_end_is_no_success(void **state)
{
    (void)state;
    signal(SIGCHLD, SIG_IGN);
    assert_int_equal(run("exit 0", LONG_MS), -ECHILD);
    signal(SIGCHLD, SIG_DFL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_what_cannot_be_run),
        cmocka_unit_test(test_hang_is_killed),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_grandchildren),
        cmocka_unit_test(test_inherits_no_signals),
        cmocka_unit_test(test_inherits_nothing),
        cmocka_unit_test(test_unseen_end_is_no_success),
    };

    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
