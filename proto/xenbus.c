/* xenbus: see xenbus.h. */
#include "proto/xenbus.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    MAJOR_HD0 = 3,
    MAJOR_SD = 8,
    MAJOR_HD1 = 22,
    MAJOR_XVD = 202,
    EXTENDED = 1 << 28,
    EXTENDED_DISKS = 1 << 20,
};

static const char *const state_names[] = {
    [XENBUS_ABSENT] = "absent",
    [XENBUS_INITIALISING] = "Initialising",
    [XENBUS_INIT_WAIT] = "InitWait",
    [XENBUS_INITIALISED] = "Initialised",
    [XENBUS_CONNECTED] = "Connected",
    [XENBUS_CLOSING] = "Closing",
    [XENBUS_CLOSED] = "Closed",
    [XENBUS_RECONFIGURING] = "Reconfiguring",
    [XENBUS_RECONFIGURED] = "Reconfigured",
};

static const char *const action_names[] = {
    [XENBUS_DO_NOTHING] = "nothing", [XENBUS_DO_FORGET] = "forget", [XENBUS_DO_RENEW] = "renew",
    [XENBUS_DO_HOLD] = "hold",       [XENBUS_DO_OPEN] = "open",     [XENBUS_DO_OFFER] = "offer",
    [XENBUS_DO_CONNECT] = "connect", [XENBUS_DO_SERVE] = "serve",   [XENBUS_DO_CLOSING] = "closing",
    [XENBUS_DO_FAIL] = "fail",       [XENBUS_DO_CLOSE] = "close",   [XENBUS_DO_CLOSED] = "closed",
    [XENBUS_DO_REMOVE] = "remove",
};

const char *xenbus_state_name(enum xenbus_state state)
{
    return (unsigned)state <= XENBUS_RECONFIGURED ? state_names[state] : "?";
}

const char *xenbus_action_name(enum xenbus_action action)
{
    return (unsigned)action <= XENBUS_DO_REMOVE ? action_names[action] : "?";
}

enum xenbus_state xenbus_state_parse(const char *text)
{
    uint32_t value = XENBUS_ABSENT;

    if (xenbus_parse_u32(text, XENBUS_RECONFIGURED, &value) < 0)
        return XENBUS_ABSENT;
    return (enum xenbus_state)value;
}

bool xenbus_may_go(enum xenbus_state from, enum xenbus_state to)
{
#define TO(state) (1u << (XENBUS_##state))
    static const unsigned arrows[] = {
        [XENBUS_INITIALISING] = TO(INIT_WAIT) | TO(CLOSING) | TO(CLOSED),
        [XENBUS_INIT_WAIT] = TO(CONNECTED) | TO(CLOSING) | TO(CLOSED),
        [XENBUS_CONNECTED] = TO(CONNECTED) | TO(INIT_WAIT) | TO(CLOSING) | TO(CLOSED),
        [XENBUS_CLOSING] = TO(CLOSING) | TO(INIT_WAIT) | TO(CLOSED),
        [XENBUS_CLOSED] = TO(INIT_WAIT) | TO(CLOSING),
        /* Not written by us; left by somebody, they may still come to an end. */
        [XENBUS_INITIALISED] = TO(INIT_WAIT) | TO(CLOSING) | TO(CLOSED),
        [XENBUS_RECONFIGURING] = TO(INIT_WAIT) | TO(CLOSING) | TO(CLOSED),
        [XENBUS_RECONFIGURED] = TO(INIT_WAIT) | TO(CLOSING) | TO(CLOSED),
    };
#undef TO
    if ((unsigned)from > XENBUS_RECONFIGURED || (unsigned)to > XENBUS_RECONFIGURED)
        return false;
    return arrows[from] & (1u << to);
}

/* -- what to do next ----------------------------------------------------------------------- */

/* Has the frontend let go of the device, or will it never take it? */
static bool frontend_closed(const struct xenbus_view *view)
{
    if (view->frontend_dead || view->frontend == XENBUS_ABSENT || view->frontend == XENBUS_CLOSED)
        return true;
    /* Unplugged: a frontend that is not at work (QEMU's xen_device_frontend_is_active) does not
     * close, and nobody needs to wait for it. */
    return view->own == XENBUS_CLOSING && !view->online &&
           (view->frontend < XENBUS_INIT_WAIT || view->frontend > XENBUS_CLOSING);
}

