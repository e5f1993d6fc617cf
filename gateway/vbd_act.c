/*
 * vbd_act: the actions that xenbus_decide names, carried out for a vbd. Invariants: vbd.c.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "gateway/config.h"
#include "gateway/keepdir.h"
#include "gateway/vbd_private.h"
#include "gateway/xs.h"
#include "proto/ring.h"

static const char failure[] = "failed: ";

static void spend(struct vbd *vbd, enum xenbus_state frontend)
{
    vbd->spent = true;
    vbd->spent_at = frontend;
}

/* -- writing into B ------------------------------------------------------------------------ */

static void refuse(struct vbd *vbd, const char *what, int error)
{
    vbd->hindered = true;
    if (vbd->refused[0])
        return; /* said already */
    snprintf(vbd->refused, sizeof(vbd->refused),
             "xenstored takes no more from this domain: %s (its quota? see blkgate quota); tried "
             "again every second",
             strerror(-error));
    log_limited(&vbd->chatter, LOG_LEVEL_ERROR, vbd->name, "%s: %s", what, vbd->refused);
}

/* Trouble with a read or write: nothing was changed. Look again, at once if B has changed. */
void vbd_not_now(struct vbd *vbd, const char *what, int error)
{
    if (error == -ENOTCONN)
        return; /* after which everything is looked at anyway */
    if (error == -ENOENT || error == -ESTALE) {
        vbd_mark(vbd);
        return;
    }
    if (store_is_quota(error))
        refuse(vbd, what, error);
    else
        log_limited(&vbd->chatter, LOG_LEVEL_ERROR, vbd->name, "%s: xenstore says %s, trying again",
                    what, strerror(-error));
    vbd_wake_in(vbd, LIMIT_XENSTORE_RETRY_MS);
}

void vbd_unhindered(struct vbd *vbd)
{
    if (vbd->hindered || !vbd->refused[0])
        return;
    vbd->refused[0] = '\0';
    log_limited(&vbd->chatter, LOG_LEVEL_INFO, vbd->name, "xenstored takes its nodes again");
    vbd_mark(vbd);
}

/* Moves B/state from what was seen, together with other nodes. */
static int go(struct vbd *vbd, const struct vbd_seen *seen, enum xenbus_state to,
              const struct vbd_write *writes, unsigned count)
{
    int ret;

    assert(xenbus_may_go(seen->own, to));
    ret = vbd_nodes_write(vbd->host->store, vbd->back, seen->own, to, writes, count);
    if (ret < 0) {
        vbd_not_now(vbd, "state not written", ret);
        return ret;
    }
    vbd->known = to;
    vbd_mark(vbd);
    return 0;
}

/* Where B names no script, what one would write there with this status. "connected" stays, whoever
 * said it and whatever comes later. */
static unsigned hotplug_writes(const struct vbd *vbd, const struct vbd_seen *seen,
                               const char *status, struct vbd_write writes[static 2])
{
    bool failed = strncmp(status, failure, sizeof(failure) - 1) == 0;

    if (vbd->node.script || seen->hotplug == VBD_HOTPLUG_CONNECTED ||
        (!failed && strcmp(status, "ready") != 0))
        return 0;
    writes[0] = (struct vbd_write){KEY_HOTPLUG_STATUS, failed ? "error" : "connected"};
    writes[1] = (struct vbd_write){KEY_HOTPLUG_ERROR, failed ? status + sizeof(failure) - 1 : NULL};
    return failed || seen->hotplug == VBD_HOTPLUG_ERROR ? 2 : 1;
}

