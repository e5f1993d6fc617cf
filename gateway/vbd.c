/*
 * vbd: see vbd.h.
 *
 * Invariants
 *  1. Only vbd_step and what it calls change state, orders or xenstore; events only mark.
 *  2. Every write into B is a transaction that finds B in the state the decision was made on
 *     (vbd_nodes_write); if it is not, nothing is written and the next step decides anew.
 *  3. A life's orders come in the order OPEN, CONNECT, FAIL, CLOSE; after CLOSE the vbd waits for
 *     CLOSED before anything else but END; `order` is the last one given.
 *  4. B/state goes to 5 before order FAIL (law 6), and to 6 only after CLOSED: whoever sees 6 may
 *     open the disk elsewhere.
 *  5. CONNECT is ordered only when `blkgate-device` is in B: the kept file is known by it.
 *  6. A vbd that is not ours (FOREIGN) writes nothing at all.
 *  7. What a guest can cause again and again is logged through `chatter`.
 */
#include "gateway/vbd.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gateway/config.h"
#include "gateway/vbd_private.h"
#include "gateway/vbd_ring.h"
#include "gateway/xs.h"

static const char *const state_names[] = {
    [VBD_NEW] = "new",
    [VBD_FOREIGN] = "foreign",
    [VBD_IDLE] = "idle",
    [VBD_OPENING] = "opening",
    [VBD_READY] = "ready",
    [VBD_CONNECTING] = "connecting",
    [VBD_CONNECTED] = "connected",
    [VBD_SERVING] = "serving",
    [VBD_BROKEN] = "broken",
    [VBD_FAILED] = "failed",
    [VBD_CLOSING] = "closing",
    [VBD_HELD] = "held",
    [VBD_ENDING] = "ending",
    [VBD_OVER] = "over",
};

const char *vbd_state_name(enum vbd_state state)
{
    return (unsigned)state <= VBD_OVER ? state_names[state] : "?";
}

/* The arrows of vbd.h. */
static bool may_go(enum vbd_state from, enum vbd_state to)
{
#define TO(state) (1u << (VBD_##state))
    static const unsigned arrows[] = {
        [VBD_NEW] = TO(FOREIGN) | TO(IDLE) | TO(OVER),
        [VBD_FOREIGN] = TO(NEW) | TO(OVER),
        [VBD_IDLE] = TO(NEW) | TO(OPENING) | TO(HELD) | TO(ENDING) | TO(OVER),
        [VBD_OPENING] = TO(READY) | TO(BROKEN) | TO(CLOSING) | TO(ENDING),
        [VBD_READY] = TO(CONNECTING) | TO(BROKEN) | TO(CLOSING) | TO(ENDING),
        [VBD_CONNECTING] = TO(CONNECTED) | TO(BROKEN) | TO(CLOSING) | TO(ENDING),
        [VBD_CONNECTED] = TO(SERVING) | TO(BROKEN) | TO(CLOSING) | TO(ENDING),
        [VBD_SERVING] = TO(BROKEN) | TO(CLOSING) | TO(ENDING),
        [VBD_BROKEN] = TO(FAILED) | TO(CLOSING) | TO(ENDING),
        [VBD_FAILED] = TO(CLOSING) | TO(ENDING),
        [VBD_CLOSING] = TO(IDLE) | TO(ENDING),
        [VBD_HELD] = TO(NEW) | TO(IDLE) | TO(ENDING) | TO(OVER),
        [VBD_ENDING] = TO(NEW),
        [VBD_OVER] = 0,
    };
#undef TO
    return arrows[from] & (1u << to);
}

void vbd_set_state(struct vbd *vbd, enum vbd_state state)
{
    enum vbd_state before = vbd->state;

    assert(may_go(before, state));
    vbd->state = state;
    log_debug(vbd->name, "%s -> %s", vbd_state_name(before), vbd_state_name(state));
    if (before == VBD_CLOSING || before == VBD_ENDING || before == VBD_HELD)
        vbd->host->let_go(vbd->host);
}

