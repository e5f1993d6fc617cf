/*
 * late: an NBD server that is correct, and as late as the protocol allows. No client can stop a
 * command that a server has received: here it is executed, however long ago its connection ended.
 * One that breaks the protocol: evil.c.
 *
 *      late --unix PATH | --tcp ADDRESS:PORT  [--file PATH] [--size BYTES] ...
 *
 * Fixed newstyle, any export name, many clients over the same bytes, which need no more than one
 * flush (CAN_MULTI_CONN); READ, WRITE, FLUSH, TRIM (zeroes), WRITE_ZEROES, FUA.
 *
 *      --file PATH         the durable state (store.h); without: memory
 *      --size BYTES        of the export, where it is not the file's
 *      --volatile          a cache: answered writes are lost by SIGKILL unless flushed
 *      --read-only
 *      --structured        structured replies to clients that ask
 *      --single            says nothing of CAN_MULTI_CONN
 *      --delay-ms MIN-MAX  executes writes, trims and zeroes so much later (random, each its own)
 *      --late-percent P    only so many of them (100)
 *      --delay-all         reads and flushes too
 *      --max-late-after-close MS   no command is executed later than this after its connection
 *      --drain             a connection that the client ends is answered to the last command, and
 *                          then closed, as by nbdkit; without, closed at once, as by qemu-nbd
 *      --drop-ms MIN-MAX   ends each connection after so long, of its own accord
 *      --seed N            of what is random
 *      --log PATH          appends a line when a command is over, see journal()
 *      --control PATH      a file that is read whenever a command arrives (replace it by rename):
 *              hold        writes, trims and zeroes that arrive now wait for ...
 *              release     ... this. Those held stay held while the file has neither word
 *              read=ERROR write=ERROR flush=ERROR all=ERROR
 *                          such commands fail, with an error's name, and do nothing else; write
 *                          is trims and zeroes too
 *
 * SIGUSR1 ends all connections (what they have sent is still read and executed), SIGTERM executes
 * what waits, flushes and exits, SIGKILL is a crash. It ends with its parent.
 *
 * A connection has a reader and a sender thread; one executor has the bytes. A command is the
 * reader's, then pending (sorted by when it is due), the executor's, then in the sender's list.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "store.h"
#include "wire.h"

#define HELD INT64_MAX

enum {
    CMD_DROP = 0x100, /* our own: ends its connection when it is due */
    NBD_ESHUTDOWN = 108,
    HELD_LOOK_MS = 10,             /* how often --control is read for "release" */
    PENDING_BYTES_MAX = 256 << 20, /* readers wait beyond that */
};

struct conn {
    struct conn *next;
    int fd;
    unsigned id, commands; /* commands: received and not over */
    bool structured;
    bool mute;       /* nothing can be sent, or may */
    int64_t gone_us; /* when its reader saw the end; 0: not yet */
    struct command *replies, **replies_end;
    pthread_cond_t wake; /* of the sender */
};

struct command {
    struct command *next;
    struct conn *conn;
    uint16_t type, flags;
    uint64_t cookie; /* as it came */
    uint64_t offset, order;
    uint32_t length, error;
    int64_t received_us, due_us, executed_us, answered_us;
    uint8_t *data;
};

/* What --control says. Indices: enum wire_command. */
struct orders {
    bool hold, release;
    uint32_t error[CMD_WRITE_ZEROES + 1];
};

static struct {
    const char *control;
    FILE *log;
    int64_t delay_min_us, delay_max_us, after_close_max_us, drop_min_us, drop_max_us;
    unsigned late_percent;
    bool delay_all, drain, can_structured, read_only, single;
} options = {.late_percent = 100, .after_close_max_us = -1};

static struct store *store;

