#include "gateway/fence.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "gateway/config.h"
#include "gateway/list.h"
#include "gateway/log.h"
#include "gateway/mailbox.h"
#include "gateway/program.h"
#include "proto/limits.h"

enum {
    STACK_BYTES = 256 << 10,
};

enum variable { ENV_PATH, ENV_DISK, ENV_EXPORT, ENV_ENDPOINT, ENV_COUNT };

/* A disk's program that was killed and does not go away, all or some of it. */
struct leftover {
    struct list link;
    pid_t pid; /* for program_is_gone */
    unsigned path;
    char name[]; /* of the disk */
};

/* A job is used by its owner and by a helper; whoever lets go last frees it. */
struct fence {
    struct list link; /* among those that wait for a thread */
    struct mailbox_item item;
    struct mailbox *mailbox;
    void (*done)(void *arg);
    void *arg;
    char *name;                /* of the disk */
    struct leftover *leftover; /* its place, should it be one */
    char *argv[LIMIT_FENCE_WORDS + 1];
    char *envp[ENV_COUNT + 1];
    /* Under crew.lock: */
    bool cancelled;
    bool finished; /* the helper is done with it */
    /* The helper's until finished: */
    uint32_t lines_left_out;
    int error;
    char reason[LIMIT_REASON_BYTES];
};

/* The helper threads, of all workers together. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t idle;
    struct list waiting;
    struct list leftovers; /* while a path of a disk has one, no other program is started for it */
    unsigned threads;
    uint64_t window_start_ms; /* of the log's bound */
    unsigned window_lines;
} crew = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .idle = PTHREAD_COND_INITIALIZER,
          .waiting = {&crew.waiting, &crew.waiting},
          .leftovers = {&crew.leftovers, &crew.leftovers}};

static void fence_free(struct fence *fence)
{
    if (!fence)
        return;
    for (size_t i = 0; i < LIMIT_FENCE_WORDS; i++)
        free(fence->argv[i]);
    for (size_t i = 0; i < ENV_COUNT; i++)
        free(fence->envp[i]);
    free(fence->leftover);
    free(fence->name);
    free(fence);
}

/* -- on a helper thread ---------------------------------------------------------------------- */

static bool may_log(void)
{
    struct timespec now;
    uint64_t now_ms;
    bool may;

    clock_gettime(CLOCK_MONOTONIC, &now);
    now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    pthread_mutex_lock(&crew.lock);
    if (crew.window_lines == 0 || now_ms - crew.window_start_ms >= LIMIT_LOG_WINDOW_MS) {
        crew.window_start_ms = now_ms;
        crew.window_lines = 0;
    }
    may = crew.window_lines < LIMIT_FENCE_LINES;
    if (may)
        crew.window_lines++;
    pthread_mutex_unlock(&crew.lock);
    return may;
}

static void on_line(void *arg, const char *line)
{
    struct fence *fence = arg;

    if (may_log())
        log_info(fence->name, "fence: %s", line);
    else if (fence->lines_left_out < UINT32_MAX)
        fence->lines_left_out++;
}

static bool is_cancelled(void *arg)
{
    struct fence *fence = arg;
    bool cancelled;

    pthread_mutex_lock(&crew.lock);
    cancelled = fence->cancelled;
    pthread_mutex_unlock(&crew.lock);
    return cancelled;
}

/* With crew.lock held. */
static struct leftover *take_leftover(const char *name, unsigned path)
{
    list_each_safe (node, &crew.leftovers) {
        struct leftover *leftover = container_of(node, struct leftover, link);

        if (leftover->path == path && strcmp(leftover->name, name) == 0) {
            list_remove(node);
            return leftover;
        }
    }
    return NULL;
}

/* What is left over of that path's last program, by its number; 0: nothing. Forgets what has gone.
 * Looks without the lock, which loops take. */