/* Closed for good: a script's nodes go, and who asked for it hears that all is flushed. */
void vbd_show_end(struct vbd *vbd, const struct vbd_seen *seen)
{
    static const struct vbd_write unplugged[] = {{KEY_HOTPLUG_STATUS, NULL},
                                                 {KEY_HOTPLUG_ERROR, NULL}};
    static const struct vbd_write done = {KEY_SHUTDOWN_DONE, "1"};
    bool asked = seen->shutdown != VBD_SHUTDOWN_NONE;
    int ret = 0;

    if (vbd->state != VBD_IDLE || seen->own != XENBUS_CLOSED)
        return;
    if (!vbd->node.script && seen->hotplug != VBD_HOTPLUG_ABSENT && (asked || !seen->online))
        ret = vbd_nodes_write(vbd->host->store, vbd->back, seen->own, XENBUS_ABSENT, unplugged, 2);
    if (ret == 0 && asked && !seen->shutdown_done)
        ret = vbd_nodes_write(vbd->host->store, vbd->back, seen->own, XENBUS_ABSENT, &done, 1);
    if (ret < 0)
        vbd_not_now(vbd, "its end not written", ret);
}

/* What an emulated boot disk is opened by: by libxl's QEMU, beside us. Not if QEMU could write
 * where we would refuse to. */
static bool has_uri(const struct vbd *vbd, char *ret_uri, size_t bytes)
{
    if (!vbd->node.script || (vbd->report.properties.readonly && !vbd->node.readonly))
        return false;
    return config_uri_for_qemu(config_disk_uri(vbd->disk), ret_uri, bytes) == 0;
}

/* "": there is nothing to say. */
static void status_text(const struct vbd *vbd, char *ret_status, size_t bytes)
{
    const char *text = "", *reason = "";

    switch (vbd->state) {
    case VBD_OPENING: text = "opening"; break;
    case VBD_READY:
    case VBD_CONNECTING:
    case VBD_CONNECTED:
    case VBD_SERVING: text = "ready"; break;
    case VBD_BROKEN:
    case VBD_FAILED: text = "failed: "; break;
    case VBD_HELD: text = "held: "; break;
    case VBD_IDLE: text = vbd->spent ? "failed: " : vbd->waiting ? "opening" : ""; break;
    default: break;
    }
    if (strchr(text, ':'))
        reason = vbd->reason;
    if (vbd->refused[0] && vbd->state < VBD_SERVING) {
        text = "failed: ";
        reason = vbd->refused;
    }
    snprintf(ret_status, bytes, "%s%s", text, reason);
}

static int write_status(struct vbd *vbd, const struct vbd_write *writes, unsigned count)
{
    struct store *store = vbd->host->store;

    if (!vbd->status[0])
        return vbd_nodes_claim(store, vbd->back, &vbd->node, writes, count);
    return vbd_nodes_write(store, vbd->back, XENBUS_ABSENT, XENBUS_ABSENT, writes, count);
}

int vbd_show_status(struct vbd *vbd, const struct vbd_seen *seen)
{
    char status[sizeof(vbd->status)], uri[LIMIT_XENSTORE_BYTES];
    struct vbd_write writes[3] = {{KEY_BLKGATE_STATUS, status}};
    unsigned count;
    int ret;

    status_text(vbd, status, sizeof(status));
    if (!status[0] || seen->own == XENBUS_ABSENT || strcmp(status, vbd->status) == 0)
        return 0;
    count = 1 + hotplug_writes(vbd, seen, status, writes + 1);
    if (vbd->state == VBD_READY && has_uri(vbd, uri, sizeof(uri)))
        writes[count++] = (struct vbd_write){KEY_BLKGATE_URI, uri, .is_private = true};
    ret = write_status(vbd, writes, count);
    if (store_is_quota(ret) && strncmp(status, failure, sizeof(failure) - 1) == 0)
        ret = write_status(vbd, writes, 1); /* it alone: that may be an old node's new value */
    if (ret < 0)
        vbd_not_now(vbd, "status not written", ret);
    else
        memcpy(vbd->status, status, sizeof(status));
    return ret;
}

/* -- actions ------------------------------------------------------------------------------- */

void vbd_keep_path(const struct vbd *vbd, char *ret_path, size_t bytes)
{
    keepdir_file(vbd->host->config->keep_dir, vbd_kind_name(vbd->kind), vbd->domid, vbd->devid,
                 ret_path, bytes);
}