/* All of this under the lock. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t executor_wake, room;
static struct conn *conns;
static struct command *pending;
static uint64_t pending_bytes, nr_held, random_state = 1;
static bool stopping;

static int64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void die(const char *what)
{
    fprintf(stderr, "late: unable to %s: %s\n", what, strerror(errno));
    exit(111);
}

static int64_t random_between(int64_t min, int64_t max)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return min + (int64_t)(random_state % (uint64_t)(max - min + 1));
}

static uint64_t payload_bytes(const struct command *command)
{
    return command->type == CMD_READ || command->type == CMD_WRITE ? command->length : 0;
}

static bool changes_data(uint16_t type)
{
    return type == CMD_WRITE || type == CMD_TRIM || type == CMD_WRITE_ZEROES;
}

/* -- what is told while it runs -------------------------------------------------------------- */
static uint32_t error_number(const char *name)
{
    static const struct {
        const char *name;
        uint32_t number;
    } errors[] = {{"EPERM", 1},
                  {"EIO", 5},
                  {"ENOMEM", 12},
                  {"EINVAL", 22},
                  {"ENOSPC", 28},
                  {"EOVERFLOW", 75},
                  {"ENOTSUP", 95},
                  {"ESHUTDOWN", NBD_ESHUTDOWN},
                  {"ETIMEDOUT", 110 /* not of the protocol */}};

    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        if (strcmp(name, errors[i].name) == 0)
            return errors[i].number;
    }
    fprintf(stderr, "late: no such error: %s\n", name);
    exit(100);
}

static void order_error(struct orders *orders, const char *which, uint32_t error)
{
    bool all = strcmp(which, "all") == 0;

    for (uint16_t type = 0; type <= CMD_WRITE_ZEROES; type++) {
        if (all || (changes_data(type) && strcmp(which, "write") == 0) ||
            (type == CMD_READ && strcmp(which, "read") == 0) ||
            (type == CMD_FLUSH && strcmp(which, "flush") == 0))
            orders->error[type] = error;
    }
}

static struct orders control_read(void)
{
    struct orders orders = {0};
    FILE *file = options.control ? fopen(options.control, "re") : NULL;
    char word[64], *equals;

    while (file && fscanf(file, "%63s", word) == 1) {
        equals = strchr(word, '=');
        if (strcmp(word, "hold") == 0) {
            orders.hold = true;
        } else if (strcmp(word, "release") == 0) {
            orders.release = true;
        } else if (equals) {
            *equals = '\0';
            order_error(&orders, word, error_number(equals + 1));
        } else {
            fprintf(stderr, "late: %s: what is \"%s\"?\n", options.control, word);
            exit(100);
        }
    }
    if (file)
        fclose(file);
    return orders;
}

/* -- the journal ----------------------------------------------------------------------------- */
static const char *op_name(uint16_t type)
{
    switch (type) {
    case CMD_READ: return "read";
    case CMD_WRITE: return "write";
    case CMD_FLUSH: return "flush";
    case CMD_TRIM: return "trim";
    case CMD_WRITE_ZEROES: return "zero";
    default: return "unknown";
    }
}

static uint64_t checksum(const struct command *command) /* FNV-1a */
{
    uint64_t sum = 0xcbf29ce484222325u;

    for (uint32_t i = 0; command->type == CMD_WRITE && i < command->length; i++)
        sum = (sum ^ command->data[i]) * 0x100000001b3u;
    return sum;
}

/*
 * One line, written by one write(2), when a command is over:
 *      order=N conn=N op=NAME fua=0|1 offset=BYTES length=BYTES error=N
 *          received=US executed=US answered=US|never after_close=US|- data=FNV1A
 * order: of execution. Times are of CLOCK_MONOTONIC; after_close is how long after the end of its
 * connection it was executed. What a crash left undone has no line.
 */
static void journal(const struct command *command)
{
    char answered[24] = "never", after_close[24] = "-";
    int64_t gone_us = command->conn->gone_us;

    if (!options.log)
        return;
    if (command->answered_us)
        snprintf(answered, sizeof answered, "%" PRId64, command->answered_us);
    if (gone_us && command->executed_us > gone_us)
        snprintf(after_close, sizeof after_close, "%" PRId64, command->executed_us - gone_us);
    fprintf(options.log,
            "order=%" PRIu64 " conn=%u op=%s fua=%d offset=%" PRIu64 " length=%" PRIu32
            " error=%" PRIu32 " received=%" PRId64 " executed=%" PRId64
            " answered=%s after_close=%s data=%016" PRIx64 "\n",
            command->order, command->conn->id, op_name(command->type),
            command->flags & CMD_FLAG_FUA, command->offset, command->length, command->error,
            command->received_us, command->executed_us, answered, after_close, checksum(command));
}

