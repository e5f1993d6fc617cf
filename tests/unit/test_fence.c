/* fence: the operator's program runs beside the loop, and its result comes to it (laws 7, 9, 10).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <ev.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>

#include "gateway/config.h"
#include "gateway/fence.h"
#include "gateway/mailbox.h"
#include "proto/limits.h"
#include "tests/unit/script.h"

enum { JOBS = 3 * LIMIT_FENCE_THREADS };

struct job {
    struct fence *fence;
    struct ev_loop *loop;
    unsigned done;
    int err;
    char reason[LIMIT_REASON_BYTES];
};

static struct ev_loop *loop;
static struct mailbox *mailbox;
static const char *disk_name = "root";
static unsigned path = 1;

static void on_done(void *arg)
{
    struct job *job = arg;

    job->done++;
    job->err = fence_finish(job->fence, job->reason, sizeof job->reason);
    ev_break(job->loop, EVBREAK_ONE);
}

/* disk is gone when this returns: what runs must not need it. */
static void start_with(struct job *job, const char *program, const int *sockets, unsigned count)
{
    char name[16], first[] = "nbd://h/1", second[] = "nbd://h/2", argument[] = "argument";
    char copy[128], endpoints[FENCE_ENDPOINTS_BYTES];
    char *fence[] = {copy, argument, NULL};
    struct config_disk disk = {
        .name = name, .export_uris = {first, second}, .export_count = 2, .fence = fence};

    snprintf(name, sizeof name, "%s", disk_name);
    snprintf(copy, sizeof copy, "%s", program);
    *job = (struct job){.loop = loop};
    fence_endpoints(sockets, count, endpoints);
    assert_int_equal(fence_start(&disk, path, endpoints, mailbox, on_done, job, &job->fence), 0);
    memset(name, 'x', sizeof name);
    memset(second, 'x', sizeof second);
    memset(argument, 'x', sizeof argument);
    memset(copy, 'x', sizeof copy);
    memset(endpoints, 'x', sizeof endpoints);
}

static void start(struct job *job, const char *body)
{
    start_with(job, write_script(body), NULL, 0);
}

static void wait_done(struct job *job)
{
    while (job->done == 0)
        ev_run(loop, 0);
}

static void on_time(struct ev_loop *timed_loop, struct ev_timer *timer, int events)
{
    (void)timer;
    (void)events;
    ev_break(timed_loop, EVBREAK_ALL);
}

/* Time for anything that should not happen. */
static void run_loop_for(double seconds)
{
    struct ev_timer timer;

    ev_timer_init(&timer, on_time, seconds, 0.);
    ev_timer_start(loop, &timer);
    ev_run(loop, 0);
    ev_timer_stop(loop, &timer);
}

static void test_success(void **state)
{
    struct job job;

    (void)state;
    start(&job, "echo $BLKGATE_DISK $BLKGATE_EXPORT ${BLKGATE_ENDPOINT-none} $1 >said");
    wait_done(&job);
    assert_int_equal(job.err, 0);
    assert_string_equal(file_text("said"), "root nbd://h/2 none argument\n");
    run_loop_for(0.05);
    assert_int_equal(job.done, 1);
}

static void test_failures(void **state)
{
    struct job job;

    (void)state;
    start(&job, "echo no such pool; exit 2");
    wait_done(&job);
    assert_int_equal(job.err, -EPROTO);
    assert_non_null(strstr(job.reason, "ended with status 2: no such pool"));
    start_with(&job, write_program("plain", "#!/bin/sh\n", 0600), NULL, 0);
    wait_done(&job);
    assert_int_equal(job.err, -EACCES);
    assert_non_null(strstr(job.reason, "cannot be run: Permission denied"));
}

