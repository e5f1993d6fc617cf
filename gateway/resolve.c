#include "gateway/resolve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/config.h"
#include "gateway/list.h"
#include "gateway/mailbox.h"
#include "proto/limits.h"

enum {
    STACK_BYTES = 256 << 10, /* libnbd, GnuTLS and the resolver need far less */
    CANCEL_LOOK_MS = 100,    /* how soon a cancelled job's helper is free for another one */
};

/* For URIs with a host's name, and without. */
enum crew_kind { CREW_NAMES, CREW_ADDRESSES, CREWS };

/* A job is used by its owner and by a helper; whoever lets go last frees it. */
struct resolve {
    struct list link; /* among those that wait for a helper, or that one has */
    struct mailbox_item item;
    struct mailbox *mailbox;
    void (*done)(void *arg);
    void *arg;
    uint32_t timeout_ms;
    char *uri, *tls_certificates, *tls_psk_file, *tls_username;
    /* Under hall.lock: */
    uint64_t begun_ms; /* 0: no helper has it yet */
    bool searching;    /* for a name's address, perhaps: it cannot be interrupted */
    bool cancelled;
    bool finished; /* the helper is done with it */
    /* The helper's until finished: */
    struct nbd_handle *nbd; /* NULL: failed */
    int error;
    char reason[LIMIT_REASON_BYTES];
};

/* The helper threads, of all workers together, and the jobs that wait for one. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t idle;
    struct crew {
        struct list waiting, running;
        unsigned threads;
    } crews[CREWS];
} hall = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .idle = PTHREAD_COND_INITIALIZER,
          .crews = {{.waiting = {&hall.crews[0].waiting, &hall.crews[0].waiting},
                     .running = {&hall.crews[0].running, &hall.crews[0].running}},
                    {.waiting = {&hall.crews[1].waiting, &hall.crews[1].waiting},
                     .running = {&hall.crews[1].running, &hall.crews[1].running}}}};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void resolve_free(struct resolve *resolve)
{
    if (!resolve)
        return;
    nbd_close(resolve->nbd);
    free(resolve->uri);
    free(resolve->tls_certificates);
    free(resolve->tls_psk_file);
    free(resolve->tls_username);
    free(resolve);
}

/* Every setting that libnbd's defaults would leave to chance. */
static int configure(struct nbd_handle *nbd, const struct resolve *resolve)
{
    /* Simple replies: a short read cannot pass for a whole one, and a read is two system calls
     * less. Then a read fills its buffer or fails: no need to clear it first. */
    if (nbd_set_request_structured_replies(nbd, false) < 0 ||
        nbd_set_pread_initialize(nbd, false) < 0 ||
        nbd_set_strict_mode(nbd, LIBNBD_STRICT_MASK) < 0 ||
        nbd_set_uri_allow_transports(nbd, LIBNBD_ALLOW_TRANSPORT_TCP |
                                              LIBNBD_ALLOW_TRANSPORT_UNIX) < 0 ||
        nbd_set_uri_allow_local_file(nbd, false) < 0)
        return -1;
    if (resolve->tls_certificates && nbd_set_tls_certificates(nbd, resolve->tls_certificates) < 0)
        return -1;
    if (resolve->tls_psk_file && nbd_set_tls_psk_file(nbd, resolve->tls_psk_file) < 0)
        return -1;
    if (resolve->tls_username && nbd_set_tls_username(nbd, resolve->tls_username) < 0)
        return -1;
    return 0;
}

static void fail(struct resolve *resolve, struct nbd_handle *nbd, int error, const char *reason)
{
    resolve->error = -error;
    snprintf(resolve->reason, sizeof resolve->reason, "cannot connect to %.70s: %.100s",
             resolve->uri, reason);
    nbd_close(nbd);
}

static void fail_by_libnbd(struct resolve *resolve, struct nbd_handle *nbd)
{
    /* Of the calling thread's last call; read before any other. */
    const char *text = nbd_get_error();
    int error = nbd_get_errno();
    char copy[LIMIT_REASON_BYTES];

    snprintf(copy, sizeof copy, "%s", text ? text : "the server closed the connection");
    fail(resolve, nbd, error ? error : EIO, copy);
}