bool vbd_has_file(const struct vbd *vbd)
{
    char path[LIMIT_PATH_BYTES];

    vbd_keep_path(vbd, path, sizeof(path));
    return vbd->device_nonce != 0 && access(path, F_OK) == 0;
}

bool vbd_drop_file(const struct vbd *vbd)
{
    char path[LIMIT_PATH_BYTES];

    vbd_keep_path(vbd, path, sizeof(path));
    return unlink(path) == 0;
}

static uint64_t make_nonce(void)
{
    uint64_t nonce = 0;

    while (nonce == 0)
        if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
            nonce = (uint64_t)time(NULL) << 20 | (uint64_t)getpid();
    return nonce;
}

static struct vbd_limits configured_limits(const struct config *config)
{
    return (struct vbd_limits){
        .queues = config->queues,
        .ring_order = config->ring_page_order,
        .indirect_segments = config->indirect_segments,
    };
}

static uint32_t greater(uint32_t one, uint32_t other)
{
    return one > other ? one : other;
}

/* As many requests as a frontend may have in flight: B may show more than the configuration has. */
static uint32_t entries_offered(const struct vbd *vbd)
{
    struct vbd_limits limits = configured_limits(vbd->host->config), found;

    if ((!vbd->offered && vbd->kind == VBD_KIND_VBD) ||
        vbd_nodes_limits(vbd->host->store, vbd->back, &found) < 0)
        return LIMIT_QUEUES * LIMIT_RING_SLOTS;
    return greater(limits.queues, found.queues) *
           ring_slots(BLKIF_ABI_X86_64, 1u << greater(limits.ring_order, found.ring_order));
}

/* What the disk is to know of the device before it opens anything. */
static void order_open(struct vbd *vbd)
{
    if (vbd->device_nonce == 0)
        vbd->device_nonce = make_nonce();
    vbd->order.device_nonce = vbd->device_nonce;
    vbd->order.entry_count = entries_offered(vbd);
    vbd->order.resume = vbd->resumed;
    vbd_order(vbd, DISK_WANT_OPEN);
}

static int make_link(struct vbd *vbd)
{
    struct disklink_spec spec = {
        .config = vbd->disk,
        .domid = vbd->domid,
        .devid = vbd->devid,
        .readonly = vbd_is_readonly(vbd),
        .connect_timeout_ms = vbd->host->config->connect_timeout_ms,
        .keep_dir = vbd->host->config->keep_dir,
        .kind = vbd_kind_name(vbd->kind),
    };

    snprintf(spec.name, sizeof(spec.name), "%s", vbd->name);
    return disklink_create(&spec, vbd->host->box, vbd_on_report, vbd, &vbd->link);
}

static void cannot_open(struct vbd *vbd, const struct vbd_seen *seen)
{
    spend(vbd, seen->frontend);
    log_limited(&vbd->chatter, LOG_LEVEL_ERROR, vbd->name, "cannot be opened: %s", vbd->reason);
    vbd_mark(vbd);
}

static void do_open(struct vbd *vbd, const struct vbd_seen *seen)
{
    bool first = !vbd->link;
    int ret;

    vbd->waiting = false;
    if (!vbd->disk && vbd_nodes_disk(&vbd->node, vbd->host->config, &vbd->disk, &vbd->own_disk,
                                     vbd->reason) < 0) {
        cannot_open(vbd, seen);
        return;
    }
    ret = vbd->host->claim(vbd->host, vbd, vbd->reason);
    if (ret == -EAGAIN) {
        vbd->waiting = true;
        (void)vbd_show_status(vbd, seen);
        return;
    }
    if (ret < 0) {
        cannot_open(vbd, seen);
        return;
    }
    ret = first ? make_link(vbd) : 0;
    if (ret < 0)
        goto no_link;
    vbd->order.life++;
    vbd->served = false;
    memset(&vbd->report, 0, sizeof(vbd->report));
    order_open(vbd);
    ret = first ? vbd->host->place(vbd->host, vbd->link) : 0;
    if (ret < 0) {
        disklink_destroy(vbd->link);
        vbd->link = NULL;
        goto no_link;
    }
    vbd_set_state(vbd, VBD_OPENING);
    vbd_mark(vbd);
    return;
no_link:
    snprintf(vbd->reason, sizeof(vbd->reason), "no worker takes it: %s", strerror(-ret));
    cannot_open(vbd, seen);
}

