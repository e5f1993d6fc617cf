/*
 * target and parked, session by session: what follows a lost one, on which path, when; what beside
 * a slow one; when what was lost can be written no more. Against tests/nbd/evil and tests/nbd/late,
 * each over an image of its own letter, so that a read says who serves.
 *
 * Held all along: each command completes once, with -ENOTCONN before its session's loss is told; a
 * loss is a bit that no other loss has before `fenced` gives it back; ready comes only when there
 * is no session.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <ev.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "gateway/config.h"
#include "gateway/fence.h"
#include "gateway/mailbox.h"
#include "gateway/parked.h"
#include "gateway/resolve.h"
#include "gateway/target.h"
#include "../process.h"
#include "script.h"

extern char **environ;

enum {
    SERVERS = 4,
    COMMANDS = 1100,
    IMAGE_BYTES = 1 << 20,
    SECTORS = IMAGE_BYTES / 512,
    WAIT_S = 30,
    SHORT_MS = 400,  /* of what is configured to take time here, and runs out */
    AMPLE_MS = 2000, /* ... where a server must answer before, on a machine with much else to do */
};

/* -- servers --------------------------------------------------------------------------------- */

static struct server {
    pid_t pid;
    char socket[64], image[64], control[64], uri[96];
} servers[SERVERS];

#define A (&servers[0])
#define B (&servers[1])
#define C (&servers[2])
#define D (&servers[3])

static char letter(const struct server *server)
{
    return (char)('a' + (server - servers));
}

static void make_image(const struct server *server, off_t bytes)
{
    static char letters[IMAGE_BYTES * 2];
    FILE *file = fopen(server->image, "we");

    memset(letters, letter(server), sizeof letters);
    assert_non_null(file);
    assert_int_equal(fwrite(letters, (size_t)bytes, 1, file), 1);
    fclose(file);
}

static void server_start(struct server *server, const char *program, const char *const *options)
{
    const char *argv[24] = {program, "--unix", server->socket, "--file", server->image};
    char path[256];
    int argc = 5;

    if (access(server->image, F_OK) < 0)
        make_image(server, IMAGE_BYTES);
    if (strcmp(program, "late") == 0) {
        argv[argc++] = "--control";
        argv[argc++] = server->control;
    }
    while (*options)
        argv[argc++] = *options++;
    unlink(server->socket);
    snprintf(path, sizeof path, "%s/nbd/%s", BLKGATE_BINARY_DIR, program);
    assert_int_equal(
        posix_spawn(&server->pid, path, NULL, NULL, (char *const *)(uintptr_t)argv, environ), 0);
    for (int i = 0; i < 1000 && access(server->socket, F_OK) < 0; i++)
        pause_ms(10);
    pause_ms(20); /* bound; it listens at once after */
}
#define START(server, program, ...) \
    server_start(server, program, (const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})
#define EVIL(server, ...) START(server, "evil", "--size", "1048576" __VA_OPT__(, ) __VA_ARGS__)
#define LATE(server, ...) START(server, "late" __VA_OPT__(, ) __VA_ARGS__)

static void server_stop(struct server *server)
{
    if (server->pid > 0) {
        kill(server->pid, SIGKILL);
        waitpid(server->pid, NULL, 0);
    }
    server->pid = 0;
    unlink(server->socket);
}

static void say(const struct server *server, const char *words)
{
    char draft[80];
    FILE *file;

    snprintf(draft, sizeof draft, "%s.new", server->control);
    file = fopen(draft, "we");
    assert_non_null(file);
    fprintf(file, "%s\n", words);
    fclose(file);
    assert_int_equal(rename(draft, server->control), 0);
}

/* -- names ------------------------------------------------------------------------------------ */

#define NAMED "nbd://server.invalid/"

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned found;   /* how many more questions are answered, by A's address */
    unsigned waiting; /* in vain */
    bool over;        /* nobody waits any more: there is no such name */
} names = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static struct addrinfo *address_of(const struct server *server)
{
    struct {
        struct addrinfo info;
        struct sockaddr_un address;
    } *made = calloc(1, sizeof *made); /* as the C library's: freed as one */

    assert_non_null(made);
    made->info.ai_family = AF_UNIX;
    made->info.ai_socktype = SOCK_STREAM;
    made->info.ai_addr = (struct sockaddr *)&made->address;
    made->info.ai_addrlen = sizeof made->address;
    made->address.sun_family = AF_UNIX;
    snprintf(made->address.sun_path, sizeof made->address.sun_path, "%s", server->socket);
    return &made->info;
}

/* In place of the C library's: before name servers that do not answer it takes its time. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **ret_addresses)
{
    bool found;

    (void)name;
    (void)service;
    (void)hints;
    pthread_mutex_lock(&names.lock);
    found = names.found > 0;
    if (found) {
        names.found--;
        *ret_addresses = address_of(A);
    } else {
        names.waiting++;
        while (!names.over)
            pthread_cond_wait(&names.changed, &names.lock);
        names.waiting--;
    }
    pthread_mutex_unlock(&names.lock);
    return found ? 0 : EAI_AGAIN;
}

static void names_hang(unsigned found)
{
    pthread_mutex_lock(&names.lock);
    names.found = found;
    names.over = false;
    pthread_mutex_unlock(&names.lock);
}

static unsigned names_waiting(void)
{
    unsigned waiting;

    pthread_mutex_lock(&names.lock);
    waiting = names.waiting;
    pthread_mutex_unlock(&names.lock);
    return waiting;
}

/* Returns when nobody waits any more. */
static void names_end(void)
{
    pthread_mutex_lock(&names.lock);
    names.over = true;
    pthread_cond_broadcast(&names.changed);
    pthread_mutex_unlock(&names.lock);
    while (names_waiting() > 0)
        pause_ms(5);
}

/* -- a target, and what it says --------------------------------------------------------------- */

struct command {
    struct nbdcmd cmd;
    bool begun, over;
    int error;
    char bytes[1024];
};

