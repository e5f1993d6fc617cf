/*
 * The server that benchmarks rest on: many requests at once, of every kind and length, on several
 * connections, come back right; and what one client breaks is its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <libnbd.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

extern char **environ;

enum {
    IMAGE = 64 << 20,
    BLOCK = 512,
    CONNECTIONS = 3,
    IN_FLIGHT = 600, /* of each: more replies than the server keeps */
    COMMANDS = 40000,
    LONG_MAX = 1 << 20,
    PAYLOAD_MAX = 32 << 20,
    WAIT_MS = 20000,
};
#define SIZE "67108864"

static char dir[] = "/tmp/blkgate-lean-XXXXXX";
static char unix_path[64], uri[128];
static pid_t server;

/* -- the server ------------------------------------------------------------------------------- */
static bool connects(void)
{
    struct nbd_handle *nbd = nbd_create();
    bool connected = nbd_connect_uri(nbd, uri) == 0;

    nbd_close(nbd);
    return connected;
}

static void server_start(const char *how, const char *where, const char *more)
{
    const char *argv[] = {"lean", how, where, "--size", SIZE, more, NULL};

    assert_int_equal(posix_spawn(&server, BLKGATE_BINARY_DIR "/nbd/lean", NULL, NULL,
                                 (char *const *)(uintptr_t)argv, environ),
                     0);
    for (int ms = 0; !connects(); ms += 10) {
        assert_true(ms < WAIT_MS);
        usleep(10000);
    }
}

static void unix_start(const char *more)
{
    snprintf(uri, sizeof uri, "nbd+unix:///?socket=%s", unix_path);
    server_start("--unix", unix_path, more);
}

static int teardown(void **state)
{
    (void)state;
    if (server > 0) {
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
    }
    server = 0;
    unlink(unix_path);
    return 0;
}

static struct nbd_handle *client(void)
{
    struct nbd_handle *nbd = nbd_create();

    assert_non_null(nbd);
    nbd_set_strict_mode(nbd, 0); /* the server is to judge */
    if (nbd_connect_uri(nbd, uri) < 0)
        fail_msg("unable to connect: %s", nbd_get_error());
    return nbd;
}

/* -- a mixture against a model ---------------------------------------------------------------- */
/* Commands in flight never overlap unless both read, so that each has one right outcome. */
struct command {
    bool used, reads;
    uint64_t offset;
    uint32_t bytes;
    uint8_t *data;
};

static uint8_t *model;
static uint8_t users[IMAGE / BLOCK]; /* of each block: readers in flight, or UINT8_MAX: a writer */
static struct command commands[CONNECTIONS][IN_FLIGHT];
static unsigned nr_done;
static uint64_t random_state = 88172645463325252u;

static uint32_t below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32) % n;
}

static bool claim(const struct command *command)
{
    uint64_t first = command->offset / BLOCK, end = first + command->bytes / BLOCK, i;

    for (i = first; i < end; i++)
        if (users[i] && (!command->reads || users[i] == UINT8_MAX))
            return false;
    for (i = first; i < end; i++)
        users[i] = command->reads ? (uint8_t)(users[i] + 1) : UINT8_MAX;
    return true;
}

static int finished(void *arg, int *error)
{
    struct command *command = arg;
    uint64_t first = command->offset / BLOCK, end = first + command->bytes / BLOCK, i;

    assert_int_equal(*error, 0);
    if (command->reads)
        assert_memory_equal(command->data, model + command->offset, command->bytes);
    for (i = first; i < end; i++)
        users[i] = command->reads ? (uint8_t)(users[i] - 1) : 0;
    free(command->data);
    command->used = false;
    nr_done++;
    return 1;
}