/* The limits into B, where it is in state seen->own, or on its way `to` another. */
static int write_limits(struct vbd *vbd, const struct vbd_seen *seen, enum xenbus_state to,
                        const struct vbd_limits *limits)
{
    char indirect[16], order[16], queues[16];
    const struct vbd_write writes[] = {
        {KEY_MAX_INDIRECT, indirect},
        {KEY_MAX_RING_ORDER, order},
        {KEY_MAX_QUEUES, queues},
    };
    const unsigned count = sizeof(writes) / sizeof(*writes);

    snprintf(indirect, sizeof(indirect), "%" PRIu32, limits->indirect_segments);
    snprintf(order, sizeof(order), "%" PRIu32, limits->ring_order);
    snprintf(queues, sizeof(queues), "%" PRIu32, limits->queues);
    if (to != XENBUS_ABSENT)
        return go(vbd, seen, to, writes, count);
    return vbd_nodes_write(vbd->host->store, vbd->back, seen->own, XENBUS_ABSENT, writes, count);
}

static void do_offer(struct vbd *vbd, const struct vbd_seen *seen)
{
    struct vbd_limits limits = configured_limits(vbd->host->config);

    if (write_limits(vbd, seen, XENBUS_INIT_WAIT, &limits) == 0)
        vbd->offered = true;
}

/* State 2 was xen-blkback's, and so are the limits beside it. A guest that runs may have read them,
 * so they are raised to ours and never lowered; once, before the frontend begins. */
void vbd_show_limits(struct vbd *vbd, const struct vbd_seen *seen)
{
    struct vbd_limits limits = configured_limits(vbd->host->config), found;
    int ret;

    if (vbd->offered || !vbd->status[0] || vbd->kind != VBD_KIND_VBD || !vbd->node.script ||
        seen->own != XENBUS_INIT_WAIT)
        return;
    if (seen->frontend == XENBUS_INITIALISING) {
        ret = vbd_nodes_limits(vbd->host->store, vbd->back, &found);
        if (ret == 0) {
            limits.queues = greater(limits.queues, found.queues);
            limits.ring_order = greater(limits.ring_order, found.ring_order);
            limits.indirect_segments = greater(limits.indirect_segments, found.indirect_segments);
            ret = write_limits(vbd, seen, XENBUS_ABSENT, &limits);
        }
        if (ret < 0) {
            vbd_not_now(vbd, "limits not written", ret);
            return;
        }
    }
    vbd->offered = true;
}

static bool offers_discard(const struct vbd *vbd)
{
    return vbd->node.discard && vbd->report.properties.discard;
}

/* A disk taken up again: does the server still have what the guest was told? -EBADF and the reason
 * if not. Grown is all right, for the guest is told of it when it is connected again. */
static int check_told(struct vbd *vbd, char ret_reason[static LIMIT_REASON_BYTES])
{
    const struct disk_properties *is = &vbd->report.properties;
    const char *text = NULL;
    struct disk_properties told;
    int ret = vbd_nodes_told(vbd->host->store, vbd->back, &told);

    if (ret < 0)
        return ret == -ENOENT ? 0 : ret; /* in state 5 it may never have been connected */
    if (is->capacity_sectors < told.capacity_sectors) {
        snprintf(ret_reason, LIMIT_REASON_BYTES,
                 "its export has %" PRIu64 " sectors, and the guest was told %" PRIu64,
                 is->capacity_sectors, told.capacity_sectors);
        return -EBADF;
    }
    if (told.flush && !is->flush)
        text = "its export cannot flush, and the guest was told that it can";
    else if (is->readonly && !told.readonly)
        text = "it is read-only, and the guest was told that it is writable";
    if (!text)
        return 0;
    snprintf(ret_reason, LIMIT_REASON_BYTES, "%s", text);
    return -EBADF;
}