/* A connection that the server has reset, with SO_LINGER 0. */
static int reset_connection(int family, char endpoint[static 64])
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr *address = family == AF_INET ? (void *)&v4 : (void *)&v6;
    socklen_t bytes = family == AF_INET ? sizeof v4 : sizeof v6;
    const struct linger at_once = {.l_onoff = 1};
    const int listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int client = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char byte;
    int server;

    if (listener < 0 || bind(listener, address, bytes) < 0) {
        close(listener);
        close(client);
        return -1; /* no IPv6 here */
    }
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, address, &bytes), 0);
    assert_int_equal(connect(client, address, bytes), 0);
    assert_int_equal(getsockname(client, address, &bytes), 0);
    if (family == AF_INET)
        snprintf(endpoint, 64, "127.0.0.1:%u", ntohs(v4.sin_port));
    else
        snprintf(endpoint, 64, "[::1]:%u", ntohs(v6.sin6_port));
    server = accept(listener, NULL, NULL);
    assert_true(server >= 0);
    assert_int_equal(setsockopt(server, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
    close(server);
    close(listener);
    assert_int_equal(recv(client, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
    return client;
}

/* What it takes to have a storage refuse a server, or a server a client. */
static void test_endpoints(void **state)
{
    char v4[64], v6[64], expected[256];
    int pair[2];
    int sockets[4];
    struct job job;

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    sockets[0] = pair[0];
    sockets[1] = reset_connection(AF_INET, v4);
    sockets[2] = -1;
    sockets[3] = reset_connection(AF_INET6, v6);
    assert_true(sockets[1] >= 0);
    snprintf(expected, sizeof expected, "%s%s%s\n", v4, sockets[3] >= 0 ? " " : "",
             sockets[3] >= 0 ? v6 : "");
    start_with(&job, write_script("echo \"${BLKGATE_ENDPOINT-none}\" >endpoints"), sockets, 4);
    for (unsigned i = 0; i < 4; i++)
        if (sockets[i] >= 0)
            close(sockets[i]);
    close(pair[1]);
    wait_done(&job);
    assert_string_equal(file_text("endpoints"), expected);
}

/* The loop turns while it runs; cancelled, it is killed, and nothing comes. */
static void test_cancel_running(void **state)
{
    struct job job;
    pid_t pid;

    (void)state;
    start(&job, "echo $$ >x; mv x running; sleep 1000");
    pid = wait_for_pid("running");
    run_loop_for(0.05);
    assert_int_equal(job.done, 0);
    assert_false(is_gone(pid));
    fence_cancel(job.fence);
    wait_until_gone(pid);
    fence_drain();
    run_loop_for(0.05);
    assert_int_equal(job.done, 0);
    fence_cancel(NULL);
}

/* Its result waits in the mailbox already. */
static void test_cancel_ended(void **state)
{
    struct job job;

    (void)state;
    start(&job, "exit 0");
    fence_drain(); /* returns when the helper has posted and gone */
    fence_cancel(job.fence);
    run_loop_for(0.05);
    assert_int_equal(job.done, 0);
}

/* As a process that waits for a dead disk: killed, it does not go away. Here because a tracer stops
 * it at its end, until there is a file "go". */
static int stay(void)
{
    const pid_t held = getpid();

    if (fork() == 0) {
        bool traced = ptrace(PTRACE_SEIZE, held, NULL, PTRACE_O_TRACEEXIT) == 0;

        setsid();
        close(open(traced ? "held" : "refused", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        for (unsigned i = 0; i < 6000 && access("go", F_OK) < 0; i++) /* but not for ever */
            pause_ms(10);
        _exit(0);
    }
    for (;;)
        pause();
}

static void leave_over(const char *script)
{
    struct job job;

    unlink("held");
    start_with(&job, script, NULL, 0);
    while (access("held", F_OK) < 0) {
        if (access("refused", F_OK) == 0) { /* no tracing here */
            fence_cancel(job.fence);
            skip();
        }
        pause_ms(5);
    }
    fence_cancel(job.fence);
}

/* A cancelled one is left over a second after it. */
static void is_refused(void)
{
    struct job job;

    for (unsigned i = 0; i < 400; i++) {
        start_with(&job, "/bin/true", NULL, 0);
        wait_done(&job);
        if (job.err == -EBUSY)
            break;
        pause_ms(5);
    }
    assert_int_equal(job.err, -EBUSY);
    assert_non_null(strstr(job.reason, "was killed, and not all of its group goes away"));
}

static void is_not_refused_for_ever(void)
{
    struct job job;

    do {
        pause_ms(5);
        start_with(&job, "/bin/true", NULL, 0);
        wait_done(&job);
    } while (job.err == -EBUSY);
    assert_int_equal(job.err, 0);
}

/* Law 4: as many of them as there may be programs at once, and other disks are fenced. */
static void test_leftovers(void **state)
{
    static const char *const names[LIMIT_FENCE_THREADS] = {"d0",  "d1",  "d2",  "d3", "d4",  "d5",
                                                           "d6",  "d7",  "d8",  "d9", "d10", "d11",
                                                           "d12", "d13", "d14", "d15"};
    char self[128] = "", body[256];
    const char *script;
    struct job job;

    (void)state;
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    snprintf(body, sizeof body, "cd %s; exec %s stay", directory, self);
    script = write_script(body);
    for (unsigned i = 0; i < LIMIT_FENCE_THREADS; i++) {
        disk_name = names[i];
        leave_over(script);
    }
    disk_name = "root";
    start_with(&job, write_program("other", "#!/bin/sh\nexit 0\n", 0700), NULL, 0);
    wait_done(&job);
    assert_int_equal(job.err, 0);
    disk_name = "d3";
    is_refused();
    close(open("go", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    is_not_refused_for_ever();
    disk_name = "root";
}

/* A script is gone at once; what it waits for is not. */
static void test_leftover_child(void **state)
{
    char self[128] = "", body[256];
    struct job job;

    (void)state;
    unlink("go");
    disk_name = "child";
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    snprintf(body, sizeof body, "cd %s; %s stay; exit 1", directory, self);
    leave_over(write_script(body));
    is_refused();
    path = 0; /* another server */
    start_with(&job, "/bin/true", NULL, 0);
    wait_done(&job);
    assert_int_equal(job.err, 0);
    path = 1;
    close(open("go", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    is_not_refused_for_ever();
    disk_name = "root";
}

static unsigned started(void)
{
    unsigned lines = 0;

    for (const char *at = file_text("started"); *at; at++)
        lines += *at == '\n';
    return lines;
}

/* So many disks at once are no fork bomb; those in the queue can be cancelled, and come. */
static void test_many_at_once(void **state)
{
    static struct job jobs[JOBS];
    const char *script =
        write_script("echo >>started; until [ -e gate ] || [ ! -e $0 ]; do sleep 0.02; done");

    (void)state;
    for (unsigned i = 0; i < JOBS; i++)
        start_with(&jobs[i], script, NULL, 0);
    while (started() < LIMIT_FENCE_THREADS)
        pause_ms(5);
    pause_ms(100);
    assert_int_equal(started(), LIMIT_FENCE_THREADS);
    fence_cancel(jobs[JOBS - 1].fence);
    close(open("gate", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    for (unsigned i = 0; i < JOBS - 1; i++) {
        wait_done(&jobs[i]);
        assert_int_equal(jobs[i].err, 0);
    }
    fence_drain();
    assert_int_equal(started(), JOBS - 1);
    assert_int_equal(jobs[JOBS - 1].done, 0);
}

static unsigned log_lines(const char *text, const char *part)
{
    unsigned lines = 0;

    for (const char *at = strstr(text, part); at; at = strstr(at + 1, part))
        lines++;
    return lines;
}

/* Whatever programs say, of whatever disks, the log does not grow with it. */
static void test_flood_of_lines(void **state)
{
    const int log = open("log", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const int terminal = dup(STDERR_FILENO);
    static char text[65536];
    struct job job;
    ssize_t got;

    (void)state;
    assert_true(log >= 0 && terminal >= 0);
    dup2(log, STDERR_FILENO);
    for (unsigned i = 0; i < 3; i++) {
        start(&job, "yes bla | head -n 10000; printf '\\033[31mred\\n'; exit 1");
        wait_done(&job);
    }
    dup2(terminal, STDERR_FILENO);
    close(terminal);
    got = pread(log, text, sizeof text - 1, 0);
    assert_true(got > 0);
    close(log);
    /* A few may have been said by the other tests. */
    assert_in_range(log_lines(text, "root: fence: bla\n"), LIMIT_FENCE_LINES - 9,
                    LIMIT_FENCE_LINES);
    assert_int_equal(log_lines(text, "lines were left out\n"), 3);
    assert_null(strchr(text, '\033'));
    assert_non_null(strstr(job.reason, "ended with status 1: "));
}

static int open_loop(void **state)
{
    loop = ev_loop_new(EVFLAG_AUTO);
    return loop && mailbox_create(loop, &mailbox) == 0 ? make_directory(state) : -1;
}

static int close_loop(void **state)
{
    fence_drain();
    mailbox_destroy(mailbox);
    ev_loop_destroy(loop);
    return remove_directory(state);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_success),        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_endpoints),      cmocka_unit_test(test_cancel_running),
        cmocka_unit_test(test_cancel_ended),   cmocka_unit_test(test_many_at_once),
        cmocka_unit_test(test_flood_of_lines), cmocka_unit_test(test_leftovers),
        cmocka_unit_test(test_leftover_child),
    };

    if (argc > 1 && strcmp(argv[1], "stay") == 0)
        return stay();
    return cmocka_run_group_tests(tests, open_loop, close_loop);
}