static enum xenbus_action decide_closed(const struct xenbus_view *view)
{
    if (view->life != XENBUS_LIFE_NONE)
        return XENBUS_DO_CLOSE;
    if (view->own == XENBUS_CLOSED)
        return XENBUS_DO_NOTHING;
    /* A device just being made: its F may not be there yet. */
    if (view->own == XENBUS_INITIALISING && view->online && !view->frontend_dead)
        return XENBUS_DO_NOTHING;
    return XENBUS_DO_CLOSED;
}

/* Not open, in state 1, 2 or 4: open, unless that failed already for this coming of the frontend.
 * A failure shows as state 5 once we answer for the device; before that the script reports it. */
static enum xenbus_action decide_open(const struct xenbus_view *view)
{
    if (!view->spent)
        return XENBUS_DO_OPEN;
    if (view->gate_open)
        return XENBUS_DO_FAIL;
    return view->own == XENBUS_INITIALISING && view->may_offer ? XENBUS_DO_OFFER
                                                               : XENBUS_DO_NOTHING;
}

/* Backend in state 1: libxl waits for exactly 2, so everything else comes after it. */
static enum xenbus_action decide_new(const struct xenbus_view *view)
{
    switch (view->life) {
    case XENBUS_LIFE_NONE: return decide_open(view);
    case XENBUS_LIFE_OPENING: return XENBUS_DO_NOTHING;
    case XENBUS_LIFE_READY: return view->may_offer ? XENBUS_DO_OFFER : XENBUS_DO_NOTHING;
    default: return XENBUS_DO_CLOSE;
    }
}

/* Frontend at 1 (or 2, which none uses): it begins. */
static enum xenbus_action decide_begin(const struct xenbus_view *view)
{
    bool early = view->life == XENBUS_LIFE_OPENING || view->life == XENBUS_LIFE_READY;

    if (view->own == XENBUS_INIT_WAIT) {
        if (view->life == XENBUS_LIFE_NONE)
            return decide_open(view);
        return early ? XENBUS_DO_NOTHING : XENBUS_DO_CLOSE;
    }
    /* Backend at 4, 5 or 6: a life that went without goodbye (kexec), or a new beginning. */
    if (view->life != XENBUS_LIFE_NONE)
        return XENBUS_DO_CLOSE;
    if (view->spent)
        return XENBUS_DO_NOTHING;
    if (view->online)
        return XENBUS_DO_OFFER;
    return view->own == XENBUS_CLOSED ? XENBUS_DO_NOTHING : XENBUS_DO_CLOSED;
}

/* Backend at 5: served on until the frontend closes, and after a clean stop served again. */
static enum xenbus_action decide_closing(const struct xenbus_view *view)
{
    if (!view->resumed)
        return XENBUS_DO_NOTHING;
    if (view->life == XENBUS_LIFE_NONE && !view->spent)
        return XENBUS_DO_OPEN;
    return view->life == XENBUS_LIFE_READY ? XENBUS_DO_CONNECT : XENBUS_DO_NOTHING;
}

/* Frontend at 3 or 4: it has made its rings. */
static enum xenbus_action decide_connect(const struct xenbus_view *view)
{
    bool again = view->own == XENBUS_CONNECTED;

    if (view->own == XENBUS_CLOSING)
        return decide_closing(view);
    if (view->own == XENBUS_CLOSED) {
        if (view->life != XENBUS_LIFE_NONE)
            return XENBUS_DO_CLOSE;
        return view->online ? XENBUS_DO_OFFER : XENBUS_DO_NOTHING;
    }
    if (view->own != XENBUS_INIT_WAIT && !again)
        return XENBUS_DO_NOTHING;

    switch (view->life) {
    case XENBUS_LIFE_NONE: return decide_open(view);
    case XENBUS_LIFE_READY: return view->gate_open || again ? XENBUS_DO_CONNECT : XENBUS_DO_NOTHING;
    case XENBUS_LIFE_CONNECTED: return XENBUS_DO_SERVE;
    case XENBUS_LIFE_SERVING:
        /* 3 beside our 4 is usual (GRUB stays there, watches are late). New rings are not: the
         * frontend was re-initialised. */
        return view->rings_anew ? XENBUS_DO_CLOSE : XENBUS_DO_NOTHING;
    default: return XENBUS_DO_NOTHING;
    }
}

/* Found as a dead daemon left it, requests perhaps in flight: follow a close, touch no ring. */
static enum xenbus_action decide_unclean(const struct xenbus_view *view)
{
    if (view->frontend == XENBUS_CLOSING && view->own == XENBUS_CONNECTED)
        return XENBUS_DO_CLOSING;
    return XENBUS_DO_HOLD;
}

