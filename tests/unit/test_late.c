/*
 * The servers of tests/nbd themselves: what the tests of recovery rest on.
 *
 * late: correct with and without delays; a command is executed after its connection is gone, also
 * one that was still queued in the socket; a cache is lost exactly by a crash. evil: what it has
 * beside late.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <libnbd.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "../process.h"

extern char **environ;

enum { BYTES = 4096, IMAGE = 1 << 20, WAIT_MS = 20000, QUEUED = 32 };
#define SIZE "1048576"

static char dir[] = "/tmp/blkgate-late-XXXXXX";
static char image[64], journal[64], control[64], unix_path[64];
static char uri[128];
static pid_t server;

/* -- the server ------------------------------------------------------------------------------- */
static bool connects(void)
{
    struct nbd_handle *nbd = nbd_create();
    bool connected = nbd_connect_uri(nbd, uri) == 0;

    nbd_close(nbd);
    return connected;
}

static void server_start(const char *program, const char *const *options)
{
    const char *argv[24] = {program, "--file", image};
    char path[256];
    size_t argc = 3;

    while (*options)
        argv[argc++] = *options++;
    snprintf(path, sizeof path, "%s/nbd/%s", BLKGATE_BINARY_DIR, program);
    assert_int_equal(
        posix_spawn(&server, path, NULL, NULL, (char *const *)(uintptr_t)argv, environ), 0);
}

/* late over the image at a unix socket, answering. */
static void late_start(const char *const *options)
{
    const char *all[20] = {"--unix", unix_path, "--size",    SIZE,
                           "--log",  journal,   "--control", control};
    size_t count = 8;

    while (*options)
        all[count++] = *options++;
    server_start("late", all);
    snprintf(uri, sizeof uri, "nbd+unix:///?socket=%s", unix_path);
    for (int ms = 0; !connects(); ms += 10) {
        assert_true(ms < WAIT_MS);
        usleep(10000);
    }
}
#define LATE(...) late_start((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static int server_stop(int number)
{
    int status = 0;

    if (server > 0) {
        kill(server, number);
        assert_int_equal(waitpid(server, &status, 0), server);
    }
    server = 0;
    unlink(unix_path);
    return status;
}

static void control_write(const char *words)
{
    char draft[80];
    FILE *file;

    snprintf(draft, sizeof draft, "%s.new", control);
    file = fopen(draft, "we");
    assert_non_null(file);
    fprintf(file, "%s\n", words);
    fclose(file);
    assert_int_equal(rename(draft, control), 0);
}

static int setup(void **state)
{
    (void)state;
    unlink(image);
    unlink(journal);
    unlink(control);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    server_stop(SIGKILL);
    return 0;
}

/* -- clients ---------------------------------------------------------------------------------- */
static struct nbd_handle *client(void)
{
    struct nbd_handle *nbd = nbd_create();

    assert_non_null(nbd);
    nbd_set_strict_mode(nbd, 0); /* the server is to judge */
    if (nbd_connect_uri(nbd, uri) < 0)
        fail_msg("unable to connect: %s", nbd_get_error());
    return nbd;
}

static int put(struct nbd_handle *nbd, uint8_t byte, uint64_t offset, uint32_t flags)
{
    uint8_t data[BYTES];

    memset(data, byte, sizeof data);
    return nbd_pwrite(nbd, data, sizeof data, offset, flags) < 0 ? nbd_get_errno() : 0;
}

static uint8_t uniform(const uint8_t *data)
{
    for (int i = 1; i < BYTES; i++)
        assert_int_equal(data[i], data[0]);
    return data[0];
}

static uint8_t get(struct nbd_handle *nbd, uint64_t offset)
{
    uint8_t data[BYTES];

    assert_int_equal(nbd_pread(nbd, data, sizeof data, offset, 0), 0);
    return uniform(data);
}

static uint8_t durable(uint64_t offset)
{
    uint8_t data[BYTES];
    int fd = open(image, O_RDONLY | O_CLOEXEC);

    assert_int_equal(pread(fd, data, sizeof data, (off_t)offset), BYTES);
    close(fd);
    return uniform(data);
}

