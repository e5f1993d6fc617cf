/* quota: see quota.h. */
#include "gateway/cli/quota.h"

#include <stdio.h>
#include <string.h>

#include "gateway/cli/nodes.h"
#include "proto/limits.h"
#include "proto/xenbus.h"

enum {
    DEPTH = 16,        /* of what is a domain's own; ours is 7 */
    OWN_WATCHES = 4,   /* of blkgated: three kinds, and @releaseDomain */
    NODES_A_DISK = 32, /* what libxl writes, and we, and the directories */
};

struct walk {
    struct nodes *nodes;
    struct quota *quota;
    unsigned depth;
    char path[LIMIT_XENSTORE_PATH_BYTES];
};

static void visit(void *arg, const char *name)
{
    struct walk *walk = arg;
    size_t length = strlen(walk->path);
    uint32_t owner = 0;

    if (length + 1 + strlen(name) >= sizeof walk->path || walk->depth == DEPTH)
        return;
    snprintf(walk->path + length, sizeof walk->path - length, "/%s", name);
    walk->depth++;
    if (nodes_owner(walk->nodes, walk->path, &owner) == 0 && owner == walk->quota->domid)
        walk->quota->nodes++;
    if (strcmp(name, KEY_BLKGATE_STATUS) == 0)
        walk->quota->disks++;
    nodes_each(walk->nodes, walk->path, visit, walk);
    walk->depth--;
    walk->path[length] = '\0';
}

void quota_measure(struct nodes *nodes, uint32_t domid, struct quota *ret_quota)
{
    struct walk walk = {.nodes = nodes, .quota = ret_quota, .path = "/local/domain"};
    char name[16];

    *ret_quota = (struct quota){.domid = domid};
    snprintf(name, sizeof name, "%u", domid);
    visit(&walk, name);
    ret_quota->watches = OWN_WATCHES + ret_quota->disks;
}

static bool is_near(unsigned used, unsigned quota)
{
    return used * 100 >= quota * LIMIT_QUOTA_NEAR_PERCENT;
}

bool quota_is_near(const struct quota *quota)
{
    return quota->domid != 0 && (is_near(quota->watches, LIMIT_QUOTA_WATCHES) ||
                                 is_near(quota->nodes, LIMIT_QUOTA_NODES));
}

unsigned quota_room_disks(const struct quota *quota)
{
    unsigned each = quota->disks ? quota->nodes / quota->disks : NODES_A_DISK;
    unsigned by_nodes = 0, by_watches = 0;

    if (quota->nodes < LIMIT_QUOTA_NODES)
        by_nodes = (LIMIT_QUOTA_NODES - quota->nodes) / (each ? each : 1);
    if (quota->watches < LIMIT_QUOTA_WATCHES)
        by_watches = LIMIT_QUOTA_WATCHES - quota->watches;
    return by_nodes < by_watches ? by_nodes : by_watches;
}