static enum xenbus_life life_of(enum vbd_state state)
{
    switch (state) {
    case VBD_OPENING: return XENBUS_LIFE_OPENING;
    case VBD_READY: return XENBUS_LIFE_READY;
    case VBD_CONNECTING: return XENBUS_LIFE_CONNECTING;
    case VBD_CONNECTED: return XENBUS_LIFE_CONNECTED;
    case VBD_SERVING: return XENBUS_LIFE_SERVING;
    case VBD_BROKEN: return XENBUS_LIFE_BROKEN;
    case VBD_FAILED: return XENBUS_LIFE_FAILED;
    case VBD_CLOSING:
    case VBD_ENDING: return XENBUS_LIFE_CLOSING;
    default: return XENBUS_LIFE_NONE;
    }
}

/* -- events: they only mark ---------------------------------------------------------------- */

void vbd_mark(struct vbd *vbd)
{
    vbd->marked = true;
    vbd->host->marked(vbd->host);
}

static void on_timer(struct ev_loop *loop, ev_timer *timer, int revents)
{
    (void)loop;
    (void)revents;
    vbd_mark(timer->data);
}

void vbd_on_report(void *arg)
{
    vbd_mark(arg);
}

/* The guest may make what it likes below F/state: that is no news. */
static void on_frontend(void *arg, const char *path)
{
    struct vbd *vbd = arg;
    size_t length = strlen(vbd->node.frontend);

    if (strncmp(path, vbd->node.frontend, length) == 0 &&
        strncmp(path + length, "/" KEY_STATE "/", sizeof("/" KEY_STATE "/") - 1) == 0)
        return;
    vbd_mark(vbd); /* F/state itself, or a parent removed */
}

void vbd_wake_in(struct vbd *vbd, uint64_t ms)
{
    ev_timer_stop(vbd->host->loop, &vbd->timer);
    ev_timer_set(&vbd->timer, (double)ms / 1000, 0.);
    ev_timer_start(vbd->host->loop, &vbd->timer);
}

/* -- orders and reports -------------------------------------------------------------------- */

void vbd_order(struct vbd *vbd, enum disk_want want)
{
    vbd->order.want = want;
    disklink_order(vbd->link, &vbd->order);
}

void vbd_identity(const struct vbd *vbd, char ret_identity[static VBD_IDENTITY_BYTES])
{
    snprintf(ret_identity, VBD_IDENTITY_BYTES, "%016" PRIx64, config_disk_identity(vbd->disk));
}

static void set_reason(struct vbd *vbd, const char *reason)
{
    snprintf(vbd->reason, sizeof(vbd->reason), "%s", *reason ? reason : "no reason given");
}

static void forget_device(struct vbd *vbd)
{
    store_unwatch(vbd->host->store, vbd->watch);
    vbd->watch = NULL;
    disklink_destroy(vbd->link);
    vbd->link = NULL;
    config_disk_free(vbd->own_disk);
    vbd->own_disk = NULL;
    vbd->disk = NULL;
    vbd->known = vbd->frontend_was = XENBUS_ABSENT;
    vbd->went_back = false;
    vbd->alive = vbd->frontend_dead = false;
    vbd->spent = vbd->unclean = vbd->resumed = vbd->waiting = false;
    vbd->removing = vbd->orphan = vbd->served = vbd->suspending = vbd->offered = false;
    vbd->device_nonce = 0;
    vbd->reason[0] = vbd->status[0] = '\0';
    vbd->connected_before = false;
    free(vbd->node.params);
    memset(&vbd->node, 0, sizeof(vbd->node));
    memset(&vbd->order, 0, sizeof(vbd->order));
    memset(&vbd->report, 0, sizeof(vbd->report));
    ev_timer_stop(vbd->host->loop, &vbd->timer);
}