void vbd_hold_instead(struct vbd *vbd, const char *reason)
{
    snprintf(vbd->reason, sizeof(vbd->reason), "%s", reason);
    vbd->resumed = false;
    vbd->unclean = true;
    vbd_order(vbd, DISK_WANT_SUSPEND);
    vbd_set_state(vbd, VBD_CLOSING);
}

static int read_rings(struct vbd *vbd, char ret_reason[static LIMIT_REASON_BYTES])
{
    struct store *store = vbd->host->store;
    struct vbd_ring_past now;
    int ret = vbd_nodes_judge(store, vbd->back, &vbd->node,
                              vbd->connected_before ? &vbd->before : NULL, &now);

    if (ret < 0)
        return ret;
    if (vbd->resumed && !vbd->connected_before)
        now.shape = vbd->rings.shape; /* as the daemon that stopped has read them */
    vbd->rings = now;
    return vbd_nodes_rings(store, vbd->back, &vbd->node, &now.shape, &vbd->order, ret_reason);
}

static const char *shape_words(const struct vbd_ring_shape *shape)
{
    if (shape->one_queue)
        return shape->one_page ? BLKGATE_ONE_QUEUE " " BLKGATE_ONE_PAGE : BLKGATE_ONE_QUEUE;
    return shape->one_page ? BLKGATE_ONE_PAGE : "";
}

static void do_connect(struct vbd *vbd, const struct vbd_seen *seen)
{
    char device[24], identity[VBD_IDENTITY_BYTES];
    struct vbd_write marks[] = {
        {KEY_BLKGATE_DEVICE, device}, {KEY_BLKGATE_EXPORT, identity}, {KEY_BLKGATE_RINGS, ""}};
    char reason[LIMIT_REASON_BYTES];
    struct vbd_seen now;
    int ret = vbd->resumed ? check_told(vbd, reason) : 0;

    if (ret == -EBADF) {
        vbd_hold_instead(vbd, reason);
        return;
    }
    if (ret == 0)
        ret = read_rings(vbd, reason);
    if (ret == -EPROTO) {
        /* A frontend that left while its nodes were read has said nothing wrong. */
        if (vbd_nodes_see(vbd->host->store, vbd->back, &vbd->node, false, &now) == 0 &&
            now.own == seen->own && now.frontend == seen->frontend)
            vbd_break(vbd, reason);
        vbd_mark(vbd);
        return;
    }
    if (ret < 0) {
        vbd_not_now(vbd, "not connected", ret);
        return;
    }
    snprintf(device, sizeof(device), "%016" PRIx64, vbd->device_nonce);
    vbd_identity(vbd, identity);
    marks[2].value = shape_words(&vbd->rings.shape);
    ret = vbd_nodes_write(vbd->host->store, vbd->back, seen->own, XENBUS_ABSENT, marks, 3);
    if (ret < 0) {
        vbd_not_now(vbd, "not connected", ret);
        return;
    }
    vbd->order.discard = offers_discard(vbd);
    vbd->served = true; /* from here on requests may be in flight */
    vbd_order(vbd, DISK_WANT_CONNECT);
    vbd_set_state(vbd, VBD_CONNECTING);
    vbd_mark(vbd);
}

