/*
 * backend: see backend.h.
 *
 * Invariants
 *  1. Callbacks only mark and note; all work is in work(), once per loop turn, before the loop
 *     would sleep: thousand events of one vbd are one step (XSA-349).
 *  2. A vbd exists for every B of a served kind, ours or not, and LIMIT_DISKS at most.
 *  3. The thread runs between backend_start and backend_stop; before and after, the caller's
 *     thread owns everything here. In between it owns only stop_item and probe_item.
 */
#include "gateway/backend.h"

#include <errno.h>
#include <ev.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/config.h"
#include "gateway/disklink.h"
#include "gateway/keepdir.h"
#include "gateway/log.h"
#include "gateway/mailbox.h"
#include "gateway/vbd.h"
#include "gateway/worker.h"
#include "gateway/xs.h"

struct kind {
    struct backend *backend;
    enum vbd_kind kind;
    char root[64];
    struct store_watch *watch;
    bool scan; /* look for all of its devices */
};

struct backend {
    struct vbd_host host; /* first: host callbacks cast */
    struct worker *const *workers;
    unsigned worker_count;
    pthread_t thread;

    struct kind kinds[VBD_KINDS];
    struct store_watch *domains_watch;
    bool check_domains;
    struct vbd **vbds;
    unsigned vbd_count;
    struct log_limit full;

    ev_prepare work;
    ev_idle more; /* active: work is left, so the loop must not sleep */
    bool marked;

    struct mailbox_item stop_item;
    struct mailbox_item probe_item;
    ev_timer stop_timer;
    bool stopping;
};

/* -- vbds ---------------------------------------------------------------------------------- */

static struct vbd *find_vbd(struct backend *backend, enum vbd_kind kind, uint16_t domid,
                            uint32_t devid)
{
    for (unsigned i = 0; i < backend->vbd_count; i++)
        if (vbd_is(backend->vbds[i], kind, domid, devid))
            return backend->vbds[i];
    return NULL;
}

static void discover(struct backend *backend, enum vbd_kind kind, uint16_t domid, uint32_t devid)
{
    struct vbd *vbd = find_vbd(backend, kind, domid, devid);

    if (!vbd) {
        if (backend->stopping)
            return;
        if (backend->vbd_count == LIMIT_DISKS ||
            vbd_create(&backend->host, kind, domid, devid, &vbd) < 0) {
            log_limited(&backend->full, LOG_LEVEL_ERROR, NULL,
                        "device %u/%u is left alone: %u devices are all there can be", domid, devid,
                        backend->vbd_count);
            return;
        }
        backend->vbds[backend->vbd_count++] = vbd;
    }
    vbd_mark(vbd);
}

static void scan_domain(struct backend *backend, const struct kind *kind, uint16_t domid)
{
    char path[96];
    char **names;
    unsigned count;
    uint32_t devid = 0;

    snprintf(path, sizeof(path), "%s/%u", kind->root, domid);
    if (store_list(backend->host.store, path, &names, &count) < 0)
        return;
    for (unsigned i = 0; i < count; i++)
        if (xenbus_parse_u32(names[i], UINT32_MAX, &devid) == 0)
            discover(backend, kind->kind, domid, devid);
    free(names);
}

static void scan_kind(struct backend *backend, struct kind *kind)
{
    struct xenbus_place place;
    char path[96];
    char **names;
    unsigned count;
    int ret = store_list(backend->host.store, kind->root, &names, &count);

    if (ret == -ENOTCONN)
        return; /* again when it is back */
    kind->scan = false;
    if (ret < 0) /* no device of this kind yet */
        return;
    for (unsigned i = 0; i < count; i++) {
        snprintf(path, sizeof(path), "%s/%s", kind->root, names[i]);
        if (xenbus_place_parse(path, kind->root, &place) == 0 && place.depth == 1)
            scan_domain(backend, kind, place.domid);
    }
    free(names);
}

/* Only if xenstore says so. It says nothing before the toolstack has begun, and our own number
 * could be wrong. */
static bool device_is_gone(void *arg, const char *kind, uint32_t domid, uint32_t devid)
{
    struct backend *backend = arg;
    char back[96];
    bool exists = true;

    for (unsigned i = 0; i < VBD_KINDS; i++) {
        if (strcmp(kind, vbd_kind_name((enum vbd_kind)i)) != 0)
            continue;
        snprintf(back, sizeof(back), "%s/%u/%u", backend->kinds[i].root, domid, devid);
        if (vbd_nodes_exist(backend->host.store, back, &exists) < 0)
            return false;
    }
    return !exists;
}