void vbd_end_device(struct vbd *vbd)
{
    store_unwatch(vbd->host->store, vbd->watch);
    vbd->watch = NULL;
    if (vbd->link) {
        vbd->order.at_once = vbd->stopping;
        vbd_order(vbd, DISK_WANT_END);
        vbd_set_state(vbd, VBD_ENDING);
        return;
    }
    if (vbd->state != VBD_NEW)
        vbd_set_state(vbd, VBD_NEW);
    forget_device(vbd);
    vbd_mark(vbd);
}

static void closed(struct vbd *vbd)
{
    if (vbd->report.reason[0])
        log_limited(&vbd->losses, LOG_LEVEL_WARNING, vbd->name, "closed with %s",
                    vbd->report.reason);
    else
        log_limited(&vbd->chatter, LOG_LEVEL_INFO, vbd->name, "closed");
    vbd->served = vbd->served && vbd->suspending;
    vbd_set_state(vbd, VBD_IDLE);
}

void vbd_break(struct vbd *vbd, const char *reason)
{
    set_reason(vbd, reason);
    log_limited(&vbd->chatter, LOG_LEVEL_ERROR, vbd->name, "%s: %s",
                vbd->state == VBD_OPENING      ? "cannot be opened"
                : vbd->state == VBD_CONNECTING ? "the frontend cannot be connected"
                : vbd->served                  ? "lost, the guest will see errors"
                                               : "failed",
                vbd->reason);
    vbd_set_state(vbd, VBD_BROKEN);
}

/* Takes up what the disk last reported. */
static void hear(struct vbd *vbd)
{
    struct disk_report report;

    if (!vbd->link)
        return;
    disklink_report(vbd->link, &report);
    if (report.phase == DISK_ENDED && vbd->state == VBD_ENDING) {
        if (report.reason[0])
            log_warning(vbd->name, "closed with %s", report.reason);
        vbd_set_state(vbd, VBD_NEW);
        forget_device(vbd);
        return;
    }
    if (report.life != vbd->order.life)
        return; /* of the life before: not there yet */
    vbd->report = report;
    switch (report.phase) {
    case DISK_READY:
        if (vbd->state == VBD_OPENING)
            vbd_set_state(vbd, VBD_READY);
        break;
    case DISK_CONNECTED:
        if (vbd->state == VBD_CONNECTING)
            vbd_set_state(vbd, VBD_CONNECTED);
        break;
    case DISK_REFUSED:
        if (vbd->resumed && (vbd->state == VBD_OPENING || vbd->state == VBD_CONNECTING)) {
            vbd_hold_instead(vbd, report.reason);
            break;
        }
        vbd->served = vbd->served && vbd->state != VBD_CONNECTING;
        /* fall through */
    case DISK_LOST:
        if (vbd->state >= VBD_OPENING && vbd->state <= VBD_SERVING)
            vbd_break(vbd, report.reason);
        break;
    case DISK_CLOSED:
        if (vbd->state == VBD_CLOSING)
            closed(vbd);
        break;
    default: break;
    }
}