static void durable_wait(uint64_t offset, uint8_t byte)
{
    for (int ms = 0; durable(offset) != byte; ms += 10) {
        assert_true(ms < WAIT_MS);
        usleep(10000);
    }
}

/* How many lines of the journal have all of these words. */
static int journal_count(const char *one, const char *two)
{
    FILE *file = fopen(journal, "re");
    char line[512];
    int count = 0;

    assert_non_null(file);
    while (fgets(line, sizeof line, file))
        count += strstr(line, one) && strstr(line, two);
    fclose(file);
    return count;
}

static void journal_wait(const char *one, const char *two, int count)
{
    for (int ms = 0; journal_count(one, two) != count; ms += 10) {
        if (ms >= WAIT_MS)
            fail_msg("%d lines with %s%s, not %d", journal_count(one, two), one, two, count);
        usleep(10000);
    }
}

/* Writes without waiting for the reply, but until the server has received it: of what a reader
 * takes in order, it has answered a read that was sent later. */
static void put_unanswered(struct nbd_handle *nbd, uint8_t byte, uint64_t offset)
{
    static uint8_t data[BYTES];

    memset(data, byte, sizeof data);
    assert_true(nbd_aio_pwrite(nbd, data, sizeof data, offset, NBD_NULL_COMPLETION, 0) >= 0);
    get(nbd, IMAGE - BYTES);
}

/* Polled until the server's end closed; true if a reply came before. */
static bool answered_before_eof(struct nbd_handle *nbd)
{
    struct pollfd poll_fd = {.fd = nbd_aio_get_fd(nbd), .events = POLLIN};
    char byte;
    ssize_t got, sum = 0;

    for (;;) {
        assert_int_equal(poll(&poll_fd, 1, WAIT_MS), 1);
        got = recv(poll_fd.fd, &byte, 1, 0);
        if (got <= 0)
            return sum > 0;
        sum += got;
    }
}

/* -- correct ---------------------------------------------------------------------------------- */
static void all_commands(bool structured)
{
    struct nbd_handle *one = nbd_create(), *two = client();
    uint8_t data[BYTES];

    nbd_set_request_structured_replies(one, structured);
    assert_int_equal(nbd_connect_uri(one, uri), 0);
    assert_int_equal(nbd_get_structured_replies_negotiated(one), structured);
    assert_int_equal(nbd_get_size(one), IMAGE);
    assert_int_equal(nbd_can_multi_conn(one), 1);
    assert_int_equal(nbd_is_read_only(one), 0);
    for (uint64_t i = 0; i < 8; i++)
        assert_int_equal(put(one, (uint8_t)(i + 1), i * BYTES, 0), 0);
    for (uint64_t i = 0; i < 8; i++)
        assert_int_equal(get(i % 2 ? one : two, i * BYTES), i + 1);
    assert_int_equal(nbd_flush(one, 0), 0);
    assert_int_equal(nbd_trim(one, BYTES, 0, 0), 0);
    assert_int_equal(nbd_zero(one, BYTES, BYTES, LIBNBD_CMD_FLAG_FUA), 0);
    assert_int_equal(get(two, 0), 0);
    assert_int_equal(get(one, BYTES), 0);
    assert_int_equal(get(one, 2 * BYTES), 3);
    nbd_set_strict_mode(one, 0);
    assert_int_equal(put(one, 1, IMAGE, 0), ENOSPC);
    assert_int_equal(nbd_pread(one, data, BYTES, IMAGE - 512, 0), -1);
    assert_int_equal(get(one, 2 * BYTES), 3);
    assert_int_equal(nbd_shutdown(one, 0), 0);
    nbd_close(one);
    nbd_close(two);
}

static void every_command_in_both_styles_of_reply(void **state)
{
    (void)state;
    LATE("--structured");
    all_commands(false);
    all_commands(true);
    server_stop(SIGKILL);
    LATE("--volatile", "--structured", "--delay-ms", "0-20", "--delay-all");
    all_commands(false);
    all_commands(true);
}