/* A failure is the guest's to see once the device is ours to answer for. */
static bool failure_shows(const struct xenbus_view *view)
{
    if (view->own == XENBUS_CLOSED)
        return false;
    return view->gate_open || view->own >= XENBUS_CONNECTED;
}

static bool is_renewed(const struct xenbus_view *view)
{
    if (view->own == XENBUS_INITIALISING)
        return view->renewed || view->known > XENBUS_INITIALISING;
    /* We would know of a 2 of ours after 4, 5 or 6: xen-blkback wrote this one, into a new device.
     */
    return view->own == XENBUS_INIT_WAIT && (view->renewed || view->known >= XENBUS_CONNECTED);
}

enum xenbus_action xenbus_decide(const struct xenbus_view *view)
{
    if (view->own == XENBUS_ABSENT)
        return XENBUS_DO_FORGET;
    if (is_renewed(view))
        return XENBUS_DO_RENEW;
    if (view->life == XENBUS_LIFE_CLOSING)
        return XENBUS_DO_NOTHING; /* look again when it is closed */
    if (view->own == XENBUS_CLOSED && view->life == XENBUS_LIFE_NONE && view->remove &&
        !view->online)
        return XENBUS_DO_REMOVE; /* wherever the frontend is */
    if (frontend_closed(view))
        return decide_closed(view);
    if (view->unplug && !view->online && view->own != XENBUS_CLOSING && view->own != XENBUS_CLOSED)
        return view->life == XENBUS_LIFE_BROKEN ? XENBUS_DO_FAIL : XENBUS_DO_CLOSING;
    if (view->unclean && view->frontend >= XENBUS_INITIALISED)
        return decide_unclean(view);
    if (view->life == XENBUS_LIFE_BROKEN)
        return failure_shows(view) ? XENBUS_DO_FAIL : XENBUS_DO_CLOSE;
    if (view->own == XENBUS_INITIALISING)
        return decide_new(view);

    switch (view->frontend) {
    case XENBUS_INITIALISING:
    case XENBUS_INIT_WAIT: return decide_begin(view);
    case XENBUS_INITIALISED:
    case XENBUS_CONNECTED: return decide_connect(view);
    case XENBUS_CLOSING:
        if (view->own == XENBUS_INIT_WAIT || view->own == XENBUS_CONNECTED)
            return XENBUS_DO_CLOSING;
        if (view->own == XENBUS_CLOSED && view->life != XENBUS_LIFE_NONE)
            return XENBUS_DO_CLOSE;
        /* A frontend that closes once more (Windows does at every boot) waits for our 5. */
        if (view->own == XENBUS_CLOSED && view->online)
            return XENBUS_DO_CLOSING;
        return view->own == XENBUS_CLOSING ? decide_closing(view) : XENBUS_DO_NOTHING;
    default: return XENBUS_DO_NOTHING;
    }
}

/* -- parsing ------------------------------------------------------------------------------- */

int xenbus_parse_u64(const char *text, uint64_t max, uint64_t *ret_value)
{
    uint64_t value = 0;
    unsigned length;

    if (!text || !*text)
        return -EINVAL;
    for (length = 0; text[length]; length++) {
        uint64_t digit = (uint64_t)(unsigned char)text[length] - '0';

        if (digit > 9 || length == 20)
            return -EINVAL;
        if (value > (UINT64_MAX - digit) / 10)
            return -ERANGE;
        value = value * 10 + digit;
    }
    if (value > max)
        return -ERANGE;
    *ret_value = value;
    return 0;
}

int xenbus_parse_u32(const char *text, uint32_t max, uint32_t *ret_value)
{
    uint64_t value = 0;
    int ret = xenbus_parse_u64(text, max, &value);

    if (ret == 0)
        *ret_value = (uint32_t)value;
    return ret;
}

/* a..z, aa.. after the prefix: 0, 1 .. 25, 26 .. Moves *text behind them. */
static int parse_letters(const char **text, uint32_t *ret_disk)
{
    uint64_t disk = 0;
    const char *at = *text;

    for (; *at >= 'a' && *at <= 'z'; at++) {
        disk = disk * 26 + (uint64_t)(*at - 'a') + 1;
        if (disk > EXTENDED_DISKS)
            return -EINVAL;
    }
    if (disk == 0)
        return -EINVAL;
    *text = at;
    *ret_disk = (uint32_t)disk - 1;
    return 0;
}

