/* xsproxy: see xsproxy.h. */
#include "xsproxy.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { PAIRS = 16, POLL_MS = 20, BYTES = 4096 };

struct xsproxy {
    struct sockaddr_un at, to;
    pthread_t thread;
    atomic_bool cut, over;
    int listener;
    int pair[PAIRS][2]; /* -1: free */
};

static int make_socket(const struct sockaddr_un *address, bool listening)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr *generic = (const struct sockaddr *)address;

    if (listening)
        unlink(address->sun_path);
    if (fd >= 0 && (listening ? bind(fd, generic, sizeof(*address)) || listen(fd, PAIRS)
                              : connect(fd, generic, sizeof(*address)))) {
        close(fd);
        return -1;
    }
    return fd;
}

static void drop(int pair[static 2])
{
    for (int side = 0; side < 2; side++) {
        if (pair[side] >= 0)
            close(pair[side]);
        pair[side] = -1;
    }
}

static void take(struct xsproxy *proxy)
{
    int fd = accept(proxy->listener, NULL, NULL);

    for (int i = 0; fd >= 0 && i < PAIRS; i++) {
        if (proxy->pair[i][0] >= 0)
            continue;
        proxy->pair[i][0] = fd;
        proxy->pair[i][1] = make_socket(&proxy->to, false);
        if (proxy->pair[i][1] < 0)
            drop(proxy->pair[i]);
        return;
    }
    close(fd);
}

static bool pass(int from, int to)
{
    char bytes[BYTES];
    ssize_t got = read(from, bytes, sizeof(bytes));

    for (ssize_t sent = 0; sent < got;) {
        ssize_t put = send(to, bytes + sent, (size_t)(got - sent), MSG_NOSIGNAL);

        if (put < 0)
            return false;
        sent += put;
    }
    return got > 0;
}

static void turn(struct xsproxy *proxy)
{
    struct pollfd fds[1 + PAIRS * 2] = {{.fd = proxy->listener, .events = POLLIN}};

    for (int i = 0; i < PAIRS * 2; i++)
        fds[1 + i] = (struct pollfd){.fd = proxy->pair[i / 2][i % 2], .events = POLLIN};
    if (poll(fds, 1 + PAIRS * 2, POLL_MS) <= 0)
        return;
    for (int i = 0; i < PAIRS * 2; i++) {
        int *pair = proxy->pair[i / 2];

        if (pair[0] >= 0 && fds[1 + i].revents && !pass(pair[i % 2], pair[1 - i % 2]))
            drop(pair);
    }
    if (fds[0].revents)
        take(proxy);
}

static void *run(void *arg)
{
    struct xsproxy *proxy = arg;

    while (!atomic_load(&proxy->over)) {
        if (atomic_load(&proxy->cut)) {
            if (proxy->listener >= 0)
                close(proxy->listener);
            proxy->listener = -1;
            for (int i = 0; i < PAIRS; i++)
                drop(proxy->pair[i]);
        } else if (proxy->listener < 0) {
            proxy->listener = make_socket(&proxy->at, true);
        }
        turn(proxy);
    }
    return NULL;
}

struct xsproxy *xsproxy_start(const char *path, const char *to)
{
    struct xsproxy *proxy = calloc(1, sizeof(*proxy));

    if (!proxy)
        return NULL;
    proxy->at.sun_family = proxy->to.sun_family = AF_UNIX;
    snprintf(proxy->at.sun_path, sizeof(proxy->at.sun_path), "%s", path);
    snprintf(proxy->to.sun_path, sizeof(proxy->to.sun_path), "%s", to);
    for (int i = 0; i < PAIRS; i++)
        proxy->pair[i][0] = proxy->pair[i][1] = -1;
    proxy->listener = make_socket(&proxy->at, true);
    if (proxy->listener < 0 || pthread_create(&proxy->thread, NULL, run, proxy)) {
        free(proxy);
        return NULL;
    }
    return proxy;
}

void xsproxy_cut(struct xsproxy *proxy)
{
    atomic_store(&proxy->cut, true);
}

void xsproxy_mend(struct xsproxy *proxy)
{
    atomic_store(&proxy->cut, false);
}

void xsproxy_end(struct xsproxy *proxy)
{
    atomic_store(&proxy->cut, true);
    atomic_store(&proxy->over, true);
    pthread_join(proxy->thread, NULL);
    if (proxy->listener >= 0)
        close(proxy->listener);
    for (int i = 0; i < PAIRS; i++)
        drop(proxy->pair[i]);
    unlink(proxy->at.sun_path);
    free(proxy);
}