static struct {
    struct ev_loop *loop;
    struct ev_timer tick;
    struct mailbox *mailbox;
    struct config_disk config;
    struct disklink_spec spec;
    struct target *target;
    struct target_past past;
    struct command commands[COMMANDS];
    unsigned count, out;
    bool up;
    unsigned readies, losses, refusals, failures, probes;
    uint32_t parked, bit; /* bits given and not back; the last */
    uint64_t capacity_sectors;
    double ready_at, lost_at, fenced_at;
    char reason[LIMIT_REASON_BYTES], refused[16 * LIMIT_REASON_BYTES];
} t;

/* As libev's timers: not the wall clock, which may be set. */
static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void on_ready(void *arg, const struct disk_properties *properties)
{
    (void)arg;
    assert_false(t.up);
    assert_int_equal(t.out, 0);
    t.up = true;
    t.ready_at = now_s();
    t.readies++;
    t.capacity_sectors = properties->capacity_sectors;
}

static void on_lost(void *arg, const char *reason, uint32_t parked)
{
    (void)arg;
    assert_true(t.up);
    assert_int_equal(t.out, 0);
    assert_true(parked != 0 && (parked & (parked - 1)) == 0 && !(t.parked & parked));
    t.up = false;
    t.losses++;
    t.parked |= parked;
    t.bit = parked;
    t.lost_at = now_s();
    snprintf(t.reason, sizeof t.reason, "%s", reason);
}

static void on_fenced(void *arg, uint32_t parked)
{
    (void)arg;
    assert_true(parked != 0 && (t.parked & parked) == parked);
    t.parked &= ~parked;
    t.fenced_at = now_s();
}

static void on_failed(void *arg, const char *reason)
{
    (void)arg;
    t.failures++;
    snprintf(t.reason, sizeof t.reason, "%s", reason);
}

static void on_refused(void *arg, const char *reason)
{
    size_t length = strlen(t.refused);

    (void)arg;
    t.refusals++;
    snprintf(t.refused + length, sizeof t.refused - length, "%s\n", reason);
}

static void on_completed(void *arg, struct nbdcmd *cmd)
{
    struct command *command = container_of(cmd, struct command, cmd);

    (void)arg;
    assert_true(command->begun && !command->over);
    command->over = true;
    command->error = cmd->error;
    t.out--;
}

static void on_probed(void *arg, const struct disk_properties *properties, const char *reason)
{
    (void)arg;
    t.probes++;
    t.capacity_sectors = properties ? properties->capacity_sectors : 0;
    snprintf(t.reason, sizeof t.reason, "%s", reason);
}

static const struct target_handler handler = {
    .ready = on_ready,
    .lost = on_lost,
    .fenced = on_fenced,
    .failed = on_failed,
    .refused = on_refused,
    .completed = on_completed,
    .probed = on_probed,
};

static void on_tick(struct ev_loop *loop, struct ev_timer *timer, int events)
{
    (void)loop;
    (void)timer;
    (void)events;
}

/* As the disk's turn does at its end. */
static void turn(void)
{
    ev_run(t.loop, EVRUN_ONCE);
    if (t.target)
        target_deliver(t.target);
}

#define WAIT(condition)                                                                   \
    do {                                                                                  \
        double end = now_s() + WAIT_S;                                                    \
        while (!(condition)) {                                                            \
            if (now_s() > end)                                                            \
                fail_msg("never: %s (%s; refused: %s)", #condition, t.reason, t.refused); \
            turn();                                                                       \
        }                                                                                 \
    } while (0)

/* Nothing that may not happen has happened, in a time in which it would have. */
static void rest_ms(int ms)
{
    double end = now_s() + ms / 1000.;

    while (now_s() < end)
        turn();
}

static int setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof t);
    for (struct server *server = A; server <= D; server++) {
        snprintf(server->socket, sizeof server->socket, "%s/%c.sock", directory, letter(server));
        snprintf(server->image, sizeof server->image, "%s/%c.img", directory, letter(server));
        snprintf(server->control, sizeof server->control, "%s/%c.say", directory, letter(server));
        snprintf(server->uri, sizeof server->uri, "nbd+unix:///?socket=%s", server->socket);
        unlink(server->image);
        unlink(server->control);
    }
    t.config = (struct config_disk){.name = (char *)(uintptr_t) "d",
                                    .export_uris = {A->uri},
                                    .export_count = 1,
                                    .connections = 1,
                                    .command_timeout_ms = 60000,
                                    .fence_time_ms = SHORT_MS,
                                    .worker = -1};
    t.spec = (struct disklink_spec){
        .name = "1/xvda (d)", .config = &t.config, .connect_timeout_ms = LIMIT_CONNECT_MS};
    t.loop = ev_loop_new(EVFLAG_AUTO);
    ev_timer_init(&t.tick, on_tick, .005, .005);
    ev_timer_start(t.loop, &t.tick);
    return mailbox_create(t.loop, &t.mailbox);
}

static int teardown(void **state)
{
    (void)state;
    for (struct server *server = A; server <= D; server++)
        if (server->pid > 0)
            kill(server->pid, SIGCONT);
    target_close(t.target);
    assert_int_equal(t.out, 0);
    for (struct server *server = A; server <= D; server++)
        server_stop(server);
    names_end();
    resolve_drain();
    fence_drain();
    mailbox_destroy(t.mailbox);
    ev_timer_stop(t.loop, &t.tick);
    ev_loop_destroy(t.loop);
    return 0;
}

static void paths(unsigned count)
{
    t.config.export_count = count;
    t.config.coherent = count > 1;
    for (unsigned i = 0; i < count; i++)
        t.config.export_uris[i] = servers[i].uri;
}

static void open_target(void)
{
    assert_int_equal(target_open(t.loop, t.mailbox, &t.spec, &t.past, &handler, NULL, &t.target),
                     0);
}

static void close_target(void)
{
    target_close(t.target);
    t.target = NULL;
    t.up = false;
}

static void open_up(void)
{
    open_target();
    WAIT(t.up || t.failures);
    assert_true(t.up);
}

