#include "gateway/cli/place.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/xenbus.h"

static const char *const kinds[] = {"vbd", "qdisk", "vbd3"};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* -- domains ------------------------------------------------------------------------------- */

uint32_t place_our_domid(struct nodes *nodes)
{
    char value[NODES_VALUE_BYTES];
    uint32_t domid = 0;

    if (nodes_get(nodes, value, "domid") == 0)
        (void)xenbus_parse_u32(value, XENBUS_DOMID_MAX, &domid);
    return domid;
}

struct domain_search {
    struct nodes *nodes;
    const char *name;
    uint32_t domid;
    bool found;
};

static void match_domain(void *arg, const char *number)
{
    struct domain_search *search = arg;
    char name[NODES_VALUE_BYTES];
    uint32_t domid;

    if (xenbus_parse_u32(number, XENBUS_DOMID_MAX, &domid) == 0 &&
        nodes_get(search->nodes, name, "/local/domain/%s/name", number) == 0 &&
        strcmp(name, search->name) == 0) {
        search->domid = domid;
        search->found = true;
    }
}

int place_find_domain(struct nodes *nodes, const char *text, uint32_t *ret_domid)
{
    struct domain_search search = {.nodes = nodes, .name = text};
    char value[NODES_VALUE_BYTES];

    if (xenbus_parse_u32(text, XENBUS_DOMID_MAX, ret_domid) == 0)
        return nodes_get(nodes, value, "/local/domain/%" PRIu32, *ret_domid) == 0 ? 0 : -ENOENT;
    (void)nodes_each(nodes, "/local/domain", match_domain, &search);
    if (!search.found)
        return -ENOENT;
    *ret_domid = search.domid;
    return 0;
}

/* -- disks --------------------------------------------------------------------------------- */

static void fill(struct place *place, uint32_t ours, const char *kind, uint32_t domid,
                 uint32_t devid)
{
    *place = (struct place){.ours = ours, .domid = domid, .devid = devid};
    snprintf(place->kind, sizeof place->kind, "%s", kind);
    (void)xenbus_vdev_name(devid, place->vdev, sizeof place->vdev);
    snprintf(place->back, sizeof place->back,
             "/local/domain/%" PRIu32 "/backend/%s/%" PRIu32 "/%" PRIu32, ours, kind, domid, devid);
    snprintf(place->front, sizeof place->front, "/local/domain/%" PRIu32 "/device/vbd/%" PRIu32,
             domid, devid);
    snprintf(place->libxl, sizeof place->libxl, "/libxl/%" PRIu32 "/device/vbd/%" PRIu32, domid,
             devid);
}

static int look_for_status(struct nodes *nodes, struct place *place)
{
    char value[NODES_VALUE_BYTES];
    int err = nodes_get(nodes, value, "%s/" KEY_BLKGATE_STATUS, place->back);

    place->served = err == 0;
    return err;
}

void place_find(struct nodes *nodes, uint32_t domid, uint32_t devid, struct place *ret_place)
{
    uint32_t ours = place_our_domid(nodes);

    for (unsigned i = 0; i < KINDS; i++) {
        fill(ret_place, ours, kinds[i], domid, devid);
        if (look_for_status(nodes, ret_place) == 0)
            return;
    }
    fill(ret_place, ours, kinds[0], domid, devid);
}

struct walk {
    struct nodes *nodes;
    void (*each)(void *arg, const struct place *place);
    void *arg;
    const char *kind;
    uint32_t ours, domid;
    int err;
};

static void note(struct walk *walk, int err)
{
    if (err < 0 && err != -ENOENT && walk->err == 0)
        walk->err = err;
}

static void walk_device(void *arg, const char *name)
{
    struct walk *walk = arg;
    struct place place;
    uint32_t devid;
    int err;

    if (xenbus_parse_u32(name, UINT32_MAX, &devid) < 0)
        return;
    fill(&place, walk->ours, walk->kind, walk->domid, devid);
    err = look_for_status(walk->nodes, &place);
    note(walk, err);
    if (place.served)
        walk->each(walk->arg, &place);
}