/* -- pending commands, under the lock --------------------------------------------------------- */
static void pend(struct command *command)
{
    struct command **at = &pending;

    while (*at && (*at)->due_us <= command->due_us)
        at = &(*at)->next;
    command->next = *at;
    *at = command;
    if (pending == command)
        pthread_cond_signal(&executor_wake);
}

/* Makes all of a connection (NULL: all that are held) due at due_us, if that is earlier. */
static void hasten(const struct conn *conn, int64_t due_us)
{
    struct command **at = &pending, *found = NULL, **found_end = &found, *command;

    while ((command = *at)) {
        if (conn ? command->conn != conn || command->due_us <= due_us : command->due_us != HELD) {
            at = &command->next;
            continue;
        }
        *at = command->next;
        nr_held -= command->due_us == HELD;
        command->due_us = due_us;
        command->next = NULL;
        *found_end = command;
        found_end = &command->next;
    }
    while ((command = found)) {
        found = command->next;
        pend(command);
    }
}

static void drop_forget(struct conn *conn)
{
    struct command **at = &pending, *command;

    while ((command = *at)) {
        if (command->conn == conn && command->type == CMD_DROP) {
            *at = command->next;
            free(command);
        } else {
            at = &command->next;
        }
    }
}

static void conn_drop(struct conn *conn)
{
    conn->mute = true;
    shutdown(conn->fd, SHUT_RDWR); /* what is queued is still read */
}

/* -- execution -------------------------------------------------------------------------------- */
static int execute(struct command *command)
{
    bool fua = command->flags & CMD_FLAG_FUA;
    uint64_t size = store_size_bytes(store);

    if (command->type == CMD_FLUSH)
        return store_flush(store);
    if (command->type != CMD_READ && !changes_data(command->type))
        return -EINVAL;
    if (changes_data(command->type) && options.read_only)
        return -EPERM;
    if (command->offset > size || command->length > size - command->offset)
        return command->type == CMD_WRITE ? -ENOSPC : -EINVAL;
    if (command->type != CMD_READ)
        return store_write(store, command->offset, command->data, command->length, fua);
    command->data = malloc((size_t)command->length + 1);
    return command->data ? store_read(store, command->offset, command->data, command->length)
                         : -ENOMEM;
}

/* The protocol has few numbers; EIO for the others. */
static uint32_t protocol_error(int r)
{
    return r == 0                                                        ? 0
           : r == -EPERM || r == -ENOMEM || r == -EINVAL || r == -ENOSPC ? (uint32_t)-r
                                                                         : EIO;
}

/* Waits, under the lock, until the first pending command is due; takes it. */
static struct command *command_next(void)
{
    for (;;) {
        int64_t now = now_us(), until = pending ? pending->due_us : HELD;
        struct command *command = pending;
        struct timespec time;

        if (stopping && !command) {
            store_flush(store);
            exit(0);
        }
        if (command && (stopping || command->due_us <= now)) {
            pending = command->next;
            return command;
        }
        if (nr_held && options.control) {
            if (control_read().release)
                hasten(NULL, now);
            if (until > now + HELD_LOOK_MS * 1000)
                until = now + HELD_LOOK_MS * 1000;
        }
        if (until == HELD) {
            pthread_cond_wait(&executor_wake, &lock);
            continue;
        }
        time = (struct timespec){until / 1000000, until % 1000000 * 1000};
        pthread_cond_timedwait(&executor_wake, &lock, &time);
    }
}

static void *executor(void *arg)
{
    uint64_t order = 0;

    pthread_mutex_lock(&lock);
    for (;;) {
        struct command *command = command_next();
        struct conn *conn = command->conn;

        if (command->type == CMD_DROP) {
            conn_drop(conn);
            free(command);
            continue;
        }
        pthread_mutex_unlock(&lock);
        if (!command->error)
            command->error = protocol_error(execute(command));
        command->executed_us = now_us();
        command->order = ++order;
        pthread_mutex_lock(&lock);
        command->next = NULL;
        *conn->replies_end = command;
        conn->replies_end = &command->next;
        pthread_cond_signal(&conn->wake);
    }
    return arg;
}

