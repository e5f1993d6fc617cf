/*
 * target, nbdconn and resolve against a server that misbehaves (tests/nbd/evil).
 *
 * Holds, for every fault: each command that was started completes exactly once (law 2 rests on it);
 * the loss is told once, with a reason, after the last completion; nothing hangs (law 7) and a
 * server that cannot keep a write is refused with a text that says what to do (law 5).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <ev.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "gateway/config.h"
#include "gateway/list.h"
#include "gateway/mailbox.h"
#include "gateway/resolve.h"
#include "gateway/target.h"

#ifndef BLKGATE_BINARY_DIR
#define BLKGATE_BINARY_DIR "."
#endif

extern char **environ;

enum { COMMANDS = 24, READ_BYTES = 4096 };

struct command {
    struct nbdcmd cmd;
    unsigned completions;
    int error;
    uint8_t buffer[READ_BYTES];
};

struct trial {
    struct ev_loop *loop;
    struct target *target;
    struct command command[COMMANDS];
    unsigned completed, completed_after_loss, lost;
    bool ready;
    char reason[LIMIT_REASON_BYTES];
    struct disk_properties properties;
};

static void on_ready(void *arg, const struct disk_properties *properties)
{
    struct trial *trial = arg;

    trial->ready = true;
    trial->properties = *properties;
    ev_break(trial->loop, EVBREAK_ONE);
}

static void on_failed(void *arg, const char *reason)
{
    struct trial *trial = arg;

    snprintf(trial->reason, sizeof trial->reason, "%s", reason);
    ev_break(trial->loop, EVBREAK_ONE);
}

static void on_refused(void *arg, const char *reason)
{
    (void)arg;
    (void)reason;
}

static void on_fenced(void *arg, uint32_t parked)
{
    (void)arg;
    (void)parked;
}

static void on_lost(void *arg, const char *reason, uint32_t parked)
{
    struct trial *trial = arg;

    assert_true(parked != 0 && (parked & (parked - 1)) == 0);

    trial->lost++;
    snprintf(trial->reason, sizeof trial->reason, "%s", reason);
    ev_break(trial->loop, EVBREAK_ONE);
}

static void on_completed(void *arg, struct nbdcmd *cmd)
{
    struct trial *trial = arg;
    struct command *command = container_of(cmd, struct command, cmd);

    command->completions++;
    command->error = cmd->error;
    trial->completed++;
    if (trial->lost)
        trial->completed_after_loss++;
    if (trial->completed == COMMANDS)
        ev_break(trial->loop, EVBREAK_ONE);
}

static const struct target_handler handler = {
    .ready = on_ready,
    .lost = on_lost,
    .fenced = on_fenced,
    .failed = on_failed,
    .refused = on_refused,
    .completed = on_completed,
};
static const struct target_past no_past;

static void on_timeout(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    (void)timer;
    (void)events;
    ev_break(loop, EVBREAK_ONE);
}

static void run_for(struct trial *trial, double seconds)
{
    struct ev_timer timer;

    ev_timer_init(&timer, on_timeout, seconds, 0.);
    ev_timer_start(trial->loop, &timer);
    ev_run(trial->loop, 0);
    ev_timer_stop(trial->loop, &timer);
}

static char socket_path[64];
static char uri[128];

static pid_t start_server(const char *fault, const char *size)
{
    const char *program = BLKGATE_BINARY_DIR "/nbd/evil";
    char *const argv[] = {(char *)(uintptr_t)program,
                          "--unix",
                          socket_path,
                          "--size",
                          (char *)(uintptr_t)size,
                          "--fault",
                          (char *)(uintptr_t)fault,
                          NULL};
    pid_t pid;

    unlink(socket_path);
    if (!fault)
        return 0;
    if (!*fault) {
        char *const plain[] = {argv[0], "--unix", socket_path, "--size", argv[4], NULL};

        assert_int_equal(posix_spawn(&pid, program, NULL, NULL, plain, environ), 0);
    } else {
        assert_int_equal(posix_spawn(&pid, program, NULL, NULL, argv, environ), 0);
    }
    for (int i = 0; i < 500 && access(socket_path, F_OK) < 0; i++)
        usleep(10000);
    usleep(20000); /* bound; listening comes at once after */
    return pid;
}

static void stop_server(pid_t pid)
{
    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
}