static void do_serve(struct vbd *vbd, const struct vbd_seen *seen)
{
    const struct disk_properties *properties = &vbd->report.properties;
    unsigned info = (vbd->node.cdrom ? XENBUS_INFO_CDROM : 0u) |
                    (vbd->node.removable ? XENBUS_INFO_REMOVABLE : 0u) |
                    (properties->readonly ? XENBUS_INFO_READONLY : 0u);
    char sectors[24], physical[16], info_text[16], indirect[16], granularity[16];
    /* Zeros are written out: Mini-OS takes a feature that is not there for one that is. */
    const struct vbd_write writes[] = {
        {KEY_FEATURE_BARRIER, "0"},
        {KEY_FEATURE_FLUSH, properties->flush ? "1" : "0"},
        {KEY_FEATURE_DISCARD, offers_discard(vbd) ? "1" : "0"},
        {KEY_DISCARD_GRANULARITY, granularity},
        {KEY_DISCARD_ALIGNMENT, "0"},
        {KEY_DISCARD_SECURE, "0"},
        {KEY_FEATURE_PERSISTENT, "0"},
        {KEY_MAX_INDIRECT, indirect},
        {KEY_SECTORS, sectors},
        {KEY_SECTOR_SIZE, "512"},
        {KEY_PHYSICAL_SECTOR, physical},
        {KEY_INFO, info_text},
    };

    snprintf(sectors, sizeof(sectors), "%" PRIu64, properties->capacity_sectors);
    snprintf(physical, sizeof(physical), "%" PRIu32, properties->physical_sector_bytes);
    snprintf(info_text, sizeof(info_text), "%u", info);
    snprintf(indirect, sizeof(indirect), "%u", vbd->order.indirect_segments);
    snprintf(granularity, sizeof(granularity), "%" PRIu32, properties->discard_granularity_bytes);
    if (go(vbd, seen, XENBUS_CONNECTED, writes, sizeof(writes) / sizeof(*writes)) < 0)
        return;
    vbd->shown_sectors = properties->capacity_sectors;
    vbd->before = vbd->rings;
    vbd->connected_before = true;
    vbd_set_state(vbd, VBD_SERVING);
    vbd_nodes_error(vbd->host->store, vbd->host->domid, vbd->back, NULL);
    log_limited(&vbd->chatter, LOG_LEVEL_INFO, vbd->name,
                "%s: %s sectors, %s, %s, %u ring%s of %u page%s",
                vbd->resumed ? "connected again" : "connected", sectors,
                blkif_abi_name(vbd->order.abi), properties->readonly ? "read-only" : "writable",
                vbd->order.queue_count, vbd->order.queue_count == 1 ? "" : "s",
                vbd->order.queue[0].page_count, vbd->order.queue[0].page_count == 1 ? "" : "s");
    vbd->resumed = false; /* what it asks for from now on, it asks us */
}

/* The export has grown: frontends look at `sectors` again when state 4 is written once more. */
void vbd_show_size(struct vbd *vbd, const struct vbd_seen *seen)
{
    const struct disk_properties *properties = &vbd->report.properties;
    char sectors[24];
    const struct vbd_write write = {KEY_SECTORS, sectors};

    if (vbd->state != VBD_SERVING || seen->own != XENBUS_CONNECTED ||
        vbd->shown_sectors == properties->capacity_sectors)
        return;
    snprintf(sectors, sizeof(sectors), "%" PRIu64, properties->capacity_sectors);
    if (go(vbd, seen, XENBUS_CONNECTED, &write, 1) == 0)
        vbd->shown_sectors = properties->capacity_sectors;
}

static void do_closing(struct vbd *vbd, const struct vbd_seen *seen)
{
    (void)go(vbd, seen, XENBUS_CLOSING, NULL, 0);
}

static void do_fail(struct vbd *vbd, const struct vbd_seen *seen)
{
    char error[LIMIT_REASON_BYTES + 8];
    snprintf(error, sizeof(error), "%d %s", EIO, vbd->reason);
    vbd_nodes_error(vbd->host->store, vbd->host->domid, vbd->back, error);
    if (go(vbd, seen, XENBUS_CLOSING, NULL, 0) < 0)
        return;
    spend(vbd, seen->frontend);
    if (vbd->state != VBD_BROKEN)
        return; /* there was no life */
    if (vbd->served) {
        vbd_order(vbd, DISK_WANT_FAIL);
        vbd_set_state(vbd, VBD_FAILED);
    } else {
        vbd_order(vbd, DISK_WANT_CLOSE);
        vbd_set_state(vbd, VBD_CLOSING);
    }
}