/* -- a connection ----------------------------------------------------------------------------- */
static bool reply_structured(const struct command *command)
{
    struct wire_chunk chunk = {htonl(MAGIC_STRUCTURED), htons(CHUNK_DONE), htons(CHUNK_NONE),
                               command->cookie, 0};
    struct {
        uint32_t error;
        uint16_t text_bytes;
    } __attribute__((packed)) error = {htonl(command->error), 0};
    uint64_t offset = htobe64(command->offset);
    int fd = command->conn->fd;

    if (command->error) {
        chunk.type = htons(CHUNK_ERROR);
        chunk.length = htonl(sizeof error);
        return wire_put(fd, &chunk, sizeof chunk) && wire_put(fd, &error, sizeof error);
    }
    if (command->type != CMD_READ)
        return wire_put(fd, &chunk, sizeof chunk);
    chunk.type = htons(CHUNK_DATA);
    chunk.length = htonl((uint32_t)sizeof offset + command->length);
    return wire_put(fd, &chunk, sizeof chunk) && wire_put(fd, &offset, sizeof offset) &&
           wire_put(fd, command->data, command->length);
}

static bool reply(const struct command *command)
{
    struct wire_reply head = {htonl(MAGIC_REPLY), htonl(command->error), command->cookie};
    int fd = command->conn->fd;

    if (command->conn->structured)
        return reply_structured(command);
    return wire_put(fd, &head, sizeof head) && (command->type != CMD_READ || command->error ||
                                                wire_put(fd, command->data, command->length));
}

/* Outlives the reader: it frees the connection after its last command. */
static void *sender(void *arg)
{
    struct conn *conn = arg, **at;
    struct command *command;

    pthread_mutex_lock(&lock);
    while (conn->replies || conn->commands || !conn->gone_us) {
        command = conn->replies;
        if (!command) {
            pthread_cond_wait(&conn->wake, &lock);
            continue;
        }
        conn->replies = command->next;
        if (!conn->replies)
            conn->replies_end = &conn->replies;
        if (!conn->mute) {
            bool sent;

            pthread_mutex_unlock(&lock);
            sent = reply(command);
            pthread_mutex_lock(&lock);
            conn->mute |= !sent;
            command->answered_us = sent ? now_us() : 0;
        }
        journal(command);
        pending_bytes -= payload_bytes(command);
        pthread_cond_broadcast(&room);
        conn->commands--;
        free(command->data);
        free(command);
    }
    for (at = &conns; *at != conn;)
        at = &(*at)->next;
    *at = conn->next;
    pthread_mutex_unlock(&lock);
    close(conn->fd);
    pthread_cond_destroy(&conn->wake);
    free(conn);
    return NULL;
}

/* When it is to be executed; under the lock. */
static int64_t due_us(const struct command *command, bool hold)
{
    bool changes = changes_data(command->type);

    if (command->error)
        return command->received_us;
    if (hold && changes)
        return HELD;
    if ((!changes && !options.delay_all) || random_between(1, 100) > options.late_percent)
        return command->received_us;
    return command->received_us + random_between(options.delay_min_us, options.delay_max_us);
}

static void command_received(struct command *command)
{
    struct orders orders = control_read();

    if (command->type <= CMD_WRITE_ZEROES)
        command->error = orders.error[command->type];
    command->received_us = now_us();
    pthread_mutex_lock(&lock);
    while (pending_bytes > PENDING_BYTES_MAX)
        pthread_cond_wait(&room, &lock);
    pending_bytes += payload_bytes(command);
    command->conn->commands++;
    command->due_us = due_us(command, orders.hold);
    nr_held += command->due_us == HELD;
    pend(command);
    if (nr_held)
        pthread_cond_signal(&executor_wake); /* it looks for "release" now */
    pthread_mutex_unlock(&lock);
}