/* Reads, writes and flushes, all in flight together. */
static unsigned start_commands(struct trial *trial)
{
    unsigned started = 0;

    for (unsigned i = 0; i < COMMANDS; i++) {
        struct command *command = &trial->command[i];
        int err;

        if (i % 8 == 7)
            err = target_flush(trial->target, &command->cmd);
        else if (i % 2)
            err = target_write(trial->target, &command->cmd, command->buffer, READ_BYTES,
                               i * READ_BYTES);
        else
            err = target_read(trial->target, &command->cmd, command->buffer, READ_BYTES,
                              i * READ_BYTES);
        if (err < 0) { /* will not complete: it has, by this */
            command->error = err;
            command->completions++;
        } else {
            started++;
        }
    }
    target_deliver(trial->target);
    return started;
}

struct expectation {
    const char *fault; /* NULL: no server at all; "": none */
    const char *size;
    const char *refused; /* a piece of the reason it is not READY for */
    unsigned lost;       /* after READY */
    unsigned failed;     /* commands that fail without the connection being lost */
    bool accept_volatile, flush;
};

static const struct expectation expectations[] = {
    {"", "1048576", NULL, 0, 0, false, true},
    {NULL, "0", "cannot connect", 0, 0, false, false},
    {"no-export", "1048576", "cannot connect", 0, 0, false, false},
    {"silent", "1048576", "does not answer", 0, 0, false, false},
    {"", "511", "smaller than one sector", 0, 0, false, false},
    {"min-block=4096", "1048576", "--filter=blocksize", 0, 0, false, false},
    {"max-block=2048", "1048576", "--filter=blocksize", 0, 0, false, false},
    {"max-block=4096", "1048576", NULL, 0, 0, false, true},
    {"min-block=512", "1048576", NULL, 0, 0, false, true},
    {"no-flush", "1048576", NULL, 0, 3, false, false}, /* FUA instead; flush is refused by libnbd */
    {"readonly", "1048576", NULL, 0, 9, false, false},
    {"close", "1048576", NULL, 1, 0, false, true},
    {"close=5", "1048576", NULL, 1, 0, false, true},
    {"eof", "1048576", NULL, 1, 0, false, true},
    {"eof=9", "1048576", NULL, 1, 0, false, true},
    {"half", "1048576", NULL, 1, 0, false, true},
    {"half=3", "1048576", NULL, 1, 0, false, true},
    {"magic=2", "1048576", NULL, 1, 0, false, true},
    {"cookie=2", "1048576", NULL, 1, 0, false, true},
    {"stall", "1048576", NULL, 0, COMMANDS, false, true},
    {"stall=7", "1048576", NULL, 0, COMMANDS - 6, false, true},
    {"shutdown", "1048576", NULL, 0, COMMANDS, false, true},
    {"read-eio", "1048576", NULL, 0, 12, false, true},
    {"write-eio", "1048576", NULL, 0, 9, false, true},
    {"write-enospc", "1048576", NULL, 0, 9, false, true},
    {"flush-eio", "1048576", NULL, 0, 3, false, true},
};

static void check_outcome(const struct expectation *expected, struct trial *trial)
{
    unsigned failed = 0;

    for (unsigned i = 0; i < COMMANDS; i++) {
        if (trial->command[i].completions != 1)
            fail_msg("fault %s: command %u completed %u times", expected->fault, i,
                     trial->command[i].completions);
        failed += trial->command[i].error != 0;
    }
    assert_int_equal(trial->completed_after_loss, 0);
    if (trial->lost != expected->lost)
        fail_msg("fault %s: lost %u times (%s)", expected->fault, trial->lost, trial->reason);
    if (expected->lost)
        assert_true(trial->reason[0] != '\0');
    else if (failed != expected->failed)
        fail_msg("fault %s: %u commands failed, not %u", expected->fault, failed, expected->failed);
}