/* One that overlaps no other, mostly short, begun on this connection. */
static void command_start(struct nbd_handle *nbd, struct command *command)
{
    nbd_completion_callback done = {.callback = finished, .user_data = command};
    unsigned kind = below(20);

    do {
        command->bytes = BLOCK * (1 + below(below(50) ? 16 : LONG_MAX / BLOCK));
        command->offset = (uint64_t)BLOCK * below((IMAGE - command->bytes) / BLOCK);
        command->reads = kind < 10;
    } while (!claim(command));
    command->used = true;
    command->data = malloc(command->bytes);
    assert_non_null(command->data);
    if (kind < 10) {
        assert_true(nbd_aio_pread(nbd, command->data, command->bytes, command->offset, done, 0) >=
                    0);
    } else if (kind < 19) {
        memset(command->data, (int)below(256), command->bytes);
        memcpy(model + command->offset, command->data, command->bytes);
        assert_true(nbd_aio_pwrite(nbd, command->data, command->bytes, command->offset, done,
                                   kind == 18 ? LIBNBD_CMD_FLAG_FUA : 0) >= 0);
    } else {
        memset(model + command->offset, 0, command->bytes);
        assert_true(nbd_aio_trim(nbd, command->bytes, command->offset, done, 0) >= 0);
    }
}