static void remove_stale_files(struct backend *backend)
{
    char path[32];
    char **names;
    unsigned count;

    snprintf(path, sizeof(path), "/local/domain/%u", backend->host.domid);
    if (store_list(backend->host.store, path, &names, &count) < 0)
        return;
    free(names);
    keepdir_sweep(backend->host.config->keep_dir, device_is_gone, backend);
}

static void mark_all(struct backend *backend)
{
    for (unsigned i = 0; i < backend->vbd_count; i++)
        vbd_mark(backend->vbds[i]);
}

/* -- what vbds ask for --------------------------------------------------------------------- */

static void host_marked(struct vbd_host *host)
{
    ((struct backend *)host)->marked = true;
}

/* Everybody may wait for this one; there are few, and a step of theirs is cheap. */
static void host_let_go(struct vbd_host *host)
{
    struct backend *backend = (struct backend *)host;

    for (unsigned i = 0; i < backend->vbd_count; i++)
        if (vbd_get_state(backend->vbds[i]) == VBD_IDLE)
            vbd_mark(backend->vbds[i]);
}

static int host_claim(struct vbd_host *host, const struct vbd *vbd,
                      char ret_reason[static LIMIT_REASON_BYTES])
{
    struct backend *backend = (struct backend *)host;
    const struct config_disk *disk = vbd_disk(vbd);
    int ret = 0;

    if (vbd_is_readonly(vbd))
        return 0;
    for (unsigned i = 0; i < backend->vbd_count; i++) {
        const struct vbd *other = backend->vbds[i];
        enum vbd_hold hold;

        if (other == vbd || !vbd_disk(other) || vbd_is_readonly(other) ||
            !config_disks_meet(vbd_disk(other), disk) || (vbd_disk(other)->shared && disk->shared))
            continue;
        hold = vbd_holds(other);
        if (hold == VBD_HOLDS_NOT)
            continue;
        if (hold == VBD_AWAITS && vbd_holds(vbd) == VBD_AWAITS)
            continue; /* one of them has to be first */
        if (hold != VBD_LETS_GO) {
            snprintf(ret_reason, LIMIT_REASON_BYTES,
                     "its export is attached writable already, as %s (detach that one, or attach "
                     "read-only, or configure shared = yes)",
                     vbd_name(other));
            return -EBUSY;
        }
        ret = -EAGAIN;
    }
    return ret;
}

static unsigned least_loaded(const struct backend *backend)
{
    unsigned best = 0, best_load = worker_load(backend->workers[0]), load;

    for (unsigned i = 1; i < backend->worker_count; i++) {
        load = worker_load(backend->workers[i]);
        if (load >= best_load)
            continue;
        best = i;
        best_load = load;
    }
    return best;
}

/* For its whole life: disks do not move. */
static int host_place(struct vbd_host *host, struct disklink *link)
{
    struct backend *backend = (struct backend *)host;
    int wanted = disklink_spec(link)->config->worker;
    unsigned index = wanted >= 0 && (unsigned)wanted < backend->worker_count
                         ? (unsigned)wanted
                         : least_loaded(backend);

    log_debug(disklink_spec(link)->name, "placed on worker %u", index);
    return worker_place_disk(backend->workers[index], link);
}

/* -- events: they only mark and note ------------------------------------------------------- */

/* The nodes of B that decide anything; our own writes of the others are no news. */
static bool matters(const char *leaf)
{
    static const char *const leaves[] = {
        KEY_STATE,  KEY_ONLINE,      KEY_HOTPLUG_STATUS, KEY_FRONTEND,
        KEY_SCRIPT, KEY_FRONTEND_ID, KEY_PARAMS,         KEY_SHUTDOWN_REQUEST,
    };

    for (unsigned i = 0; i < sizeof(leaves) / sizeof(*leaves); i++)
        if (strcmp(leaf, leaves[i]) == 0)
            return true;
    return false;
}