int xenbus_vdev_parse(const char *name, uint32_t *ret_devid)
{
    uint32_t disk, partition = 0;
    const char *rest = name;
    bool xvd = strncmp(name, "xvd", 3) == 0;

    if (*name >= '0' && *name <= '9')
        return xenbus_parse_u32(name, UINT32_MAX, ret_devid) < 0 ? -EINVAL : 0;
    if (!xvd && strncmp(name, "hd", 2) != 0 && strncmp(name, "sd", 2) != 0)
        return -EINVAL;
    rest += xvd ? 3 : 2;
    if (parse_letters(&rest, &disk) < 0)
        return -EINVAL;
    if (*rest && (*rest == '0' || xenbus_parse_u32(rest, 255, &partition) < 0))
        return -EINVAL;

    if (xvd) {
        if (disk <= 15 && partition <= 15)
            *ret_devid = MAJOR_XVD << 8 | disk << 4 | partition;
        else
            *ret_devid = EXTENDED | disk << 8 | partition;
        return 0;
    }
    if (*name == 'h') {
        if (disk > 3 || partition > 63)
            return -EINVAL;
        *ret_devid = (disk < 2 ? MAJOR_HD0 * 256u : MAJOR_HD1 * 256u) | (disk & 1) << 6 | partition;
        return 0;
    }
    if (disk > 15 || partition > 15)
        return -EINVAL;
    *ret_devid = MAJOR_SD << 8 | disk << 4 | partition;
    return 0;
}

static int format_vdev(const char *prefix, uint32_t disk, uint32_t partition, char *ret_name,
                       size_t bytes)
{
    char letters[8];
    size_t at = sizeof(letters) - 1;
    int length;

    letters[at] = '\0';
    for (uint32_t left = disk + 1; left > 0; left = (left - 1) / 26)
        letters[--at] = (char)('a' + (left - 1) % 26);
    if (partition)
        length = snprintf(ret_name, bytes, "%s%s%u", prefix, letters + at, partition);
    else
        length = snprintf(ret_name, bytes, "%s%s", prefix, letters + at);
    return length < 0 || (size_t)length >= bytes ? -ENOSPC : 0;
}

int xenbus_vdev_name(uint32_t devid, char *ret_name, size_t bytes)
{
    int length;

    if (devid & EXTENDED && devid < EXTENDED * 2u)
        return format_vdev("xvd", devid >> 8 & (EXTENDED_DISKS - 1), devid & 255, ret_name, bytes);
    switch (devid >> 8) {
    case MAJOR_XVD: return format_vdev("xvd", devid >> 4 & 15, devid & 15, ret_name, bytes);
    case MAJOR_SD: return format_vdev("sd", devid >> 4 & 15, devid & 15, ret_name, bytes);
    case MAJOR_HD0:
    case MAJOR_HD1:
        if ((devid & 255) >= 128)
            break;
        return format_vdev("hd", (devid >> 6 & 1) + (devid >> 8 == MAJOR_HD1 ? 2 : 0), devid & 63,
                           ret_name, bytes);
    default: break;
    }
    length = snprintf(ret_name, bytes, "%u", devid);
    return length < 0 || (size_t)length >= bytes ? -ENOSPC : 0;
}

/* The number up to the next '/' or the end; moves *text behind the slash. */
static int parse_component(const char **text, uint32_t max, uint32_t *ret_value)
{
    char number[24];
    size_t length = strcspn(*text, "/");

    if (length >= sizeof(number))
        return -EINVAL;
    memcpy(number, *text, length);
    number[length] = '\0';
    if ((number[0] == '0' && length > 1) || xenbus_parse_u32(number, max, ret_value) < 0)
        return -EINVAL;
    *text += length;
    if (**text == '/')
        ++*text;
    return 0;
}

int xenbus_place_parse(const char *path, const char *root, struct xenbus_place *ret_place)
{
    struct xenbus_place place = {.leaf = ""};
    size_t root_length = strlen(root);
    size_t path_length = strlen(path);
    uint32_t domid = 0;

    if (path_length <= root_length) {
        /* Root or an ancestor of it: removed or made as a whole. */
        if (strncmp(path, root, path_length) != 0 ||
            (root[path_length] != '\0' && root[path_length] != '/'))
            return -EINVAL;
        *ret_place = place;
        return 0;
    }
    if (strncmp(path, root, root_length) != 0 || path[root_length] != '/')
        return -EINVAL;
    path += root_length + 1;
    if (parse_component(&path, XENBUS_DOMID_MAX, &domid) < 0)
        return -EINVAL;
    place.domid = (uint16_t)domid;
    place.depth = 1;
    if (*path) {
        if (parse_component(&path, UINT32_MAX, &place.devid) < 0)
            return -EINVAL;
        place.depth = 2;
    }
    if (*path) {
        place.leaf = path;
        place.depth = 3;
    }
    *ret_place = place;
    return 0;
}