static pid_t find_leftover(const char *name, unsigned path)
{
    struct leftover *leftover;
    pid_t found = 0;

    pthread_mutex_lock(&crew.lock);
    while (found == 0 && (leftover = take_leftover(name, path))) {
        pthread_mutex_unlock(&crew.lock);
        if (program_is_gone(leftover->pid))
            free(leftover);
        else
            found = leftover->pid;
        pthread_mutex_lock(&crew.lock);
        if (found > 0)
            list_append(&crew.leftovers, &leftover->link);
    }
    pthread_mutex_unlock(&crew.lock);
    return found;
}

static void keep_leftover(struct fence *fence, pid_t pid)
{
    struct leftover *leftover = fence->leftover;

    fence->leftover = NULL;
    leftover->pid = pid;
    pthread_mutex_lock(&crew.lock);
    list_append(&crew.leftovers, &leftover->link);
    pthread_mutex_unlock(&crew.lock);
    log_warning(fence->name, "fence: process %d was killed, and not all of its group goes away",
                (int)pid);
}

static void run(struct fence *fence)
{
    const struct program program = {.argv = fence->argv,
                                    .envp = fence->envp,
                                    .timeout_ms = LIMIT_FENCE_MS,
                                    .said = on_line,
                                    .is_cancelled = is_cancelled,
                                    .arg = fence};
    pid_t left = find_leftover(fence->name, fence->leftover->path);

    if (left > 0) {
        fence->error = -EBUSY;
        snprintf(fence->reason, sizeof fence->reason,
                 "process %d, its last run, was killed, and not all of its group goes away",
                 (int)left);
        return;
    }
    fence->error = program_run(&program, &left, fence->reason, sizeof fence->reason);
    if (fence->lines_left_out > 0)
        log_info(fence->name, "fence: %u lines were left out", fence->lines_left_out);
    if (left > 0)
        keep_leftover(fence, left);
}

/* Takes jobs until none waits. */
static void *helper(void *arg)
{
    struct list *node;

    (void)arg;
    pthread_mutex_lock(&crew.lock);
    while ((node = list_pop(&crew.waiting))) {
        struct fence *fence = container_of(node, struct fence, link);

        pthread_mutex_unlock(&crew.lock);
        run(fence);
        pthread_mutex_lock(&crew.lock);
        fence->finished = true;
        if (fence->cancelled)
            fence_free(fence);
        else
            mailbox_post(fence->mailbox, &fence->item);
    }
    crew.threads--;
    pthread_cond_broadcast(&crew.idle);
    pthread_mutex_unlock(&crew.lock);
    return NULL;
}

/* -- for the owner --------------------------------------------------------------------------- */

/* With crew.lock held. */
static int hire(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    int err;

    if (crew.threads >= LIMIT_FENCE_THREADS)
        return 0; /* one of them will come to it */
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    err = pthread_create(&thread, &attributes, helper, NULL);
    pthread_attr_destroy(&attributes);
    if (err && crew.threads == 0)
        return -err;
    if (!err)
        crew.threads++;
    return 0;
}

static void deliver(struct mailbox_item *item)
{
    struct fence *fence = container_of(item, struct fence, item);

    fence->done(fence->arg);
}

/* "" if it has none: of a unix socket, or no longer open. A lost TCP connection still has it. */
static void name_endpoint(int sock, char ret_text[static FENCE_ENDPOINT_BYTES])
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_storage room;
    } address = {0};
    socklen_t bytes = sizeof address;
    char host[INET6_ADDRSTRLEN];

    ret_text[0] = '\0';
    if (getsockname(sock, &address.any, &bytes) < 0)
        return;
    if (address.any.sa_family == AF_INET && address.v4.sin_port != 0 &&
        inet_ntop(AF_INET, &address.v4.sin_addr, host, sizeof host))
        snprintf(ret_text, FENCE_ENDPOINT_BYTES, "%s:%u", host, ntohs(address.v4.sin_port));
    else if (address.any.sa_family == AF_INET6 && address.v6.sin6_port != 0 &&
             inet_ntop(AF_INET6, &address.v6.sin6_addr, host, sizeof host))
        snprintf(ret_text, FENCE_ENDPOINT_BYTES, "[%s]:%u", host, ntohs(address.v6.sin6_port));
}