/* -- a step -------------------------------------------------------------------------------- */

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* B is ours: what it says for good, its disk, and a watch on the frontend. */
static int adopt(struct vbd *vbd, const struct vbd_node *node)
{
    char path[LIMIT_XENSTORE_PATH_BYTES];
    const char *label = node->params;
    int ret;

    free(vbd->node.params); /* of an earlier try */
    vbd->node = *node;
    snprintf(path, sizeof(path), "%s/" KEY_STATE, node->frontend);
    ret = store_watch(vbd->host->store, path, on_frontend, vbd, &vbd->watch);
    if (ret < 0)
        return ret;
    ret = store_domain_alive(vbd->host->store, vbd->domid, &vbd->alive);
    if (ret < 0) {
        store_unwatch(vbd->host->store, vbd->watch);
        vbd->watch = NULL;
        return ret;
    }
    vbd->found_ms = now_ms();
    vbd->generation = vbd->host->generation;
    snprintf(vbd->name, sizeof(vbd->name), "%u/%s (%.60s%s)", vbd->domid, vbd->vdev, label,
             strlen(label) > 60 ? "..." : "");
    if (vbd_nodes_disk(node, vbd->host->config, &vbd->disk, &vbd->own_disk, vbd->reason) < 0) {
        vbd->spent = true;
        vbd->spent_at = XENBUS_INITIALISING;
        log_error(vbd->name, "cannot be served: %s", vbd->reason);
    } else {
        log_info(vbd->name, "found (%s%s%s)", vbd_kind_name(vbd->kind),
                 node->script ? ", by script" : "", vbd_is_readonly(vbd) ? ", read-only" : "");
    }
    return 0;
}

/* Without B there is no device, and nothing of it may be written any more. */
static void be_over(struct vbd *vbd)
{
    (void)vbd_drop_file(vbd);
    vbd_set_state(vbd, VBD_OVER);
}

/* Who waits for it is told why, if it is ours. */
static void not_adopted(struct vbd *vbd, int error)
{
    struct vbd_seen seen;

    vbd_not_now(vbd, "not looked at", error);
    if (!vbd->refused[0] || !vbd->node.frontend[0] ||
        vbd_nodes_see(vbd->host->store, vbd->back, &vbd->node, false, &seen) < 0)
        return;
    if (!seen.status && seen.own <= XENBUS_INIT_WAIT) /* B was made anew meanwhile */
        vbd->status[0] = '\0';
    (void)vbd_show_status(vbd, &seen);
}

/* NEW or FOREIGN: is it ours by now, or gone? */
static void look(struct vbd *vbd)
{
    struct vbd_node node;
    bool exists = false;
    int ret = vbd_nodes_find(vbd->host->store, vbd->host->config, vbd->kind, vbd->back, vbd->domid,
                             &node);

    if (ret == 0)
        ret = adopt(vbd, &node);
    if (ret == 0) {
        if (vbd->state == VBD_FOREIGN)
            vbd_set_state(vbd, VBD_NEW);
        vbd_set_state(vbd, VBD_IDLE);
        return;
    }
    if (ret == -ENOENT)
        ret = vbd_nodes_exist(vbd->host->store, vbd->back, &exists);
    if (ret < 0)
        not_adopted(vbd, ret);
    else if (!exists)
        be_over(vbd);
    else if (vbd->state == VBD_NEW)
        vbd_set_state(vbd, VBD_FOREIGN);
}

/* What the vbd remembers of the frontend and the past. */
static void remember(struct vbd *vbd, const struct vbd_seen *seen)
{
    bool at_work = seen->frontend >= XENBUS_INITIALISED && seen->frontend <= XENBUS_CLOSING;
    bool first = vbd->known == XENBUS_ABSENT;

    if (first)
        vbd->device_nonce = seen->device_nonce;
    if (first && at_work && (seen->own == XENBUS_CONNECTED || seen->own == XENBUS_CLOSING)) {
        bool same =
            vbd->disk && (seen->export_id == 0 || config_disk_reaches(vbd->disk, seen->export_id));

        vbd->resumed = same;
        vbd->rings.shape = seen->past_shape;
        vbd->unclean = !same; /* without a disk too: the next start may have it again */
        if (vbd->disk && !same)
            set_reason(vbd, "its export in the configuration is not the one that the guest is "
                            "connected to: write that one, or have the guest close it");
    }
    if (!at_work)
        vbd->resumed = vbd->unclean = false;
    /* A new coming of the frontend: it may be tried again. */
    if (seen->frontend == XENBUS_ABSENT || seen->frontend == XENBUS_CLOSED ||
        (seen->frontend == XENBUS_INITIALISING && vbd->spent_at != XENBUS_INITIALISING))
        vbd->spent = false;
    vbd->went_back = seen->frontend == XENBUS_INITIALISED && vbd->frontend_was == XENBUS_CONNECTED;
    vbd->frontend_was = seen->frontend;
}