static void walk_domain(void *arg, const char *name)
{
    struct walk *walk = arg;
    char path[128];

    if (xenbus_parse_u32(name, XENBUS_DOMID_MAX, &walk->domid) < 0)
        return;
    snprintf(path, sizeof path, "/local/domain/%" PRIu32 "/backend/%s/%" PRIu32, walk->ours,
             walk->kind, walk->domid);
    note(walk, nodes_each(walk->nodes, path, walk_device, walk));
}

int place_each(struct nodes *nodes, void (*each)(void *arg, const struct place *place), void *arg)
{
    struct walk walk = {.nodes = nodes, .each = each, .arg = arg, .ours = place_our_domid(nodes)};
    char path[128];

    for (unsigned i = 0; i < KINDS; i++) {
        walk.kind = kinds[i];
        snprintf(path, sizeof path, "/local/domain/%" PRIu32 "/backend/%s", walk.ours, walk.kind);
        note(&walk, nodes_each(nodes, path, walk_domain, &walk));
    }
    return walk.err;
}

void place_disk_name(struct nodes *nodes, const struct place *place,
                     char ret_name[static NODES_VALUE_BYTES])
{
    if (nodes_get(nodes, ret_name, "%s/" KEY_PARAMS, place->back) < 0)
        snprintf(ret_name, NODES_VALUE_BYTES, "-");
    else if (strncmp(ret_name, "aio:", 4) == 0) /* libxl's, for qdisk and vbd3 */
        memmove(ret_name, ret_name + 4, strlen(ret_name + 4) + 1);
}

/* -- their end ----------------------------------------------------------------------------- */

struct unplugging {
    const struct place *place;
    bool force;
};

static int unplug(struct nodes *nodes, void *arg)
{
    const struct unplugging *unplugging = arg;
    const struct place *place = unplugging->place;
    char state[NODES_VALUE_BYTES];
    int err = nodes_get(nodes, state, "%s/" KEY_STATE, place->back);

    if (err < 0)
        return err;
    if (unplugging->force)
        (void)nodes_delete(nodes, "%s", place->front);
    err = nodes_put(nodes, "0", "%s/" KEY_ONLINE, place->back);
    if (err == 0 && strcmp(state, "6") != 0)
        err = nodes_put(nodes, "5", "%s/" KEY_STATE, place->back);
    return err;
}

static bool was_asked(struct nodes *nodes, const struct place *place)
{
    char online[NODES_VALUE_BYTES], state[NODES_VALUE_BYTES];

    return nodes_get(nodes, online, "%s/" KEY_ONLINE, place->back) == 0 &&
           nodes_get(nodes, state, "%s/" KEY_STATE, place->back) == 0 && strcmp(online, "0") == 0 &&
           (strcmp(state, "5") == 0 || strcmp(state, "6") == 0);
}

int place_unplug(struct nodes *nodes, const struct place *place, bool force)
{
    struct unplugging unplugging = {.place = place, .force = force};

    if (!force && was_asked(nodes, place))
        return 0;
    return nodes_transaction(nodes, unplug, &unplugging);
}

bool place_is_closed(struct nodes *nodes, const struct place *place)
{
    char state[NODES_VALUE_BYTES];
    int err = nodes_get(nodes, state, "%s/" KEY_STATE, place->back);

    return err == -ENOENT || (err == 0 && strcmp(state, "6") == 0);
}

static int remove_all(struct nodes *nodes, void *arg)
{
    const struct place *place = arg;

    (void)nodes_delete(nodes, "%s", place->libxl);
    (void)nodes_delete(nodes, "%s", place->front);
    (void)nodes_delete(nodes, "%s", place->back);
    return 0;
}

static int remove_closed(struct nodes *nodes, void *arg)
{
    return place_is_closed(nodes, arg) ? remove_all(nodes, arg) : -EBUSY;
}

int place_remove(struct nodes *nodes, const struct place *place)
{
    struct place copy = *place;

    return nodes_transaction(nodes, remove_all, &copy);
}

int place_remove_closed(struct nodes *nodes, const struct place *place)
{
    struct place copy = *place;

    return place_is_closed(nodes, place) ? nodes_transaction(nodes, remove_closed, &copy) : -EBUSY;
}