static bool is_cancelled(const struct resolve *resolve)
{
    bool cancelled;

    pthread_mutex_lock(&hall.lock);
    cancelled = resolve->cancelled;
    pthread_mutex_unlock(&hall.lock);
    return cancelled;
}

static void search_over(struct resolve *resolve)
{
    pthread_mutex_lock(&hall.lock);
    resolve->searching = false;
    pthread_mutex_unlock(&hall.lock);
}

static void connect_now(struct resolve *resolve)
{
    uint64_t deadline_ms = resolve->begun_ms + resolve->timeout_ms, now, wait_ms;
    struct nbd_handle *nbd = nbd_create();

    if (!nbd || configure(nbd, resolve) < 0 || nbd_aio_connect_uri(nbd, resolve->uri) < 0) {
        fail_by_libnbd(resolve, nbd);
        return;
    }
    search_over(resolve);
    if (now_ms() >= deadline_ms) {
        fail(resolve, nbd, ETIMEDOUT, "its name was found too late");
        return;
    }
    while (nbd_aio_is_connecting(nbd)) {
        now = now_ms();
        if (now >= deadline_ms) {
            fail(resolve, nbd, ETIMEDOUT,
                 "the server cannot be reached, or does not answer the handshake");
            return;
        }
        if (is_cancelled(resolve)) {
            fail(resolve, nbd, ECANCELED, "cancelled");
            return;
        }
        wait_ms = deadline_ms - now < CANCEL_LOOK_MS ? deadline_ms - now : CANCEL_LOOK_MS;
        if (nbd_poll(nbd, (int)wait_ms) < 0) {
            fail_by_libnbd(resolve, nbd);
            return;
        }
    }
    if (!nbd_aio_is_ready(nbd)) { /* dead, closed, or back to created: all addresses failed */
        fail(resolve, nbd, ECONNREFUSED, "the server closed the connection in the handshake");
        return;
    }
    resolve->nbd = nbd;
}

/* Takes its crew's jobs until none waits. */
static void *helper(void *arg)
{
    struct crew *crew = &hall.crews[(uintptr_t)arg];
    struct list *node;

    pthread_mutex_lock(&hall.lock);
    while ((node = list_pop(&crew->waiting))) {
        struct resolve *resolve = container_of(node, struct resolve, link);

        list_append(&crew->running, node);
        resolve->begun_ms = now_ms();
        resolve->searching = crew == &hall.crews[CREW_NAMES];
        pthread_mutex_unlock(&hall.lock);
        connect_now(resolve);
        pthread_mutex_lock(&hall.lock);
        list_remove(node);
        resolve->searching = false;
        resolve->finished = true;
        if (resolve->cancelled)
            resolve_free(resolve);
        else
            mailbox_post(resolve->mailbox, &resolve->item);
    }
    crew->threads--;
    pthread_cond_broadcast(&hall.idle);
    pthread_mutex_unlock(&hall.lock);
    return NULL;
}

/* With hall.lock held. */
static int hire(enum crew_kind kind)
{
    struct crew *crew = &hall.crews[kind];
    pthread_attr_t attributes;
    pthread_t thread;
    int err;

    if (crew->threads >= LIMIT_CONNECT_THREADS)
        return 0; /* one of them will come to it */
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    err = pthread_create(&thread, &attributes, helper, (void *)(uintptr_t)kind);
    pthread_attr_destroy(&attributes);
    if (err && crew->threads == 0)
        return -err;
    if (!err)
        crew->threads++;
    return 0;
}

static void deliver(struct mailbox_item *item)
{
    struct resolve *resolve = container_of(item, struct resolve, item);

    resolve->done(resolve->arg);
}

bool resolve_by_name(const char *uri)
{
    const char *start = strstr(uri, "://");
    char host[256];
    struct in_addr address;

    if (!start)
        return false;
    start += strlen("://");
    if (*start == '[')
        return false;
    snprintf(host, sizeof host, "%.*s", (int)strcspn(start, ":/?#"), start);
    return host[0] && inet_pton(AF_INET, host, &address) != 1;
}

/* With hall.lock held. */
static bool searches_longer_than(const struct resolve *resolve, uint64_t age_ms)
{
    return resolve->searching && now_ms() - resolve->begun_ms >= age_ms;
}