static void do_close(struct vbd *vbd, const struct vbd_seen *seen)
{
    if (vbd->state == VBD_BROKEN)
        spend(vbd, seen->frontend);
    vbd_order(vbd, DISK_WANT_CLOSE);
    vbd_set_state(vbd, VBD_CLOSING);
}

/* The guest closed it, or died, while there was no daemon: what was answered and not flushed is
 * still to be written before state 6 says that the disk may be opened elsewhere. */
static bool has_kept(const struct vbd *vbd)
{
    return !vbd->link && vbd->disk && !vbd->spent && !vbd->stopping && vbd_has_file(vbd);
}

static void do_closed(struct vbd *vbd, const struct vbd_seen *seen)
{
    if (vbd->state == VBD_IDLE && has_kept(vbd)) {
        vbd->resumed = true;
        do_open(vbd, seen);
        return;
    }
    if (vbd->state == VBD_HELD) /* all that was held is gone with the frontend */
        vbd_set_state(vbd, VBD_IDLE);
    /* From state 6 on the export may be open elsewhere: nothing kept is written any more. */
    if (go(vbd, seen, XENBUS_CLOSED, NULL, 0) == 0 && vbd_drop_file(vbd))
        log_limited(&vbd->losses, LOG_LEVEL_WARNING, vbd->name,
                    "closed; its kept file, with what was not flushed, is removed");
}

/* State 6 is to be seen before B is gone: libxl waits for one, then for the other. */
static void do_remove(struct vbd *vbd)
{
    int ret;

    if (!vbd->removing) {
        vbd->removing = true;
        vbd_wake_in(vbd, LIMIT_XENSTORE_RETRY_MS);
        return;
    }
    if (ev_is_active(&vbd->timer))
        return;
    ret = vbd_nodes_remove(vbd->host->store, vbd->back);
    vbd->removing = false;
    if (ret < 0)
        vbd_not_now(vbd, "not removed", ret);
}

static void do_hold(struct vbd *vbd, const struct vbd_seen *seen)
{
    if (vbd->state == VBD_HELD)
        return;
    vbd_set_state(vbd, VBD_HELD);
    if (!vbd->reason[0]) /* else it says what else is wrong */
        snprintf(
            vbd->reason, sizeof(vbd->reason),
            "an earlier blkgated served it, and it is not in the configuration any more; it is not "
            "touched until the guest closes it");
    log_error(vbd->name, "held: %s (its state is %s, the frontend's %s)", vbd->reason,
              xenbus_state_name(seen->own), xenbus_state_name(seen->frontend));
    (void)vbd_show_status(vbd, seen);
}

void vbd_act(struct vbd *vbd, const struct vbd_seen *seen, enum xenbus_action action)
{
    if (vbd->state == VBD_HELD && action != XENBUS_DO_HOLD && !vbd->unclean)
        vbd_set_state(vbd, VBD_IDLE);
    switch (action) {
    case XENBUS_DO_NOTHING: break;
    case XENBUS_DO_FORGET:
    case XENBUS_DO_RENEW:
        vbd_nodes_error(vbd->host->store, vbd->host->domid, vbd->back, NULL);
        vbd_end_device(vbd);
        break;
    case XENBUS_DO_HOLD: do_hold(vbd, seen); break;
    case XENBUS_DO_OPEN: do_open(vbd, seen); break;
    case XENBUS_DO_OFFER: do_offer(vbd, seen); break;
    case XENBUS_DO_CONNECT: do_connect(vbd, seen); break;
    case XENBUS_DO_SERVE: do_serve(vbd, seen); break;
    case XENBUS_DO_CLOSING: do_closing(vbd, seen); break;
    case XENBUS_DO_FAIL: do_fail(vbd, seen); break;
    case XENBUS_DO_CLOSE: do_close(vbd, seen); break;
    case XENBUS_DO_CLOSED: do_closed(vbd, seen); break;
    case XENBUS_DO_REMOVE: do_remove(vbd); break;
    }
}