/* Between the disk's states: what it would have been told in an earlier life of the daemon. */
static void told_before(void)
{
    t.past = (struct target_past){
        .told = true,
        .properties = {.capacity_sectors = SECTORS, .flush = true},
        .flush = TARGET_FLUSH_COMMAND,
    };
}

static struct command *begin(void)
{
    struct command *command = &t.commands[t.count++];

    assert_true(t.count <= COMMANDS);
    return command;
}

static struct command *begun(struct command *command, int err)
{
    command->begun = err == 0;
    command->over = err != 0;
    command->error = err;
    t.out += err == 0;
    return command;
}

static struct command *do_read(uint64_t at_bytes)
{
    struct command *command = begin();

    return begun(command, target_read(t.target, &command->cmd, command->bytes, 512, at_bytes));
}

static struct command *do_write_of(uint32_t length_bytes, uint64_t at_bytes)
{
    struct command *command = begin();

    memset(command->bytes, 'W', sizeof command->bytes);
    return begun(command,
                 target_write(t.target, &command->cmd, command->bytes, length_bytes, at_bytes));
}

static struct command *do_write(uint64_t at_bytes)
{
    return do_write_of(512, at_bytes);
}

/* Who serves? */
static char who(void)
{
    struct command *command = do_read(0);

    WAIT(command->over);
    return command->error ? '!' : command->bytes[0];
}

/* -- paths ------------------------------------------------------------------------------------ */

static void the_path_behind_the_lost_one_is_tried_first(void **state)
{
    (void)state;
    paths(3);
    EVIL(A), EVIL(B), EVIL(C);
    open_up();
    assert_int_equal(who(), 'a');
    server_stop(A);
    WAIT(t.readies == 2);
    assert_int_equal(t.losses, 1);
    assert_int_equal(who(), 'b');
    EVIL(A); /* the preferred one: nobody goes there while this one is up */
    rest_ms(100);
    assert_int_equal(who(), 'b');
    server_stop(B);
    WAIT(t.readies == 3);
    assert_int_equal(who(), 'c');
    assert_int_equal(t.refusals, 0); /* each was there at the first try */
    server_stop(C);
    WAIT(t.readies == 4);
    assert_int_equal(who(), 'a');
    WAIT(t.parked == 0); /* all were let go of */
}

static void a_path_that_does_not_fit_is_passed_over(void **state)
{
    (void)state;
    paths(4);
    EVIL(A);
    START(B, "evil", "--size", "1048064"); /* a sector less */
    EVIL(C, "--fault", "readonly");
    EVIL(D, "--fault", "no-flush");
    open_up();
    server_stop(A);
    WAIT(t.refusals >= 4);
    assert_non_null(strstr(t.refused, "smaller\nthe export has become read-only"));
    assert_non_null(strstr(t.refused, "no longer\nthe server does not flush as it did"));
    assert_non_null(strstr(t.refused, "cannot connect")); /* and then the first again */
    assert_int_equal(t.readies, 1);
    server_stop(B);
    EVIL(B, "--fault", "trim");
    WAIT(strstr(t.refused, "the server trims no longer, or does now"));
    server_stop(C);
    make_image(C, IMAGE_BYTES * 2);
    START(C, "evil", "--size", "2097152"); /* larger is all right */
    WAIT(t.up);
    assert_int_equal(who(), 'c');
    assert_int_equal(t.capacity_sectors, 2 * SECTORS);
    assert_int_equal(t.failures, 0);
    /* From now on it is what the guest was told. */
    EVIL(A);
    server_stop(C);
    t.refused[0] = '\0';
    WAIT(strstr(t.refused, "smaller"));
    assert_false(t.up);
}

static void the_first_session_is_any_path_or_fails_once(void **state)
{
    (void)state;
    paths(3);
    t.spec.connect_timeout_ms = AMPLE_MS;
    EVIL(B, "--fault", "silent");
    EVIL(C);
    open_up();
    assert_int_equal(who(), 'c');
    close_target();
    server_stop(C);
    open_target();
    WAIT(t.failures > 0);
    EVIL(A);
    rest_ms(500); /* it has given up, and says nothing more */
    assert_int_equal(t.failures, 1);
    assert_int_equal(t.readies, 1);
    assert_int_equal(t.refusals, 0);
}

/* A guest waits: it is tried again for ever. */
static void who_was_told_once_never_fails(void **state)
{
    (void)state;
    paths(2);
    told_before();
    open_target();
    WAIT(t.refusals >= 6);
    assert_int_equal(t.failures, 0);
    EVIL(B);
    WAIT(t.up);
    assert_int_equal(who(), 'b');
}

static char named[] = NAMED;

/* Bug: it was connect-timeout for the handshake, but not for finding a name's address. */
static void a_name_that_is_not_found_takes_no_longer_than_a_connect_may(void **state)
{
    (void)state;
    names_hang(0);
    paths(2);
    t.config.export_uris[0] = named;
    t.spec.connect_timeout_ms = AMPLE_MS;
    told_before();
    EVIL(B);
    open_up();
    assert_int_equal(who(), 'b');
    assert_int_equal(names_waiting(), 1);
    assert_string_equal(t.refused, "cannot connect to " NAMED
                                   ": its server's name was not found within 2000 ms\n");
}

/* ... of a further connection: the session is narrower by those that are not there. */
static void nor_does_one_that_is_not_found_again(void **state)
{
    (void)state;
    t.config.export_uris[0] = named;
    t.config.connections = 3;
    t.spec.connect_timeout_ms = AMPLE_MS;
    EVIL(A, "--fault", "multi-conn");
    for (unsigned found = 1; found <= 3; found++) {
        names_hang(found);
        open_up();
        assert_int_equal(who(), 'a');
        assert_int_equal(target_connections(t.target), found);
        assert_int_equal(names_waiting(), 3 - found);
        close_target();
        names_end();
    }
}

static void on_never(void *arg)
{
    (void)arg;
    fail();
}

static struct resolve *jobs[LIMIT_CONNECT_THREADS];