static void try_fault(const struct expectation *expected)
{
    struct config_disk config = {.name = (char *)"d",
                                 .export_uris = {uri},
                                 .export_count = 1,
                                 .connections = 1,
                                 .accept_volatile = expected->accept_volatile,
                                 .worker = -1};
    struct disklink_spec spec = {
        .name = "0/xvda (d)", .config = &config, .connect_timeout_ms = 700};
    struct trial *trial = calloc(1, sizeof *trial);
    pid_t pid = start_server(expected->fault, expected->size);
    struct mailbox *mailbox;

    assert_non_null(trial);
    trial->loop = ev_loop_new(EVFLAG_AUTO);
    assert_int_equal(mailbox_create(trial->loop, &mailbox), 0);
    assert_int_equal(
        target_open(trial->loop, mailbox, &spec, &no_past, &handler, trial, &trial->target), 0);
    run_for(trial, 10.);
    if (expected->refused) {
        assert_false(trial->ready);
        if (!strstr(trial->reason, expected->refused))
            fail_msg("fault %s: reason: %s", expected->fault, trial->reason);
    } else {
        if (!trial->ready)
            fail_msg("fault %s: not ready: %s", expected->fault, trial->reason);
        assert_int_equal(trial->properties.flush, expected->flush);
        if (start_commands(trial) > trial->completed && !trial->lost)
            run_for(trial, 0.7);
        target_close(trial->target); /* completes what a stalled server holds */
        trial->target = NULL;
        check_outcome(expected, trial);
    }
    target_close(trial->target);
    mailbox_destroy(mailbox);
    ev_loop_destroy(trial->loop);
    free(trial);
    stop_server(pid);
}

static void every_fault_completes_every_command_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof expectations / sizeof *expectations; i++)
        try_fault(&expectations[i]);
}

/* The N-th reply, for every N: closed instead, and half of it. */
static void a_fault_at_any_reply(void **state)
{
    char fault[32];
    const char *kinds[] = {"close", "eof", "magic", "cookie"};

    (void)state;
    for (unsigned n = 1; n <= COMMANDS; n++) {
        struct expectation expected = {fault, "1048576", NULL, 1, 0, false, true};

        snprintf(fault, sizeof fault, "%s=%u", kinds[n % 4], n);
        try_fault(&expected);
    }
}

/* Cancelling at any time, a result that comes too late included, neither leaks nor calls back. */
static void a_cancelled_connect_is_silent(void **state)
{
    struct config_disk config = {.name = (char *)"d",
                                 .export_uris = {uri},
                                 .export_count = 1,
                                 .connections = 1,
                                 .worker = -1};
    struct disklink_spec spec = {.name = "d", .config = &config, .connect_timeout_ms = 300};
    pid_t pid = start_server("", "1048576");

    (void)state;
    for (int i = 0; i < 200; i++) {
        struct trial trial = {.loop = ev_loop_new(EVFLAG_AUTO)};
        struct mailbox *mailbox;

        assert_int_equal(mailbox_create(trial.loop, &mailbox), 0);
        assert_int_equal(
            target_open(trial.loop, mailbox, &spec, &no_past, &handler, &trial, &trial.target), 0);
        usleep((unsigned)(i * 20));
        target_close(trial.target);
        ev_run(trial.loop, EVRUN_NOWAIT);
        assert_false(trial.ready || trial.lost);
        mailbox_destroy(mailbox);
        ev_loop_destroy(trial.loop);
    }
    stop_server(pid);
    resolve_drain();
}

/* A server that never answers keeps no thread busy for nobody: they are few, for all disks. */
static void a_cancelled_connect_ends(void **state)
{
    struct config_disk config = {.name = (char *)"d",
                                 .export_uris = {uri},
                                 .export_count = 1,
                                 .connections = 1,
                                 .worker = -1};
    struct disklink_spec spec = {
        .name = "d", .config = &config, .connect_timeout_ms = LIMIT_CONNECT_MS};
    pid_t pid = start_server("silent", "1048576");
    struct trial trial = {.loop = ev_loop_new(EVFLAG_AUTO)};
    struct mailbox *mailbox;
    struct timespec start, end;

    (void)state;
    assert_int_equal(mailbox_create(trial.loop, &mailbox), 0);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(
            target_open(trial.loop, mailbox, &spec, &no_past, &handler, &trial, &trial.target), 0);
        usleep(5000);
        target_close(trial.target);
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    resolve_drain();
    clock_gettime(CLOCK_MONOTONIC, &end);
    assert_true(end.tv_sec - start.tv_sec < LIMIT_CONNECT_MS / 2000);
    mailbox_destroy(mailbox);
    ev_loop_destroy(trial.loop);
    stop_server(pid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fault_completes_every_command_once),
        cmocka_unit_test(a_fault_at_any_reply),
        cmocka_unit_test(a_cancelled_connect_is_silent),
        cmocka_unit_test(a_cancelled_connect_ends),
    };

    signal(SIGPIPE, SIG_IGN);
    snprintf(socket_path, sizeof socket_path, "/tmp/blkgate-evil-%d.sock", getpid());
    snprintf(uri, sizeof uri, "nbd+unix:///?socket=%s", socket_path);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