/* With hall.lock held. */
static bool is_looked_for_in_vain(const char *uri)
{
    unsigned in_vain = 0;

    list_each_safe (node, &hall.crews[CREW_NAMES].running) {
        const struct resolve *other = container_of(node, struct resolve, link);

        in_vain += other->cancelled && searches_longer_than(other, other->timeout_ms) &&
                   strcmp(other->uri, uri) == 0;
    }
    return in_vain >= 2;
}

static int copy_string(const char *from, char **ret)
{
    if (!from)
        return 0;
    *ret = strdup(from);
    return *ret ? 0 : -ENOMEM;
}

int resolve_start(const struct config_disk *disk, unsigned path, uint32_t timeout_ms,
                  struct mailbox *mailbox, void (*done)(void *arg), void *arg,
                  struct resolve **ret_resolve)
{
    const char *uri = disk->export_uris[path];
    enum crew_kind kind = resolve_by_name(uri) ? CREW_NAMES : CREW_ADDRESSES;
    struct resolve *resolve = calloc(1, sizeof *resolve);
    int err = -ENOMEM;

    if (!resolve)
        return -ENOMEM;
    resolve->item.deliver = deliver;
    resolve->mailbox = mailbox;
    resolve->done = done;
    resolve->arg = arg;
    resolve->timeout_ms = timeout_ms;
    if (copy_string(uri, &resolve->uri) < 0 ||
        copy_string(disk->tls_certificates, &resolve->tls_certificates) < 0 ||
        copy_string(disk->tls_psk_file, &resolve->tls_psk_file) < 0 ||
        copy_string(disk->tls_username, &resolve->tls_username) < 0)
        goto fail;

    pthread_mutex_lock(&hall.lock);
    err = is_looked_for_in_vain(uri) ? -EBUSY : 0;
    if (err == 0) {
        list_append(&hall.crews[kind].waiting, &resolve->link);
        err = hire(kind);
    }
    if (err < 0)
        list_remove(&resolve->link);
    pthread_mutex_unlock(&hall.lock);
    if (err < 0)
        goto fail;
    *ret_resolve = resolve;
    return 0;
fail:
    resolve_free(resolve);
    return err;
}

int resolve_finish(struct resolve *resolve, struct nbd_handle **ret_nbd, char *ret_reason,
                   size_t reason_bytes)
{
    int err = 0;

    if (resolve->nbd) {
        *ret_nbd = resolve->nbd;
        resolve->nbd = NULL;
    } else {
        err = resolve->error ? resolve->error : -EIO;
        snprintf(ret_reason, reason_bytes, "%s", resolve->reason);
    }
    resolve_free(resolve);
    return err;
}

bool resolve_waits(struct resolve *resolve)
{
    bool waits;

    pthread_mutex_lock(&hall.lock);
    waits = resolve->begun_ms == 0;
    pthread_mutex_unlock(&hall.lock);
    return waits;
}

bool resolve_is_late(struct resolve *resolve)
{
    bool late;

    pthread_mutex_lock(&hall.lock);
    late = searches_longer_than(resolve, resolve->timeout_ms + LIMIT_CONNECT_GRACE_MS);
    pthread_mutex_unlock(&hall.lock);
    return late;
}

void resolve_cancel(struct resolve *resolve)
{
    bool ours;

    if (!resolve)
        return;
    pthread_mutex_lock(&hall.lock);
    resolve->cancelled = true;
    if (resolve->begun_ms == 0) {
        list_remove(&resolve->link);
        resolve->finished = true;
    }
    ours = resolve->finished;
    if (ours)
        mailbox_cancel(resolve->mailbox, &resolve->item);
    pthread_mutex_unlock(&hall.lock);
    if (ours)
        resolve_free(resolve);
}

void resolve_drain(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LIMIT_CONNECT_MS / 1000;
    pthread_mutex_lock(&hall.lock);
    while (hall.crews[CREW_NAMES].threads + hall.crews[CREW_ADDRESSES].threads > 0) {
        if (pthread_cond_timedwait(&hall.idle, &hall.lock, &until) == ETIMEDOUT)
            break;
    }
    pthread_mutex_unlock(&hall.lock);
}