static void connections_wait(struct nbd_handle *const *nbds)
{
    struct pollfd fds[CONNECTIONS];

    for (int i = 0; i < CONNECTIONS; i++) {
        unsigned wants = nbd_aio_get_direction(nbds[i]);

        fds[i] = (struct pollfd){.fd = nbd_aio_get_fd(nbds[i])};
        fds[i].events = (short)((wants & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                                (wants & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    }
    assert_true(poll(fds, CONNECTIONS, WAIT_MS) > 0);
    for (int i = 0; i < CONNECTIONS; i++) {
        if (fds[i].revents & POLLIN)
            assert_int_equal(nbd_aio_notify_read(nbds[i]), 0);
        else if (fds[i].revents & POLLOUT)
            assert_int_equal(nbd_aio_notify_write(nbds[i]), 0);
    }
}

static void mixture(void)
{
    struct nbd_handle *nbds[CONNECTIONS];
    unsigned nr_started = 0;
    bool busy = true;

    model = calloc(1, IMAGE);
    assert_non_null(model);
    nr_done = 0;
    for (int i = 0; i < CONNECTIONS; i++)
        nbds[i] = client();
    while (busy) {
        busy = false;
        for (int i = 0; i < CONNECTIONS; i++) {
            for (int k = 0; k < IN_FLIGHT; k++) {
                if (!commands[i][k].used && nr_started < COMMANDS) {
                    command_start(nbds[i], &commands[i][k]);
                    nr_started++;
                }
                busy |= commands[i][k].used;
            }
        }
        if (busy)
            connections_wait(nbds);
    }
    assert_int_equal(nr_done, COMMANDS);
    for (int i = 0; i < CONNECTIONS; i++) {
        assert_int_equal(nbd_flush(nbds[i], 0), 0);
        assert_int_equal(nbd_shutdown(nbds[i], 0), 0);
        nbd_close(nbds[i]);
    }
    free(model);
}

static void any_mixture_in_flight_on_unix_sockets(void **state)
{
    (void)state;
    unix_start(NULL);
    mixture();
}

static void any_mixture_in_flight_over_tcp(void **state)
{
    char address[32];

    (void)state;
    snprintf(address, sizeof address, "127.0.0.1:%u", 20000 + (unsigned)getpid() % 20000);
    snprintf(uri, sizeof uri, "nbd://%s", address);
    server_start("--tcp", address, NULL);
    mixture();
}

/* -- the rest --------------------------------------------------------------------------------- */
static void says_what_it_can(void **state)
{
    struct nbd_handle *nbd;

    (void)state;
    unix_start(NULL);
    nbd = client();
    assert_int_equal(nbd_get_size(nbd), IMAGE);
    assert_int_equal(nbd_can_flush(nbd), 1);
    assert_int_equal(nbd_can_fua(nbd), 1);
    assert_int_equal(nbd_can_trim(nbd), 1);
    assert_int_equal(nbd_can_multi_conn(nbd), 1);
    assert_int_equal(nbd_is_read_only(nbd), 0);
    assert_int_equal(nbd_get_structured_replies_negotiated(nbd), 0);
    nbd_close(nbd);
}

static void as_long_as_the_protocol_allows_and_no_longer(void **state)
{
    uint8_t *data = malloc(PAYLOAD_MAX), *back = calloc(1, PAYLOAD_MAX + 512);
    struct nbd_handle *nbd;

    (void)state;
    assert_true(data && back);
    unix_start(NULL);
    nbd = client();
    for (size_t i = 0; i < PAYLOAD_MAX; i++)
        data[i] = (uint8_t)(i * 7 >> 3);
    assert_int_equal(nbd_pwrite(nbd, data, PAYLOAD_MAX, IMAGE - PAYLOAD_MAX, 0), 0);
    assert_int_equal(nbd_pread(nbd, back, PAYLOAD_MAX, IMAGE - PAYLOAD_MAX, 0), 0);
    assert_memory_equal(data, back, PAYLOAD_MAX);
    assert_int_equal(nbd_pwrite(nbd, data, 4096, IMAGE - 512, 0), -1);
    assert_int_equal(nbd_get_errno(), ENOSPC);
    assert_int_equal(nbd_pread(nbd, back, 4096, IMAGE - 512, 0), -1);
    assert_int_equal(nbd_get_errno(), EINVAL);
    assert_int_equal(nbd_trim(nbd, 4096, IMAGE, 0), -1);
    assert_int_equal(nbd_zero(nbd, 4096, 0, 0), -1); /* it has not said that it can */
    assert_int_equal(nbd_pread(nbd, back, 4096, IMAGE - 4096, 0), 0);
    assert_memory_equal(data + PAYLOAD_MAX - 4096, back, 4096);
    nbd_pread(nbd, back, PAYLOAD_MAX + 512, 0, 0);
    assert_true(nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd));
    nbd_close(nbd);
    assert_true(connects());
    free(data);
    free(back);
}

static void null_reads_zeroes(void **state)
{
    static uint8_t data[LONG_MAX], zeroes[LONG_MAX];
    struct nbd_handle *nbd;

    (void)state;
    unix_start("--null");
    nbd = client();
    memset(data, 1, sizeof data);
    assert_int_equal(nbd_get_size(nbd), IMAGE);
    assert_int_equal(nbd_pwrite(nbd, data, sizeof data, 4096, 0), 0);
    assert_int_equal(nbd_pread(nbd, data, sizeof data, 4096, 0), 0);
    assert_memory_equal(data, zeroes, sizeof data);
    nbd_close(nbd);
}

/* A client that goes with its commands unanswered, or in the middle of one; that talks nonsense;
 * that stops talking in the handshake. */
static void what_a_client_breaks_is_its_own(void **state)
{
    struct nbd_handle *good, *bad, *silent = nbd_create();
    uint8_t *data = calloc(1, LONG_MAX);

    (void)state;
    unix_start(NULL);
    good = client();
    nbd_set_opt_mode(silent, true);
    assert_int_equal(nbd_connect_uri(silent, uri), 0);
    for (int i = 0; i < 30; i++) {
        bad = client();
        for (int k = 0; k < 20; k++)
            nbd_aio_pread(bad, data, LONG_MAX, 0, NBD_NULL_COMPLETION, 0);
        if (i % 3 == 1)
            assert_true(send(nbd_aio_get_fd(bad), data, 100, MSG_NOSIGNAL) == 100);
        if (i % 3 == 2)
            nbd_aio_pwrite(bad, data, LONG_MAX, 0, NBD_NULL_COMPLETION, 0);
        nbd_close(bad);
        memset(data, i + 1, 4096);
        assert_int_equal(nbd_pwrite(good, data, 4096, LONG_MAX, 0), 0);
        memset(data, 0, 4096);
        assert_int_equal(nbd_pread(good, data, 4096, LONG_MAX, 0), 0);
        assert_int_equal(data[0], i + 1);
        assert_int_equal(data[4095], i + 1);
        memset(data, 0, 4096);
    }
    nbd_close(silent);
    nbd_close(good);
    free(data);
}

int main(void)
{
#define TEST(function) cmocka_unit_test_teardown(function, teardown)
    const struct CMUnitTest tests[] = {
        TEST(says_what_it_can),
        TEST(any_mixture_in_flight_on_unix_sockets),
        TEST(any_mixture_in_flight_over_tcp),
        TEST(as_long_as_the_protocol_allows_and_no_longer),
        TEST(null_reads_zeroes),
        TEST(what_a_client_breaks_is_its_own),
    };
    int failed;

    signal(SIGPIPE, SIG_IGN);
    if (!mkdtemp(dir))
        return 111;
    snprintf(unix_path, sizeof unix_path, "%s/socket", dir);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    return rmdir(dir) < 0 || failed;
}