/* NULL: the connection is over. */
static struct command *command_read(struct conn *conn)
{
    struct wire_request request;
    struct command *command;

    if (!wire_get(conn->fd, &request, sizeof request) || request.magic != htonl(MAGIC_REQUEST))
        return NULL;
    command = calloc(1, sizeof(*command));
    if (!command)
        die("allocate");
    command->conn = conn;
    command->type = ntohs(request.type);
    command->flags = ntohs(request.flags);
    command->cookie = request.cookie;
    command->offset = be64toh(request.offset);
    command->length = ntohl(request.length);
    if (command->type == CMD_DISC ||
        (command->length > WIRE_PAYLOAD_MAX && command->type <= CMD_WRITE))
        goto over;
    if (command->type == CMD_WRITE) {
        command->data = malloc((size_t)command->length + 1);
        if (!command->data || !wire_get(conn->fd, command->data, command->length))
            goto over;
    }
    return command;
over:
    free(command->data);
    free(command);
    return NULL;
}

static void conn_gone(struct conn *conn)
{
    pthread_mutex_lock(&lock);
    conn->gone_us = now_us();
    if (!options.drain)
        conn_drop(conn);
    drop_forget(conn);
    if (options.after_close_max_us >= 0)
        hasten(conn, conn->gone_us + options.after_close_max_us);
    pthread_cond_signal(&conn->wake);
    pthread_mutex_unlock(&lock);
}

static void drop_plan(struct conn *conn)
{
    struct command *command = calloc(1, sizeof(*command));

    if (!command)
        die("allocate");
    pthread_mutex_lock(&lock);
    command->conn = conn;
    command->type = CMD_DROP;
    command->due_us = now_us() + random_between(options.drop_min_us, options.drop_max_us);
    pend(command);
    pthread_mutex_unlock(&lock);
}

static struct wire_export export(void)
{
    return (struct wire_export){
        .size_bytes = store_size_bytes(store),
        .flags = (uint16_t)(EXPORT_HAS_FLAGS | EXPORT_FLUSH | EXPORT_FUA | EXPORT_TRIM |
                            EXPORT_WRITE_ZEROES | (options.read_only ? EXPORT_READ_ONLY : 0) |
                            (options.single ? 0 : EXPORT_MULTI_CONN)),
        .can_structured = options.can_structured,
    };
}

static void *reader(void *arg)
{
    struct conn *conn = arg;
    struct wire_export said = export();
    struct command *command;

    if (wire_handshake(conn->fd, &said, &conn->structured)) {
        if (options.drop_max_us)
            drop_plan(conn);
        while ((command = command_read(conn)))
            command_received(command);
    }
    conn_gone(conn);
    return NULL;
}

static void conn_start(int fd)
{
    static unsigned last_id;
    struct conn *conn = calloc(1, sizeof(*conn));
    pthread_t thread;

    if (!conn)
        die("allocate");
    conn->fd = fd;
    conn->id = ++last_id;
    conn->replies_end = &conn->replies;
    pthread_cond_init(&conn->wake, NULL);
    pthread_mutex_lock(&lock);
    conn->next = conns;
    conns = conn;
    pthread_mutex_unlock(&lock);
    if (pthread_create(&thread, NULL, sender, conn) != 0 || pthread_detach(thread) != 0 ||
        pthread_create(&thread, NULL, reader, conn) != 0 || pthread_detach(thread) != 0)
        die("start a thread");
}