/* xenstored died and came back without B: that is no word of the toolstack's about this disk. */
static bool is_orphan(struct vbd *vbd, const struct vbd_seen *seen)
{
    if (seen->own != XENBUS_ABSENT) {
        vbd->generation = vbd->host->generation;
        vbd->orphan = false;
        return false;
    }
    if (vbd->generation != vbd->host->generation && !vbd->orphan &&
        (vbd->state == VBD_CONNECTED || vbd->state == VBD_SERVING)) {
        vbd->orphan = true;
        log_error(vbd->name, "xenstored came back without its nodes: served on, but it can only be "
                             "ended by stopping blkgated");
    }
    return vbd->orphan;
}

/* Has the frontend made its rings anew, with no word of goodbye? They may be other ones; the same
 * ones, of the same names, tell by the state, or by what is in them (the disk's word). */
static bool rings_anew(struct vbd *vbd, const struct vbd_seen *seen)
{
    struct disk_order order;
    char unused[LIMIT_REASON_BYTES];

    if (vbd->state != VBD_SERVING ||
        (seen->frontend != XENBUS_INITIALISED && seen->frontend != XENBUS_CONNECTED))
        return false;
    /* Nodes that cannot be connected to are no new connection (GRUB leaves them empty). */
    if (vbd_nodes_rings(vbd->host->store, vbd->back, &vbd->node, &vbd->rings.shape, &order,
                        unused) < 0)
        return false;
    return vbd->went_back || vbd->report.stale || !vbd_ring_same(&order, &vbd->order);
}

/* A `vbd` with a script is xen-blkback's to put into state 2, if there is one. */
static bool may_offer(struct vbd *vbd, const struct vbd_seen *seen)
{
    uint64_t waited = now_ms() - vbd->found_ms;

    if (vbd->kind != VBD_KIND_VBD || !vbd->node.script || waited >= LIMIT_UNCLAIMED_MS)
        return true;
    if (seen->own == XENBUS_INITIALISING)
        vbd_wake_in(vbd, LIMIT_UNCLAIMED_MS - waited + 1);
    return false;
}

static enum xenbus_action decide(struct vbd *vbd, const struct vbd_seen *seen)
{
    struct xenbus_view view = {
        .own = seen->own,
        .known = vbd->known,
        .frontend = seen->frontend,
        .life = life_of(vbd->state),
        .online = seen->online && seen->shutdown == VBD_SHUTDOWN_NONE,
        .unplug = seen->shutdown != VBD_SHUTDOWN_NONE,
        .frontend_dead = vbd->frontend_dead || seen->shutdown == VBD_SHUTDOWN_FORCE,
        .gate_open = !vbd->node.script || seen->hotplug == VBD_HOTPLUG_CONNECTED,
        .may_offer = may_offer(vbd, seen),
        .renewed = vbd->status[0] && !seen->status,
        .rings_anew = rings_anew(vbd, seen),
        .spent = vbd->spent,
        .unclean = vbd->unclean,
        .resumed = vbd->resumed,
        /* Who asked by shutdown-request waits for the answer in B, and removes it. */
        .remove = vbd->host->domid != 0 && !vbd->node.script && seen->shutdown == VBD_SHUTDOWN_NONE,
    };

    return xenbus_decide(&view);
}

static int see(struct vbd *vbd, struct vbd_seen *ret_seen)
{
    int ret = vbd_nodes_see(vbd->host->store, vbd->back, &vbd->node, vbd->known == XENBUS_ABSENT,
                            ret_seen);

    if (ret == 0)
        remember(vbd, ret_seen);
    return ret;
}