static void of_another_size_or_read_only_after_a_restart(void **state)
{
    struct nbd_handle *nbd;

    (void)state;
    LATE("--single");
    nbd = client();
    assert_int_equal(nbd_can_multi_conn(nbd), 0);
    assert_int_equal(put(nbd, 7, IMAGE - BYTES, 0), 0);
    nbd_close(nbd);
    server_stop(SIGKILL);
    LATE("--size", "524288", "--read-only");
    nbd = client();
    assert_int_equal(nbd_get_size(nbd), 524288);
    assert_int_equal(nbd_is_read_only(nbd), 1);
    assert_int_equal(put(nbd, 8, 0, 0), EPERM);
    nbd_close(nbd);
    server_stop(SIGTERM);
    LATE("--size", "2097152");
    nbd = client();
    assert_int_equal(nbd_get_size(nbd), 2097152);
    assert_int_equal(get(nbd, IMAGE - BYTES), 7); /* the shrunk one kept what is behind its end */
    nbd_close(nbd);
}

static void errors_as_told_while_it_runs(void **state)
{
    static const struct {
        const char *word;
        int error;
    } rows[] = {{"write=ENOSPC", ENOSPC}, {"write=EIO", EIO}, {"write=ENOMEM", ENOMEM}};
    struct nbd_handle *nbd;

    (void)state;
    LATE();
    nbd = client();
    assert_int_equal(put(nbd, 1, 0, 0), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        control_write(rows[i].word);
        assert_int_equal(put(nbd, 2, 0, 0), rows[i].error);
        assert_int_equal(nbd_trim(nbd, BYTES, 0, 0), -1);
        assert_int_equal(nbd_flush(nbd, 0), 0);
        assert_int_equal(get(nbd, 0), 1);
    }
    control_write("flush=EIO");
    assert_int_equal(nbd_flush(nbd, 0), -1);
    assert_int_equal(put(nbd, 3, 0, 0), 0);
    control_write("all=ESHUTDOWN");
    assert_int_equal(put(nbd, 4, 0, 0), ESHUTDOWN);
    assert_true(connects()); /* as with a blocklisted client of Ceph */
    control_write("");
    assert_int_equal(get(nbd, 0), 3); /* the connection stayed */
    assert_int_equal(journal_count("op=write", "error=108"), 1);
    nbd_close(nbd);
}

/* -- late ------------------------------------------------------------------------------------- */
static void a_write_lands_after_its_connection_is_gone(void **state)
{
    struct nbd_handle *old, *new;

    (void)state;
    LATE();
    old = client();
    new = client();
    control_write("hold");
    put_unanswered(old, 'a', 0);
    nbd_close(old);
    control_write("");
    assert_int_equal(put(new, 'b', 0, 0), 0);
    assert_int_equal(nbd_flush(new, 0), 0);
    assert_int_equal(get(new, 0), 'b');
    assert_int_equal(durable(0), 'b');
    control_write("release");
    durable_wait(0, 'a');
    assert_int_equal(get(new, 0), 'a');
    journal_wait("op=write", "answered=never", 1);
    assert_int_equal(journal_count("answered=never", "after_close=-"), 0);
    nbd_close(new);
}