static void all_helpers_look_for_names(void)
{
    char *uri = t.config.export_uris[0];

    names_hang(0);
    t.config.export_uris[0] = named;
    for (unsigned i = 0; i < LIMIT_CONNECT_THREADS; i++)
        assert_int_equal(
            resolve_start(&t.config, 0, LIMIT_CONNECT_MS, t.mailbox, on_never, NULL, &jobs[i]), 0);
    t.config.export_uris[0] = uri;
    while (names_waiting() < LIMIT_CONNECT_THREADS)
        pause_ms(5);
}

static void all_helpers_are_free(void)
{
    for (unsigned i = 0; i < LIMIT_CONNECT_THREADS; i++)
        resolve_cancel(jobs[i]);
    names_end();
}

static void a_name_is_what_is_no_address(void **state)
{
    static const struct {
        const char *uri;
        bool by_name;
    } cases[] = {
        {"nbd://server/", true},
        {"nbds://server:10809/export", true},
        {"nbd://server", true},
        {"nbd://10.0.0.1/", false},
        {"nbd://10.0.0.1:10809/1.2.3.4", false},
        {"nbd://10.0.0.1.example/", true},
        {"nbds://[fe80::1]:10809/export", false},
        {"nbd+unix:///export?socket=/run/nbd.sock", false},
        {"nbds+unix:///?socket=/run/nbd.sock", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (resolve_by_name(cases[i].uri) != cases[i].by_name)
            fail_msg("%s", cases[i].uri);
}

/* Bug: each try took another helper, and one disk all of them. */
static void nor_does_it_take_one_helper_after_the_other(void **state)
{
    (void)state;
    names_hang(0);
    t.config.export_uris[0] = named;
    t.spec.connect_timeout_ms = SHORT_MS / 2;
    told_before();
    open_target();
    WAIT(strstr(t.refused, "the server's name is still being looked for"));
    rest_ms(4 * SHORT_MS);
    assert_int_equal(names_waiting(), 2);
    target_close(t.target); /* a new life of the disk finds it so, and says so */
    t.past = (struct target_past){0};
    open_target();
    WAIT(t.failures == 1);
    assert_string_equal(t.reason, "the server's name is still being looked for");
    target_close(t.target);
    EVIL(A);
    names_end();
    names_hang(1);
    t.failures = 0;
    t.spec.connect_timeout_ms = LIMIT_CONNECT_MS; /* one name is found; its session must stand */
    told_before();
    open_up();
    assert_int_equal(who(), 'a');
}

/* Law 4: when no name is found any more, a server with an address is. Who waits for a helper keeps
 * his place, and is served in turn. */
static void disks_with_names_do_not_hold_up_others(void **state)
{
    double since;

    (void)state;
    all_helpers_look_for_names();
    EVIL(A);
    t.config.export_uris[0] = A->uri;
    open_up();
    assert_int_equal(who(), 'a');
    close_target();
    server_stop(A);
    EVIL(A, "--fault", "silent");
    t.spec.connect_timeout_ms = SHORT_MS;
    t.config.export_uris[0] = named;
    open_target();
    rest_ms(3 * SHORT_MS);
    assert_int_equal(t.failures, 0);
    since = now_s();
    names_hang(1);
    all_helpers_are_free();
    WAIT(t.failures == 1);
    /* Its time begins with its turn. */
    assert_non_null(strstr(t.reason, "does not answer the handshake"));
    assert_true(now_s() - since >= SHORT_MS * .9 / 1000);
}

/* ... nor the paths of one disk: not at first, nor when the one with an address was tried before.
 */
static void nor_do_names_hold_up_another_path(void **state)
{
    (void)state;
    all_helpers_look_for_names();
    paths(3);
    t.config.export_uris[0] = t.config.export_uris[1] = named;
    t.spec.connect_timeout_ms = AMPLE_MS;
    EVIL(C);
    open_up();
    assert_int_equal(who(), 'c');
    close_target();
    server_stop(C);
    all_helpers_are_free();

    EVIL(A);
    names_hang(1);
    paths(3);
    t.config.export_uris[1] = named;
    t.config.export_uris[0] = B->uri;
    open_up();
    assert_int_equal(who(), 'a');
    all_helpers_look_for_names();
    server_stop(A);
    WAIT(strstr(t.refused, "for want of threads"));
    assert_non_null(strstr(t.refused, "c.sock"));
    EVIL(C);
    WAIT(t.up);
    assert_int_equal(who(), 'c');
    all_helpers_are_free();
}

/* The pause before this session, after so many that did not last, and how many that makes with it.
 * A session may last, on a machine that has much else to do: then the pauses rightly begin anew. */
static unsigned lose_one(unsigned rounds)
{
    double meant_s = rounds > 0 ? LIMIT_RETRY_FIRST_MS / 1000. : 0, lost_at = t.lost_at;
    unsigned losses = t.losses;

    for (unsigned i = 1; i < rounds; i++)
        meant_s *= 2;
    WAIT(t.up);
    if (losses > 0) /* three quarters of it or more; the loop's time may be a little behind ours */
        assert_true(t.ready_at - lost_at >= meant_s / 2);
    (void)do_read(0);
    WAIT(t.losses == losses + 1);
    return t.lost_at - t.ready_at > LIMIT_LASTING_MS / 2000. ? 0 : rounds + 1;
}

/* Losses one after the other are not a busy loop. */
static void a_server_that_serves_nobody_is_left_alone_for_longer_and_longer(void **state)
{
    unsigned rounds = 0, most = 0;

    (void)state;
    EVIL(A, "--fault", "close");
    open_up();
    for (unsigned i = 0; i < 30 && rounds < 6; i++) {
        rounds = lose_one(rounds);
        most = rounds > most ? rounds : most;
    }
    assert_true(most >= 3);
}

/* -- several connections ----------------------------------------------------------------------- */

static unsigned fill(void)
{
    unsigned before = t.count;

    while (target_has_room(t.target, 0))
        (void)do_write((t.count % SECTORS) * 512ull);
    return t.count - before;
}

static void as_many_connections_as_are_wanted_and_allowed(void **state)
{
    (void)state;
    t.config.connections = 4;
    LATE(A);
    say(A, "hold");
    open_up();
    assert_true(target_has_room(t.target, 4 * LIMIT_COMMANDS_IN_FLIGHT - 1));
    assert_false(target_has_room(t.target, 4 * LIMIT_COMMANDS_IN_FLIGHT));
    assert_int_equal(fill(), 4 * LIMIT_COMMANDS_IN_FLIGHT);
    say(A, "release");
    WAIT(t.out == 0);
    for (unsigned i = 0; i < t.count; i++)
        assert_int_equal(t.commands[i].error, 0);
    server_stop(A);
    WAIT(t.losses == 1);
    LATE(A, "--single"); /* says nothing of it: one */
    WAIT(t.up);
    say(A, "hold");
    assert_int_equal(fill(), LIMIT_COMMANDS_IN_FLIGHT);
    say(A, "release");
    WAIT(t.out == 0);
}

static void the_loss_of_one_connection_is_the_loss_of_all(void **state)
{
    unsigned lost = 0;

    (void)state;
    t.config.connections = 3;
    EVIL(A, "--fault", "multi-conn", "--fault", "stall", "--fault", "close=4");
    open_up();
    for (int i = 0; i < 10; i++) /* the least busy one gets each: 4, 3, 3 */
        (void)do_write(512 * (uint64_t)i);
    WAIT(t.losses == 1);
    for (unsigned i = 0; i < t.count; i++)
        lost += t.commands[i].over && t.commands[i].error == -ENOTCONN;
    assert_int_equal(lost, 10);
    assert_int_equal(t.parked, t.bit);
    WAIT(t.readies == 2);
    WAIT(t.parked == 0);
    assert_int_equal(t.losses, 1);
}

/* -- commands that are too old ------------------------------------------------------------------
 */

static void another_session_stands_before_a_slow_one_is_left(void **state)
{
    struct command *command;

    (void)state;
    paths(2);
    t.config.command_timeout_ms = SHORT_MS;
    LATE(A);
    say(A, "hold");
    open_up();
    unlink(A->socket);
    command = do_write(0);
    rest_ms(4 * SHORT_MS);
    assert_false(command->over); /* there is no other, and it may still be done */
    assert_int_equal(t.losses, 0);
    LATE(B);
    WAIT(t.losses == 1);
    assert_non_null(strstr(t.reason, "was not answered for"));
    assert_int_equal(command->error, -ENOTCONN);
    assert_true(t.up); /* in the same breath */
    assert_int_equal(who(), 'b');
}

/* The other path is dead, but this one's server takes another connection. */
static void a_stuck_connection_is_left_for_another_to_the_same_server(void **state)
{
    (void)state;
    paths(2);
    t.config.command_timeout_ms = SHORT_MS;
    EVIL(A, "--fault", "stall=2");
    open_up();
    assert_int_equal(who(), 'a');
    (void)do_write(512);
    WAIT(t.losses == 1 && t.up);
    assert_int_equal(who(), 'a');
}

static void an_answer_in_the_meantime_ends_the_search(void **state)
{
    struct command *command;

    (void)state;
    paths(2);
    t.config.command_timeout_ms = SHORT_MS;
    LATE(A);
    EVIL(B, "--fault", "silent"); /* connecting to it takes time */
    say(A, "hold");
    open_up();
    command = do_write(512);
    rest_ms(2 * SHORT_MS);
    say(A, "release");
    WAIT(command->over);
    assert_int_equal(command->error, 0);
    rest_ms(SHORT_MS);
    assert_int_equal(t.losses, 0);
    assert_int_equal(who(), 'a');
}

/* It was answered, and the next session was not yet up. The tick of the deadline does not see this
 * one: it comes later. */
static void an_answer_before_the_next_session_is_up_keeps_this_one(void **state)
{
    struct command *command;

    (void)state;
    paths(2);
    t.config.command_timeout_ms = 2000; /* looked at every half second */
    t.spec.connect_timeout_ms = 10000;
    LATE(A), LATE(B);
    assert_true(process_stop(B->pid));
    say(A, "hold");
    open_up();
    command = do_write(512);
    rest_ms(2600);
    say(A, "release");
    WAIT(command->over);
    assert_int_equal(command->error, 0);
    kill(B->pid, SIGCONT);
    rest_ms(1000);
    assert_int_equal(t.losses, 0);
    assert_int_equal(who(), 'a');
}

/* A server that is slow, and not dead, is left ever more rarely; one that has answered for long is
 * as good as the first again. A command that takes its time gets it, however long it takes. */
static void the_patience_doubles_and_comes_back(void **state)
{
    static const char *const reasons[] = {"for 1 s", "for 2 s", "for 4 s"};
    double served_until;

    (void)state;
    t.config.command_timeout_ms = 1000;
    LATE(A);
    say(A, "hold");
    open_up();
    for (unsigned i = 0; i < 3; i++) {
        (void)do_write(512);
        WAIT(t.losses == i + 1 && t.up);
        assert_non_null(strstr(t.reason, reasons[i]));
    }
    say(A, "release");
    served_until = now_s() + 3.;
    for (; now_s() < served_until; rest_ms(20))
        assert_int_equal(who(), 'a');
    say(A, "hold");
    (void)do_write(512);
    WAIT(t.losses == 4);
    assert_non_null(strstr(t.reason, reasons[0]));
}

/* It was the session that hung, and not the command that takes its time, when the next one has
 * answered that: a second hang is left as soon as the first. Bug: by two servers of which one was
 * always stopped the patience grew beyond a guest's (recovery-full, late). Once in
 * LIMIT_PARDON_DEADLINES only: with as many hangs as these before that the patience does grow, or
 * no session before a slow server would last. */
static void who_answers_in_time_is_not_given_more(void **state)
{
    static const char *const reasons[] = {"for 1 s", "for 1 s", "for 2 s", "for 4 s", "for 1 s"};
    struct server *server = A;

    (void)state;
    paths(2);
    t.config.command_timeout_ms = 1000;
    LATE(A), LATE(B);
    open_up();
    for (unsigned i = 0; i < 5; i++, server = server == A ? B : A) {
        say(server, "hold");
        (void)do_write(512ull * i);
        WAIT(t.losses == i + 1 && t.up);
        assert_non_null(strstr(t.reason, reasons[i]));
        if (i == 3)
            rest_ms(2000); /* eight deadlines since the first pardon, and not just about eight */
        (void)do_write(512ull * i); /* as a disk would, or at least beside it */
        WAIT(t.out == 0);
        say(server, "release");
    }
}

/* ... nor for another command, at the same place and shorter: what is long may yet be slow. */
static void a_shorter_command_clears_no_longer_one(void **state)
{
    (void)state;
    paths(2);
    t.config.command_timeout_ms = 1000;
    LATE(A), LATE(B);
    open_up();
    say(A, "hold");
    (void)do_write_of(1024, 0);
    WAIT(t.losses == 1 && t.up);
    (void)do_write_of(512, 0);
    WAIT(t.out == 0);
    say(B, "hold");
    (void)do_write_of(512, 0);
    WAIT(t.losses == 2 && t.up);
    assert_non_null(strstr(t.reason, "for 2 s"));
}

/* -- when it is over -----------------------------------------------------------------------------
 */

static void hold_a_write_at_one_that_drains(void)
{
    t.config.drains = true;
    t.config.fence_time_ms = LIMIT_FENCE_TIME_MS;
    LATE(A, "--drain");
    say(A, "hold");
    open_up();
    (void)do_write(0);
    rest_ms(50);
}

static void is_over_when_it_has_done_it(void)
{
    rest_ms(2 * SHORT_MS);
    assert_int_equal(t.parked, t.bit); /* the server has it yet */
    say(A, "release");
    WAIT(t.parked == 0);
    assert_int_equal(who(), 'W'); /* and had done it by then */
}

static void with_drains_the_end_of_the_connection_is_the_end(void **state)
{
    (void)state;
    hold_a_write_at_one_that_drains();
    target_give_up_session(t.target, "enough of it");
    WAIT(t.readies == 2);
    assert_string_equal(t.reason, "enough of it");
    is_over_when_it_has_done_it();
}

/* ... also when there is no descriptor left. Bug: then it was this socket that was shut down, and
 * the server's end of it was taken for an end of what it does. */
static void without_a_descriptor_the_end_is_still_the_servers(void **state)
{
    struct rlimit limit, none;
    int lowest;

    (void)state;
    hold_a_write_at_one_that_drains();
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    lowest = dup(0);
    close(lowest);
    none = limit;
    none.rlim_cur = (rlim_t)lowest;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    target_give_up_session(t.target, "enough of it");
    target_deliver(t.target);
    assert_int_equal(t.losses, 1);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    WAIT(t.readies == 2);
    is_over_when_it_has_done_it();
}

static void without_it_time_is_counted_from_there(void **state)
{
    double lost_at;

    (void)state;
    LATE(A); /* closes at once, and may go on */
    say(A, "hold");
    open_up();
    (void)do_write(0);
    rest_ms(50);
    target_give_up_session(t.target, "enough of it");
    WAIT(t.losses == 1);
    lost_at = t.lost_at;
    WAIT(t.parked == 0);
    assert_true(t.fenced_at - lost_at >= SHORT_MS / 1000.);
}

/* Stopped, or out of reach: it may come back and write. */
static void without_an_end_it_is_never_over(void **state)
{
    (void)state;
    paths(2);
    LATE(A), LATE(B);
    open_up();
    assert_int_equal(who(), 'a');
    assert_true(process_stop(A->pid));
    (void)do_write(0);
    target_give_up_session(t.target, "stopped");
    WAIT(t.readies == 2);
    assert_int_equal(who(), 'b');
    rest_ms(4 * SHORT_MS);
    assert_int_equal(t.parked, t.bit);
    kill(A->pid, SIGCONT);
    WAIT(t.parked == 0);
}

static char *fence_words[2];

static void fence_by(const char *body)
{
    fence_words[0] = (char *)(uintptr_t)write_script(body);
    t.config.fence = fence_words;
}

static void a_fence_program_ends_it(void **state)
{
    (void)state;
    paths(2);
    fence_by("echo \"$BLKGATE_EXPORT\" >fenced; exit 0");
    LATE(A), LATE(B);
    open_up();
    assert_int_equal(who(), 'a');
    assert_true(process_stop(A->pid));
    (void)do_write(0);
    target_give_up_session(t.target, "stopped");
    WAIT(t.losses == 1);
    WAIT(t.parked == 0);
    assert_non_null(strstr(file_text("fenced"), A->uri)); /* who was lost, not who is next */
}

static void one_that_fails_ends_nothing(void **state)
{
    (void)state;
    paths(2);
    fence_by("echo no >>failed; exit 1");
    LATE(A), LATE(B);
    open_up();
    assert_true(process_stop(A->pid));
    (void)do_write(0);
    target_give_up_session(t.target, "stopped");
    WAIT(t.losses == 1);
    WAIT(*file_text("failed"));
    rest_ms(2 * SHORT_MS);
    assert_int_equal(t.parked, t.bit);
}

static void what_a_crash_left_is_over_in_time(void **state)
{
    double start = now_s();

    (void)state;
    EVIL(A);
    told_before();
    t.past.crashed = true;
    t.parked = 1;
    open_up();
    WAIT(t.parked == 0);
    assert_true(t.fenced_at - start >= SHORT_MS / 1000.);
}

/* With `drains`, too: nobody saw the end of those connections. */
static void what_a_crash_left_does_not_drain(void **state)
{
    (void)state;
    EVIL(A);
    told_before();
    t.config.drains = true;
    t.config.fence_time_ms = LIMIT_FENCE_TIME_MS;
    t.past.crashed = true;
    t.parked = 1;
    open_up();
    rest_ms(SHORT_MS);
    assert_int_equal(t.parked, 1);
}

static void lose_with_a_write_at(uint64_t at_bytes)
{
    unsigned losses = t.losses;

    (void)do_write(at_bytes);
    rest_ms(LIMIT_LASTING_MS + 50); /* or the next one waits for longer every time */
    target_give_up_session(t.target, "again");
    WAIT(t.losses == losses + 1);
}

static struct lost_session {
    struct parked parked;
    struct parked_place place;
    int peers[3];
    bool over;
} left;

static void on_over(void *arg, struct parked *parked)
{
    struct lost_session *lost = arg;

    assert_ptr_equal(parked, &lost->parked);
    assert_false(lost->over || parked->used);
    lost->over = true;
    t.fenced_at = now_s();
}

static void park(const int *sockets, unsigned count)
{
    left.place = (struct parked_place){t.loop, t.mailbox, &t.spec, on_over, &left};
    left.over = false;
    parked_start(&left.parked, &left.place, 0, sockets, count);
}

/* Nobody waits for the replies that come yet, but a server that cannot get rid of them ends never.
 */
static void it_is_over_when_the_last_socket_is_at_its_end(void **state)
{
    static char replies[1 << 20];
    int ours[3], pair[2];

    (void)state;
    t.config.drains = true;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair),
                         0);
        ours[i] = pair[0];
        left.peers[i] = pair[1];
    }
    park(ours, 3);
    assert_int_equal(recv(left.peers[0], replies, 1, 0), 0); /* half-closed: no more will come */
    close(left.peers[0]);
    close(left.peers[1]);
    rest_ms(SHORT_MS / 2);
    assert_false(left.over);
    for (size_t sent = 0; sent < sizeof replies; turn()) {
        ssize_t some = send(left.peers[2], replies, sizeof replies - sent, 0);

        sent += some > 0 ? (size_t)some : 0;
    }
    rest_ms(SHORT_MS / 2);
    assert_false(left.over);
    close(left.peers[2]);
    WAIT(left.over);
    rest_ms(50);
    parked_drop(&left.parked); /* of no use any more, and fine */
}