/* -- signals, arguments ----------------------------------------------------------------------- */
static void *signals(void *arg)
{
    for (;;) {
        int number;

        if (sigwait(arg, &number) != 0)
            continue;
        pthread_mutex_lock(&lock);
        for (struct conn *conn = conns; conn; conn = conn->next)
            conn_drop(conn);
        if (number == SIGTERM) {
            stopping = true;
            pthread_cond_signal(&executor_wake);
        }
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static _Noreturn void usage(void)
{
    fprintf(stderr, "usage: late --unix PATH | --tcp ADDRESS:PORT [--file PATH] [--size BYTES] "
                    "[--volatile] [--delay-ms MIN-MAX] ...: see the head of tests/nbd/late.c\n");
    exit(100);
}

static void range_ms(const char *text, int64_t *ret_min_us, int64_t *ret_max_us)
{
    uint64_t min, max;
    char rest;

    if (sscanf(text, "%9" SCNu64 "-%9" SCNu64 "%c", &min, &max, &rest) != 2 || min > max)
        usage();
    *ret_min_us = (int64_t)min * 1000;
    *ret_max_us = (int64_t)max * 1000;
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);

    if (*end || end == text)
        usage();
    return value;
}

static int listen_tcp(char *text)
{
    char *colon = strrchr(text, ':');

    if (!colon)
        usage();
    *colon = '\0';
    return wire_listen_tcp(text, (uint16_t)number(colon + 1));
}

/* What says where and what; the rest are options. */
struct place {
    char *unix_path, *tcp, *file;
    uint64_t size_bytes;
    bool is_volatile;
};

static void option(int letter, struct place *place)
{
    switch (letter) {
    case 'u': place->unix_path = optarg; break;
    case 't': place->tcp = optarg; break;
    case 'f': place->file = optarg; break;
    case 's': place->size_bytes = number(optarg); break;
    case 'v': place->is_volatile = true; break;
    case 'r': options.read_only = true; break;
    case 'S': options.can_structured = true; break;
    case '1': options.single = true; break;
    case 'd': range_ms(optarg, &options.delay_min_us, &options.delay_max_us); break;
    case 'p': options.late_percent = (unsigned)number(optarg); break;
    case 'a': options.delay_all = true; break;
    case 'm': options.after_close_max_us = (int64_t)number(optarg) * 1000; break;
    case 'D': options.drain = true; break;
    case 'x': range_ms(optarg, &options.drop_min_us, &options.drop_max_us); break;
    case 'R': random_state = number(optarg) * 2654435761u + 1; break;
    case 'c': options.control = optarg; break;
    case 'l':
        options.log = fopen(optarg, "ae");
        if (!options.log)
            die("open the log");
        setvbuf(options.log, NULL, _IOLBF, 4096);
        break;
    default: usage();
    }
}

static void options_parse(int argc, char **argv, struct place *place)
{
    static const struct option names[] = {
        {"unix", 1, NULL, 'u'},       {"tcp", 1, NULL, 't'},
        {"file", 1, NULL, 'f'},       {"size", 1, NULL, 's'},
        {"volatile", 0, NULL, 'v'},   {"read-only", 0, NULL, 'r'},
        {"structured", 0, NULL, 'S'}, {"single", 0, NULL, '1'},
        {"delay-ms", 1, NULL, 'd'},   {"late-percent", 1, NULL, 'p'},
        {"delay-all", 0, NULL, 'a'},  {"max-late-after-close", 1, NULL, 'm'},
        {"drain", 0, NULL, 'D'},      {"drop-ms", 1, NULL, 'x'},
        {"seed", 1, NULL, 'R'},       {"log", 1, NULL, 'l'},
        {"control", 1, NULL, 'c'},    {NULL, 0, NULL, 0}};
    int letter;

    while ((letter = getopt_long(argc, argv, "", names, NULL)) >= 0)
        option(letter, place);
    if (optind != argc || !place->unix_path == !place->tcp)
        usage();
}

int main(int argc, char **argv)
{
    struct place place = {0};
    static sigset_t caught;
    pthread_condattr_t clock;
    pthread_t thread;
    int listener;

    options_parse(argc, argv, &place);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nothing running */
    sigemptyset(&caught);
    sigaddset(&caught, SIGUSR1);
    sigaddset(&caught, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &caught, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&executor_wake, &clock);
    pthread_cond_init(&room, &clock);
    store = store_open(place.file, place.size_bytes, place.is_volatile);
    if (!store)
        die("open the file");
    listener = place.tcp ? listen_tcp(place.tcp) : wire_listen_unix(place.unix_path);
    if (pthread_create(&thread, NULL, executor, NULL) != 0 ||
        pthread_create(&thread, NULL, signals, &caught) != 0)
        die("start a thread");
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

        if (fd >= 0)
            conn_start(fd);
    }
}
