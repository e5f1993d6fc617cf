/* simxen-ctl stats | grants DOMID: what simxen and the stand-ins have counted. */
#include "simclient.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNTER(name)                           \
    {                                           \
#name, offsetof(struct sim_stats, name) \
    }

static const struct counter {
    const char *name;
    size_t offset;
} counters[] = {
    COUNTER(grant_copy_calls),
    COUNTER(grant_copy_ops),
    COUNTER(grant_copy_batches),
    COUNTER(grant_copy_bytes),
    COUNTER(grant_copy_errors),
    COUNTER(maps),
    COUNTER(mapped_grants),
    COUNTER(unmaps),
    COUNTER(binds),
    COUNTER(unbinds),
    COUNTER(notifies),
    COUNTER(pendings),
    COUNTER(unmasks),
    COUNTER(guest_notifies),
};

static void stats_print(struct sim_conn *conn)
{
    char *base = (char *)&conn->shared->stats;
    _Atomic uint64_t *value;
    size_t i;

    for (i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
        value = (_Atomic uint64_t *)(void *)(base + counters[i].offset);
        printf("%s %llu\n", counters[i].name, (unsigned long long)atomic_load(value));
    }
}

/* `mapped` counts a dead domain's grants too; `valid` only those of a live one. */
static int grants_print(struct sim_conn *conn, uint32_t domid)
{
    struct sim_msg msg = {.op = SIM_DOM_PINS, .arg = {domid}};
    struct sim_domain *dom = sim_domain_find(conn, domid);
    unsigned valid = 0;
    uint32_t ref;

    if (sim_call(conn, &msg, NULL, 0))
        return 1;
    for (ref = 0; dom && ref < SIM_GRANTS; ref++)
        valid += (atomic_load(&dom->grants[ref]) & SIM_GRANT_VALID) != 0;
    printf("domain %s\nvalid %u\nmapped %u\n", dom ? "alive" : "absent", valid, msg.arg[0]);
    return 0;
}

int main(int argc, char **argv)
{
    struct sim_conn *conn;
    int status = 0;

    if (!(argc == 2 && strcmp(argv[1], "stats") == 0) &&
        !(argc == 3 && strcmp(argv[1], "grants") == 0)) {
        fprintf(stderr, "usage: simxen-ctl stats | simxen-ctl grants DOMID\n"
                        "Asks the simxen of $BLKGATE_SIM.\n");
        return 2;
    }
    conn = sim_connect(SIM_KIND_TOOL, 0);
    if (!conn) {
        fprintf(stderr, "simxen-ctl: simxen does not answer: %s\n", strerror(errno));
        return 1;
    }
    if (argc == 2)
        stats_print(conn);
    else
        status = grants_print(conn, (uint32_t)strtoul(argv[2], NULL, 10));
    sim_disconnect(conn);
    return status;
}