static void step(struct vbd *vbd)
{
    struct vbd_seen seen;
    enum xenbus_action action;
    int ret = see(vbd, &seen);

    if (ret < 0) {
        vbd_not_now(vbd, "not looked at", ret);
        return;
    }
    if (is_orphan(vbd, &seen))
        return;
    action = decide(vbd, &seen);
    if (action != XENBUS_DO_FORGET && action != XENBUS_DO_RENEW &&
        vbd_show_status(vbd, &seen) == -ESTALE)
        action = XENBUS_DO_RENEW;
    vbd->known = seen.own;
    if (action == XENBUS_DO_NOTHING) {
        vbd_show_limits(vbd, &seen);
        vbd_show_size(vbd, &seen);
        vbd_show_end(vbd, &seen);
    }
    vbd_act(vbd, &seen, action);
}

/* -- the stop ------------------------------------------------------------------------------ */

/* Suspended, or the state 6 that the frontend still waits for. */
static void stop_idle(struct vbd *vbd)
{
    struct vbd_seen seen;

    if (vbd->suspending) {
        vbd->suspending = false;
        if (vbd->served)
            log_info(vbd->name, "released; the guest waits for the next start");
    } else if (vbd->state == VBD_IDLE && !vbd_has_file(vbd) && see(vbd, &seen) == 0 &&
               decide(vbd, &seen) == XENBUS_DO_CLOSED) {
        vbd_act(vbd, &seen, XENBUS_DO_CLOSED);
        if (vbd->known == XENBUS_CLOSED)
            vbd_end_device(vbd);
        return;
    }
    vbd_end_device(vbd);
}

static void stop_step(struct vbd *vbd)
{
    switch (vbd->state) {
    case VBD_NEW:
    case VBD_FOREIGN: vbd_set_state(vbd, VBD_OVER); break;
    case VBD_IDLE:
    case VBD_HELD: stop_idle(vbd); break;
    case VBD_OPENING: /* there may be something kept already */
    case VBD_READY:
    case VBD_CONNECTING:
    case VBD_CONNECTED:
    case VBD_SERVING:
        vbd->suspending = true;
        vbd_order(vbd, DISK_WANT_SUSPEND);
        vbd_set_state(vbd, VBD_CLOSING);
        break;
    case VBD_BROKEN:
        if (vbd->served)
            step(vbd); /* the guest sees state 5 before errors (invariant 4) */
        if (vbd->state == VBD_BROKEN)
            vbd_end_device(vbd);
        break;
    case VBD_FAILED: vbd_end_device(vbd); break;
    case VBD_ENDING:
        if (!vbd->order.at_once) {
            vbd->order.at_once = true;
            vbd_order(vbd, DISK_WANT_END);
        }
        break;
    case VBD_CLOSING:
    case VBD_OVER: break; /* to be waited for */
    }
}

void vbd_look(struct vbd *vbd)
{
    struct vbd_seen seen;

    if (vbd->state != VBD_NEW || vbd->stopping)
        return;
    look(vbd);
    if (vbd->state == VBD_IDLE)
        (void)see(vbd, &seen); /* if it fails, the step says so */
}

void vbd_step(struct vbd *vbd)
{
    vbd->marked = false;
    hear(vbd);
    if (vbd->stopping) {
        stop_step(vbd);
        return;
    }
    vbd->hindered = false;
    if (vbd->state == VBD_NEW || vbd->state == VBD_FOREIGN)
        look(vbd);
    switch (vbd->state) {
    case VBD_NEW:
    case VBD_FOREIGN:
    case VBD_ENDING:
    case VBD_OVER: break;
    default: step(vbd); break;
    }
    vbd_unhindered(vbd);
}

void vbd_stop(struct vbd *vbd)
{
    vbd->stopping = true;
    vbd_mark(vbd);
}