static void what_is_queued_in_the_socket_of_a_client_that_reset_is_executed(bool tcp)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    static uint8_t data[QUEUED][512];
    struct nbd_handle *nbd;
    int unacknowledged;

    nbd = client();
    assert_true(process_stop(server));
    for (int i = 0; i < QUEUED; i++) {
        memset(data[i], 'q', sizeof data[i]);
        assert_true(nbd_aio_pwrite(nbd, data[i], sizeof data[i], (uint64_t)i * 512,
                                   NBD_NULL_COMPLETION, 0) >= 0);
    }
    while (tcp && ioctl(nbd_aio_get_fd(nbd), SIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0)
        usleep(10000); /* a reset takes back what is not at the other end yet */
    if (tcp)
        setsockopt(nbd_aio_get_fd(nbd), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    nbd_close(nbd);
    kill(server, SIGCONT);
    journal_wait("op=write", "length=512", QUEUED);
    assert_int_equal(durable(0), 'q');
    assert_int_equal(durable((QUEUED - 8) * 512), 'q');
}

static void what_is_queued_in_a_unix_socket_is_executed(void **state)
{
    (void)state;
    LATE();
    what_is_queued_in_the_socket_of_a_client_that_reset_is_executed(false);
}

static void what_is_queued_in_a_tcp_socket_is_executed(void **state)
{
    char address[32];
    unsigned port = 20000 + (unsigned)getpid() % 20000;
    const char *const options[] = {"--tcp", address, "--size", SIZE, "--log", journal, NULL};

    (void)state;
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    snprintf(uri, sizeof uri, "nbd://127.0.0.1:%u", port);
    server_start("late", options);
    for (int ms = 0; !connects(); ms += 10) {
        assert_true(ms < WAIT_MS);
        usleep(10000);
    }
    what_is_queued_in_the_socket_of_a_client_that_reset_is_executed(true);
}

/* Each would be an hour late, but for the end of its connection. */
static void no_later_after_the_end_of_its_connection_than_told(void **state)
{
    struct nbd_handle *nbd;

    (void)state;
    LATE("--delay-ms", "3600000-3600000", "--max-late-after-close", "0");
    nbd = client();
    put_unanswered(nbd, 'l', 0);
    assert_int_equal(durable(0), 0);
    nbd_close(nbd);
    durable_wait(0, 'l');
    nbd = client();
    control_write("hold");
    put_unanswered(nbd, 'm', 0);
    nbd_close(nbd);
    durable_wait(0, 'm');
}

static void connections_that_it_ends_lose_no_command(void **state)
{
    struct nbd_handle *nbd;

    (void)state;
    LATE();
    nbd = client();
    control_write("hold");
    put_unanswered(nbd, 'd', 0);
    kill(server, SIGUSR1);
    assert_false(answered_before_eof(nbd));
    nbd_close(nbd);
    control_write("release");
    durable_wait(0, 'd');
    server_stop(SIGKILL);
    LATE("--drop-ms", "1-1");
    for (int i = 0; i < 20; i++) {
        nbd = client();
        answered_before_eof(nbd);
        nbd_close(nbd);
    }
}

/* As qemu-nbd: EOF proves nothing. As nbdkit: it comes after the last reply. */
static void what_the_end_of_a_half_closed_connection_proves(void **state)
{
    struct nbd_handle *nbd;

    (void)state;
    LATE();
    nbd = client();
    control_write("hold");
    put_unanswered(nbd, 'h', 0);
    shutdown(nbd_aio_get_fd(nbd), SHUT_WR);
    assert_false(answered_before_eof(nbd));
    assert_int_equal(durable(0), 0);
    nbd_close(nbd);
    server_stop(SIGKILL);

    control_write("");
    LATE("--drain");
    nbd = client();
    control_write("hold");
    put_unanswered(nbd, 'h', 0);
    shutdown(nbd_aio_get_fd(nbd), SHUT_WR);
    control_write("release");
    assert_true(answered_before_eof(nbd));
    assert_int_equal(durable(0), 'h');
    nbd_close(nbd);
}

/* -- its cache -------------------------------------------------------------------------------- */
static void a_crash_loses_what_was_not_flushed_and_nothing_else(void **state)
{
    struct nbd_handle *nbd, *other;

    (void)state;
    LATE("--volatile");
    nbd = client();
    other = client();
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(put(nbd, 'a', i * BYTES, 0), 0);
    assert_int_equal(durable(0), 0);
    assert_int_equal(nbd_flush(other, 0), 0); /* any connection's */
    assert_int_equal(put(nbd, 'b', 0, 0), 0);
    assert_int_equal(put(nbd, 'b', BYTES, LIBNBD_CMD_FLAG_FUA), 0);
    assert_int_equal(nbd_zero(nbd, BYTES, 2 * BYTES, 0), 0);
    assert_int_equal(nbd_trim(nbd, BYTES, 3 * BYTES, LIBNBD_CMD_FLAG_FUA), 0);
    assert_int_equal(get(other, 0), 'b');
    assert_int_equal(get(other, 2 * BYTES), 0);
    server_stop(SIGKILL);
    nbd_close(nbd);
    nbd_close(other);

    LATE("--volatile");
    nbd = client();
    assert_int_equal(get(nbd, 0), 'a');
    assert_int_equal(get(nbd, BYTES), 'b');
    assert_int_equal(get(nbd, 2 * BYTES), 'a');
    assert_int_equal(get(nbd, 3 * BYTES), 0);
    assert_int_equal(put(nbd, 'c', 0, 0), 0);
    assert_int_equal(server_stop(SIGTERM), 0); /* a clean stop keeps it */
    assert_int_equal(durable(0), 'c');
    nbd_close(nbd);
}

/* -- evil ------------------------------------------------------------------------------------- */
static int bytes_until_silence(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    uint8_t data[BYTES];
    int sum = 0;

    while (poll(&poll_fd, 1, sum ? 200 : WAIT_MS) == 1) {
        ssize_t got = recv(fd, data, sizeof data, 0);

        if (got <= 0)
            return -1; /* it was to stay open */
        sum += (int)got;
    }
    return sum;
}

static void evil_start(const char *fault)
{
    const char *const options[] = {"--unix", unix_path, "--size", SIZE, "--fault", fault, NULL};

    server_start("evil", options);
    snprintf(uri, sizeof uri, "nbd+unix:///?socket=%s", unix_path);
}

static void evil_stalls_in_the_middle_of_a_reply(void **state)
{
    struct nbd_handle *nbd;
    uint8_t data[BYTES];

    (void)state;
    LATE();
    nbd = client();
    assert_int_equal(put(nbd, 'e', 0, 0), 0);
    nbd_close(nbd);
    server_stop(SIGKILL);
    evil_start("tear=2");
    for (int ms = 0; !connects(); ms += 10) {
        assert_true(ms < WAIT_MS);
        usleep(10000);
    }
    nbd = client();
    assert_int_equal(get(nbd, 0), 'e'); /* the same file */
    nbd_aio_pread(nbd, data, sizeof data, 0, NBD_NULL_COMPLETION, 0);
    assert_int_equal(bytes_until_silence(nbd_aio_get_fd(nbd)), 16 + BYTES / 2);
    nbd_close(nbd);
    nbd = client();
    get(nbd, 0);
    nbd_aio_pwrite(nbd, data, sizeof data, 0, NBD_NULL_COMPLETION, 0);
    assert_int_equal(bytes_until_silence(nbd_aio_get_fd(nbd)), 16 / 2);
    nbd_close(nbd);
}

static void evil_stalls_in_the_handshake(void **state)
{
    struct nbd_handle *nbd;
    int fd = -1;

    (void)state;
    evil_start("greets");
    for (int ms = 0; fd < 0; ms += 10) {
        assert_true(ms < WAIT_MS);
        usleep(10000);
        nbd = nbd_create();
        if (nbd_aio_connect_uri(nbd, uri) == 0)
            fd = dup(nbd_aio_get_fd(nbd));
        nbd_close(nbd);
    }
    assert_int_equal(bytes_until_silence(fd), 18);
    close(fd);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(every_command_in_both_styles_of_reply),
        TEST(of_another_size_or_read_only_after_a_restart),
        TEST(errors_as_told_while_it_runs),
        TEST(a_write_lands_after_its_connection_is_gone),
        TEST(what_is_queued_in_a_unix_socket_is_executed),
        TEST(what_is_queued_in_a_tcp_socket_is_executed),
        TEST(no_later_after_the_end_of_its_connection_than_told),
        TEST(connections_that_it_ends_lose_no_command),
        TEST(what_the_end_of_a_half_closed_connection_proves),
        TEST(a_crash_loses_what_was_not_flushed_and_nothing_else),
        TEST(evil_stalls_in_the_middle_of_a_reply),
        TEST(evil_stalls_in_the_handshake),
    };
    int failed;

    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(dir))
        return 111;
    snprintf(image, sizeof image, "%s/image", dir);
    snprintf(journal, sizeof journal, "%s/log", dir);
    snprintf(control, sizeof control, "%s/control", dir);
    snprintf(unix_path, sizeof unix_path, "%s/socket", dir);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    setup(NULL); /* removes the files */
    return rmdir(dir) < 0 || failed;
}