static void on_kind(void *arg, const char *path)
{
    struct kind *kind = arg;
    struct backend *backend = kind->backend;
    struct xenbus_place place;

    if (xenbus_place_parse(path, kind->root, &place) < 0)
        return;
    if (place.depth == 3 && !matters(place.leaf))
        return;
    backend->marked = true;
    if (place.depth >= 2) {
        discover(backend, kind->kind, place.domid, place.devid);
        return;
    }
    kind->scan = true;
    for (unsigned i = 0; i < backend->vbd_count; i++)
        if (place.depth == 1 ? vbd_is_of_domain(backend->vbds[i], kind->kind, place.domid)
                             : vbd_is_of_kind(backend->vbds[i], kind->kind))
            vbd_mark(backend->vbds[i]);
}

static void on_domains(void *arg, const char *path)
{
    struct backend *backend = arg;

    (void)path;
    backend->check_domains = true;
    backend->marked = true;
}

static void on_lost(void *arg)
{
    (void)arg;
    log_error(NULL, "the connection to xenstore is lost: disks are served on, but none can be "
                    "attached or detached until it is back");
}

static void on_back(void *arg)
{
    struct backend *backend = arg;

    log_info(NULL, "the connection to xenstore is back");
    backend->host.generation++;
    for (unsigned i = 0; i < VBD_KINDS; i++)
        backend->kinds[i].scan = true;
    backend->check_domains = true;
    mark_all(backend);
}

static void on_stop(struct mailbox_item *item)
{
    struct backend *backend =
        (struct backend *)(void *)((char *)item - offsetof(struct backend, stop_item));

    backend->stopping = true;
    backend->marked = true;
    ev_timer_start(backend->host.loop, &backend->stop_timer);
    for (unsigned i = 0; i < backend->vbd_count; i++)
        vbd_stop(backend->vbds[i]);
}

static void on_probe(struct mailbox_item *item)
{
    struct backend *backend =
        (struct backend *)(void *)((char *)item - offsetof(struct backend, probe_item));

    for (unsigned i = 0; i < backend->vbd_count; i++)
        vbd_probe(backend->vbds[i]);
}

static void on_stop_timer(struct ev_loop *loop, ev_timer *timer, int revents)
{
    struct backend *backend = timer->data;

    (void)revents;
    for (unsigned i = 0; i < backend->vbd_count; i++)
        log_error(vbd_name(backend->vbds[i]), "not stopped in time (%s): given up",
                  vbd_state_name(vbd_get_state(backend->vbds[i])));
    ev_break(loop, EVBREAK_ALL);
}

/* -- work ---------------------------------------------------------------------------------- */

static void work(struct backend *backend)
{
    unsigned kept = 0;

    backend->marked = false;
    for (unsigned i = 0; i < VBD_KINDS; i++)
        if (backend->kinds[i].scan && !backend->stopping)
            scan_kind(backend, &backend->kinds[i]);
    if (backend->check_domains) {
        backend->check_domains = false;
        for (unsigned i = 0; i < backend->vbd_count; i++)
            vbd_check_domain(backend->vbds[i]);
    }
    for (unsigned i = 0; i < backend->vbd_count; i++)
        if (vbd_is_marked(backend->vbds[i]))
            vbd_look(backend->vbds[i]);
    for (unsigned i = 0; i < backend->vbd_count; i++)
        if (vbd_is_marked(backend->vbds[i]))
            vbd_step(backend->vbds[i]);
    for (unsigned i = 0; i < backend->vbd_count; i++) {
        if (vbd_get_state(backend->vbds[i]) == VBD_OVER)
            vbd_destroy(backend->vbds[i]);
        else
            backend->vbds[kept++] = backend->vbds[i];
    }
    backend->vbd_count = kept;
}

static void on_work(struct ev_loop *loop, ev_prepare *prepare, int revents)
{
    struct backend *backend = prepare->data;

    (void)revents;
    if (backend->marked)
        work(backend);
    if (backend->stopping && backend->vbd_count == 0)
        ev_break(loop, EVBREAK_ALL);
    if (backend->marked)
        ev_idle_start(loop, &backend->more);
    else
        ev_idle_stop(loop, &backend->more);
}

static void on_more(struct ev_loop *loop, ev_idle *idle, int revents)
{
    (void)loop;
    (void)idle;
    (void)revents; /* that the loop turned is all it is for */
}

/* -- life ---------------------------------------------------------------------------------- */

static void *run(void *arg)
{
    struct backend *backend = arg;

    pthread_setname_np(pthread_self(), "blkgate-store");
    ev_run(backend->host.loop, 0);
    return NULL;
}