static void tcp_pair(int *ret_ours, int *ret_peer)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *ret_ours = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, length), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &length), 0);
    assert_int_equal(connect(*ret_ours, (struct sockaddr *)&address, length), 0);
    *ret_peer = accept(listener, NULL, NULL);
    assert_true(*ret_peer >= 0);
    close(listener);
}

static void reset_by(int peer)
{
    const struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    setsockopt(peer, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(peer);
}

/* Whoever it was that reset it, the server may have the socket and the commands yet. */
static void a_reset_is_no_good_end(void **state)
{
    int ours, peer;
    double start;

    (void)state;
    t.config.drains = true;
    tcp_pair(&ours, &peer);
    park(&ours, 1);
    start = now_s();
    reset_by(peer);
    WAIT(left.over);
    assert_true(t.fenced_at - start >= SHORT_MS / 1000.);
}

/* Bug: as a rule it is libnbd that reads the error, and then the socket reads as one that the
 * server has closed. */
static void nor_is_one_that_was_read_before(void **state)
{
    int ours, peer;
    double start;
    char byte;

    (void)state;
    t.config.drains = true;
    tcp_pair(&ours, &peer);
    start = now_s();
    reset_by(peer);
    assert_int_equal(recv(ours, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
    assert_int_equal(recv(ours, &byte, 1, 0), 0);
    park(&ours, 1);
    WAIT(left.over);
    assert_true(t.fenced_at - start >= SHORT_MS / 1000.);
}

/* What the server itself has closed before we parked it is. */
static void one_that_was_closed_before_is(void **state)
{
    int ours, peer;
    char byte;

    (void)state;
    t.config.drains = true;
    t.config.fence_time_ms = LIMIT_FENCE_TIME_MS;
    tcp_pair(&ours, &peer);
    close(peer);
    assert_int_equal(recv(ours, &byte, 1, 0), 0);
    park(&ours, 1);
    WAIT(left.over);
}

static unsigned lines_of(const char *text)
{
    unsigned lines = 0;

    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

/* Bug: run again, it was told only of those connections that had not ended; and its success counted
 * for all. */
static void who_fences_again_is_told_of_all_connections(void **state)
{
    int ours[2], peers[2];
    char first[256];

    (void)state;
    fence_by("echo \"$BLKGATE_ENDPOINT\" >>told; exit 1");
    t.config.fence_time_ms = LIMIT_FENCE_TIME_MS;
    for (int i = 0; i < 2; i++)
        tcp_pair(&ours[i], &peers[i]);
    park(ours, 2);
    WAIT(lines_of(file_text("told")) == 1);
    snprintf(first, sizeof first, "%s", file_text("told"));
    assert_non_null(strchr(first, ' '));
    close(peers[0]);
    WAIT(lines_of(file_text("told")) == 2);
    assert_string_equal(file_text("told") + strlen(first), first);
    close(peers[1]);
    parked_drop(&left.parked);
}

/* A session begins only if there is a place for what it may leave; beside one that is up, and needs
 * one too, only if there are two. */
static void too_many_that_are_not_over(void **state)
{
    (void)state;
    t.config.drains = true;
    t.config.command_timeout_ms = 4 * LIMIT_LASTING_MS;
    LATE(A, "--drain");
    say(A, "hold");
    open_up();
    for (unsigned i = 1; i < LIMIT_PARKED; i++) {
        lose_with_a_write_at(512ull * i);
        WAIT(t.up);
    }
    (void)do_write(0);
    WAIT(strstr(t.refused, "too many lost connections")); /* it was too old */
    assert_true(t.up);
    t.refused[0] = '\0';
    target_give_up_session(t.target, "the last");
    WAIT(strstr(t.refused, "too many lost connections"));
    assert_false(t.up);
    assert_int_equal(t.parked, (1u << LIMIT_PARKED) - 1);
    say(A, "release");
    WAIT(t.up && t.parked == 0);
    assert_int_equal(who(), 'W');
}

/* -- in good order ------------------------------------------------------------------------------
 */

static void a_renewed_session_is_the_same_servers(void **state)
{
    (void)state;
    paths(2);
    LATE(A), LATE(B);
    open_up();
    server_stop(A);
    WAIT(t.readies == 2);
    assert_int_equal(who(), 'b');
    LATE(A);
    WAIT(t.parked == 0);
    t.up = false; /* no loss is told: nothing is in flight */
    target_renew(t.target);
    WAIT(t.readies == 3);
    assert_int_equal(who(), 'b');
    assert_int_equal(t.losses, 1);
    assert_int_equal(t.parked, 0);
}

/* Attempts beside it have gone through the paths: it is still that one that has grown. */
static void a_renewal_after_a_search(void **state)
{
    struct command *command;

    (void)state;
    paths(4);
    t.config.command_timeout_ms = SHORT_MS;
    LATE(A);
    say(A, "hold");
    open_up();
    command = do_write(512);
    WAIT(t.refusals >= 1); /* B is not there, C would be next */
    say(A, "release");
    WAIT(command->over);
    LATE(B), LATE(C);
    t.up = false;
    target_renew(t.target);
    WAIT(t.readies == 2);
    assert_int_equal(who(), 'a');
}

static void a_probe_sees_what_has_grown(void **state)
{
    (void)state;
    LATE(A);
    open_up();
    assert_int_equal(target_probe(t.target), 0);
    assert_int_equal(target_probe(t.target), -EALREADY);
    WAIT(t.probes == 1);
    assert_int_equal(t.capacity_sectors, SECTORS);
    server_stop(A);
    WAIT(t.losses == 1);
    make_image(A, 2 * IMAGE_BYTES);
    LATE(A);
    WAIT(t.up);
    assert_int_equal(t.capacity_sectors, 2 * SECTORS);
    assert_int_equal(target_probe(t.target), 0);
    target_probe_drop(t.target);
    rest_ms(200);
    assert_int_equal(t.probes, 1);
}

static void a_quit_leaves_what_was_in_flight_and_nothing_else(void **state)
{
    uint32_t bit;

    (void)state;
    LATE(A);
    open_up();
    assert_int_equal(target_quit(t.target), 0); /* nothing was */
    close_target();
    say(A, "hold");
    open_up();
    (void)do_write(0);
    rest_ms(20);
    bit = target_quit(t.target);
    assert_true(bit != 0);
    assert_int_equal(t.out, 0);
    t.parked = bit;
    WAIT(t.parked == 0);
    assert_int_equal(t.readies, 2); /* and nobody connects any more */
    assert_int_equal(t.losses, 0);
}

/* At any moment: with attempts, parked sockets, a hook, commands, and a timer under way. */
static void a_close_at_any_time(void **state)
{
    (void)state;
    paths(2);
    fence_by("sleep 60");
    t.config.command_timeout_ms = SHORT_MS / 4;
    for (int i = 0; i < 15; i++) {
        struct command *command;

        LATE(A), LATE(B);
        say(A, "hold");
        open_up();
        command = do_write(0);
        if (i % 3 == 0)
            target_give_up_session(t.target, "given up");
        rest_ms(i * 8);
        if (i % 3 == 1)
            server_stop(A);
        rest_ms(i * 4);
        target_close(t.target);
        t.target = NULL;
        assert_true(command->over);
        t.up = false;
        t.parked = 0;
        t.readies = t.losses = 0;
        rest_ms(10);
        assert_int_equal(t.readies + t.losses, 0);
        server_stop(A);
        server_stop(B);
    }
}

int main(int argc, char **argv)
{
#define SESSION(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        SESSION(the_path_behind_the_lost_one_is_tried_first),
        SESSION(a_path_that_does_not_fit_is_passed_over),
        SESSION(the_first_session_is_any_path_or_fails_once),
        SESSION(who_was_told_once_never_fails),
        SESSION(a_name_that_is_not_found_takes_no_longer_than_a_connect_may),
        SESSION(nor_does_one_that_is_not_found_again),
        SESSION(a_name_is_what_is_no_address),
        SESSION(nor_does_it_take_one_helper_after_the_other),
        SESSION(disks_with_names_do_not_hold_up_others),
        SESSION(nor_do_names_hold_up_another_path),
        SESSION(a_server_that_serves_nobody_is_left_alone_for_longer_and_longer),
        SESSION(as_many_connections_as_are_wanted_and_allowed),
        SESSION(the_loss_of_one_connection_is_the_loss_of_all),
        SESSION(another_session_stands_before_a_slow_one_is_left),
        SESSION(a_stuck_connection_is_left_for_another_to_the_same_server),
        SESSION(an_answer_in_the_meantime_ends_the_search),
        SESSION(an_answer_before_the_next_session_is_up_keeps_this_one),
        SESSION(the_patience_doubles_and_comes_back),
        SESSION(who_answers_in_time_is_not_given_more),
        SESSION(a_shorter_command_clears_no_longer_one),
        SESSION(with_drains_the_end_of_the_connection_is_the_end),
        SESSION(without_a_descriptor_the_end_is_still_the_servers),
        SESSION(without_it_time_is_counted_from_there),
        SESSION(without_an_end_it_is_never_over),
        SESSION(a_fence_program_ends_it),
        SESSION(one_that_fails_ends_nothing),
        SESSION(what_a_crash_left_is_over_in_time),
        SESSION(what_a_crash_left_does_not_drain),
        SESSION(it_is_over_when_the_last_socket_is_at_its_end),
        SESSION(a_reset_is_no_good_end),
        SESSION(nor_is_one_that_was_read_before),
        SESSION(one_that_was_closed_before_is),
        SESSION(who_fences_again_is_told_of_all_connections),
        SESSION(too_many_that_are_not_over),
        SESSION(a_renewed_session_is_the_same_servers),
        SESSION(a_renewal_after_a_search),
        SESSION(a_probe_sees_what_has_grown),
        SESSION(a_quit_leaves_what_was_in_flight_and_nothing_else),
        SESSION(a_close_at_any_time),
    };

    signal(SIGPIPE, SIG_IGN);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