void vbd_probe(struct vbd *vbd)
{
    if (!vbd->link || vbd->state < VBD_READY || vbd->state > VBD_SERVING)
        return; /* a disk that is opened later sees the size of then */
    vbd->order.probe++;
    vbd_order(vbd, vbd->order.want);
}

void vbd_check_domain(struct vbd *vbd)
{
    bool alive = true;

    if (vbd->state == VBD_NEW || vbd->state == VBD_FOREIGN || vbd->state == VBD_OVER)
        return;
    if (store_domain_alive(vbd->host->store, vbd->domid, &alive) < 0)
        return;
    if (!alive && vbd->alive && !vbd->frontend_dead) {
        log_info(vbd->name, "its domain is gone");
        vbd->frontend_dead = true;
    }
    vbd->alive = vbd->alive || alive;
    vbd_mark(vbd);
}

/* -- life and questions -------------------------------------------------------------------- */

int vbd_create(struct vbd_host *host, enum vbd_kind kind, uint16_t domid, uint32_t devid,
               struct vbd **ret_vbd)
{
    struct vbd *vbd = calloc(1, sizeof(*vbd));

    if (!vbd)
        return -ENOMEM;
    vbd->host = host;
    vbd->kind = kind;
    vbd->domid = domid;
    vbd->devid = devid;
    vbd->state = VBD_NEW;
    snprintf(vbd->back, sizeof(vbd->back), "/local/domain/%u/backend/%s/%u/%u", host->domid,
             vbd_kind_name(kind), domid, devid);
    (void)xenbus_vdev_name(devid, vbd->vdev, sizeof(vbd->vdev));
    snprintf(vbd->name, sizeof(vbd->name), "%u/%s", domid, vbd->vdev);
    ev_init(&vbd->timer, on_timer);
    vbd->timer.data = vbd;
    *ret_vbd = vbd;
    return 0;
}

void vbd_destroy(struct vbd *vbd)
{
    if (!vbd)
        return;
    ev_timer_stop(vbd->host->loop, &vbd->timer);
    if (vbd->link)
        return; /* the worker did not let go of it in time */
    forget_device(vbd);
    free(vbd);
}

bool vbd_is_marked(const struct vbd *vbd)
{
    return vbd->marked;
}

enum vbd_state vbd_get_state(const struct vbd *vbd)
{
    return vbd->state;
}

const char *vbd_name(const struct vbd *vbd)
{
    return vbd->name;
}

bool vbd_is_of_kind(const struct vbd *vbd, enum vbd_kind kind)
{
    return vbd->kind == kind;
}

bool vbd_is_of_domain(const struct vbd *vbd, enum vbd_kind kind, uint16_t domid)
{
    return vbd->kind == kind && vbd->domid == domid;
}

bool vbd_is(const struct vbd *vbd, enum vbd_kind kind, uint16_t domid, uint32_t devid)
{
    return vbd_is_of_domain(vbd, kind, domid) && vbd->devid == devid;
}

const struct config_disk *vbd_disk(const struct vbd *vbd)
{
    return vbd->disk;
}

bool vbd_is_readonly(const struct vbd *vbd)
{
    return vbd->node.readonly || (vbd->disk && vbd->disk->readonly);
}

enum vbd_hold vbd_holds(const struct vbd *vbd)
{
    switch (vbd->state) {
    case VBD_OPENING:
    case VBD_READY:
    case VBD_CONNECTING:
    case VBD_CONNECTED:
    case VBD_SERVING:
    case VBD_BROKEN:
    case VBD_FAILED:
    case VBD_HELD: return VBD_HOLDS;
    case VBD_CLOSING:
    case VBD_ENDING: return VBD_LETS_GO;
    case VBD_IDLE:
        return vbd->unclean || (vbd->resumed && !vbd->spent) || vbd_has_file(vbd) ? VBD_AWAITS
                                                                                  : VBD_HOLDS_NOT;
    default: return VBD_HOLDS_NOT;
    }
}