void fence_endpoints(const int *sockets, unsigned count,
                     char ret_text[static FENCE_ENDPOINTS_BYTES])
{
    char *at = ret_text;

    ret_text[0] = '\0';
    for (unsigned i = 0; i < count && i < LIMIT_CONNECTIONS; i++) {
        char endpoint[FENCE_ENDPOINT_BYTES];

        name_endpoint(sockets[i], endpoint);
        if (endpoint[0])
            at += sprintf(at, "%s%s", at > ret_text ? " " : "", endpoint);
    }
}

static char *variable(const char *name, const char *value)
{
    char *text = NULL;

    return asprintf(&text, "%s=%s", name, value) < 0 ? NULL : text;
}

static int prepare(struct fence *fence, const struct config_disk *disk, unsigned path,
                   const char *endpoints)
{
    const char *search = getenv("PATH");

    fence->name = strdup(disk->name);
    fence->leftover = calloc(1, sizeof *fence->leftover + strlen(disk->name) + 1);
    if (!fence->name || !fence->leftover)
        return -ENOMEM;
    memcpy(fence->leftover->name, disk->name, strlen(disk->name) + 1);
    fence->leftover->path = path;
    for (size_t i = 0; i < LIMIT_FENCE_WORDS && disk->fence[i]; i++) {
        fence->argv[i] = strdup(disk->fence[i]);
        if (!fence->argv[i])
            return -ENOMEM;
    }
    fence->envp[ENV_PATH] =
        variable("PATH", search ? search : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin");
    fence->envp[ENV_DISK] = variable("BLKGATE_DISK", disk->name);
    fence->envp[ENV_EXPORT] = variable("BLKGATE_EXPORT", disk->export_uris[path]);
    if (!fence->envp[ENV_PATH] || !fence->envp[ENV_DISK] || !fence->envp[ENV_EXPORT])
        return -ENOMEM;
    if (endpoints[0]) {
        fence->envp[ENV_ENDPOINT] = variable("BLKGATE_ENDPOINT", endpoints);
        if (!fence->envp[ENV_ENDPOINT])
            return -ENOMEM;
    }
    return 0;
}

int fence_start(const struct config_disk *disk, unsigned path, const char *endpoints,
                struct mailbox *mailbox, void (*done)(void *arg), void *arg,
                struct fence **ret_fence)
{
    struct fence *fence = calloc(1, sizeof *fence);
    int err;

    if (!fence)
        return -ENOMEM;
    fence->item.deliver = deliver;
    fence->mailbox = mailbox;
    fence->done = done;
    fence->arg = arg;
    err = prepare(fence, disk, path, endpoints);
    if (err < 0)
        goto fail;

    pthread_mutex_lock(&crew.lock);
    list_append(&crew.waiting, &fence->link);
    err = hire();
    if (err < 0)
        list_remove(&fence->link);
    pthread_mutex_unlock(&crew.lock);
    if (err < 0)
        goto fail;
    *ret_fence = fence;
    return 0;
fail:
    fence_free(fence);
    return err;
}

int fence_finish(struct fence *fence, char *ret_reason, size_t reason_bytes)
{
    int err = fence->error;

    if (err < 0)
        snprintf(ret_reason, reason_bytes, "%s", fence->reason);
    fence_free(fence);
    return err;
}

void fence_cancel(struct fence *fence)
{
    bool ours;

    if (!fence)
        return;
    pthread_mutex_lock(&crew.lock);
    fence->cancelled = true;
    if (list_linked(&fence->link)) { /* no helper has it yet */
        list_remove(&fence->link);
        fence->finished = true;
    }
    ours = fence->finished;
    if (ours)
        mailbox_cancel(fence->mailbox, &fence->item);
    pthread_mutex_unlock(&crew.lock);
    if (ours)
        fence_free(fence);
}

void fence_drain(void)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LIMIT_FENCE_END_MS / 1000 + 1;
    pthread_mutex_lock(&crew.lock);
    while (crew.threads > 0) {
        if (pthread_cond_timedwait(&crew.idle, &crew.lock, &until) == ETIMEDOUT)
            break;
    }
    pthread_mutex_unlock(&crew.lock);
}