static void free_backend(struct backend *backend)
{
    for (unsigned i = 0; i < backend->vbd_count; i++)
        vbd_destroy(backend->vbds[i]);
    free(backend->vbds);
    store_close(backend->host.store); /* and its watches */
    mailbox_destroy(backend->host.box);
    if (backend->host.loop)
        ev_loop_destroy(backend->host.loop);
    free(backend);
}

static int start_watching(struct backend *backend)
{
    struct vbd_host *host = &backend->host;
    char domid[16];
    uint32_t value = host->config->domid;
    int ret = store_read(host->store, STORE_ALONE, "domid", domid, sizeof(domid));

    if (ret == 0)
        (void)xenbus_parse_u32(domid, XENBUS_DOMID_MAX, &value);
    host->domid = (uint16_t)value;
    for (unsigned i = 0; i < VBD_KINDS; i++) {
        struct kind *kind = &backend->kinds[i];

        kind->backend = backend;
        kind->kind = (enum vbd_kind)i;
        snprintf(kind->root, sizeof(kind->root), "/local/domain/%u/backend/%s", host->domid,
                 vbd_kind_name(kind->kind));
        ret = store_watch(host->store, kind->root, on_kind, kind, &kind->watch);
        if (ret < 0)
            return ret;
        kind->scan = true;
    }
    return store_watch(host->store, "@releaseDomain", on_domains, backend, &backend->domains_watch);
}

static int start_thread(struct backend *backend)
{
    sigset_t all, before;
    int error;

    sigfillset(&all); /* signals are main's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&backend->thread, NULL, run, backend);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

static void init_watchers(struct backend *backend)
{
    ev_prepare_init(&backend->work, on_work);
    backend->work.data = backend;
    ev_prepare_start(backend->host.loop, &backend->work);
    ev_idle_init(&backend->more, on_more);
    /* A second earlier than the caller stops waiting for this thread. */
    ev_timer_init(&backend->stop_timer, on_stop_timer, LIMIT_STOP_MS / 1000. - 1., 0.);
    backend->stop_timer.data = backend;
    backend->stop_item.deliver = on_stop;
    backend->probe_item.deliver = on_probe;
}

int backend_start(const struct config *config, struct worker *const *workers, unsigned worker_count,
                  struct backend **ret_backend)
{
    struct backend *backend = calloc(1, sizeof(*backend));
    const struct store_events events = {.lost = on_lost, .back = on_back, .arg = backend};
    int ret = -ENOMEM;

    if (!backend)
        return -ENOMEM;
    backend->host.config = config;
    backend->host.marked = host_marked;
    backend->host.claim = host_claim;
    backend->host.place = host_place;
    backend->host.let_go = host_let_go;
    backend->workers = workers;
    backend->worker_count = worker_count;
    backend->vbds = calloc(LIMIT_DISKS, sizeof(struct vbd *));
    backend->host.loop = ev_loop_new(EVFLAG_AUTO);
    if (!backend->vbds || !backend->host.loop)
        goto out;
    ret = mailbox_create(backend->host.loop, &backend->host.box);
    if (ret < 0)
        goto out;
    ret = store_open(backend->host.loop, &events, &backend->host.store);
    if (ret < 0)
        goto out;
    ret = start_watching(backend);
    if (ret < 0)
        goto out;
    init_watchers(backend);
    backend->marked = true;
    work(backend); /* what is there already is found before we say that we serve */
    remove_stale_files(backend);
    ret = start_thread(backend);
    if (ret < 0)
        goto out;
    *ret_backend = backend;
    return 0;
out:
    free_backend(backend);
    return ret;
}

void backend_probe(struct backend *backend)
{
    mailbox_post(backend->host.box, &backend->probe_item);
}

int backend_stop(struct backend *backend)
{
    struct timespec end;

    if (!backend)
        return 0;
    mailbox_post(backend->host.box, &backend->stop_item);
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += LIMIT_STOP_MS / 1000;
    if (pthread_timedjoin_np(backend->thread, NULL, &end) != 0) {
        log_error(NULL, "xenstore does not answer: stopping without it");
        return -ETIMEDOUT; /* the thread still uses everything */
    }
    if (backend->vbd_count > 0)
        return -ETIMEDOUT; /* workers still use the links and the mailbox */
    free_backend(backend);
    return 0;
}
