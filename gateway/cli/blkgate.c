/*
 * blkgate: the command for operators: list, attach, detach, retire, quota.
 *
 * attach is a toolstack of its own: it makes the backend's and the frontend's nodes, and libxl's
 * record of them, so that `xl block-list`, `xl block-detach` and `xl destroy` know the disk. The
 * backend's node begins in state 2 with its limits published: Linux's xenbus offers only nodes in
 * state 1 to drivers, so a loaded xen-blkback cannot claim it.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gateway/cli/nodes.h"
#include "gateway/cli/place.h"
#include "gateway/cli/quota.h"
#include "gateway/cli/report.h"
#include "gateway/cli/retire.h"
#include "gateway/config.h"
#include "proto/limits.h"
#include "proto/xenbus.h"

static const char help[] =
    "Usage: blkgate list [--json]\n"
    "       blkgate attach [-c FILE] [--read-only] DOMAIN VDEV DISK\n"
    "       blkgate detach [--force] DOMAIN VDEV\n"
    "       blkgate retire [--timeout SECONDS] [--json] [--yes] [DOMAIN]\n"
    "       blkgate quota [--json]\n"
    "\n"
    "  list    the disks that blkgated serves here\n"
    "  attach  gives a running guest a disk: DOMAIN is its name or number, VDEV what it is to be\n"
    "          there (xvdb), DISK a name in blkgated's configuration, or an NBD URI where that\n"
    "          allows it\n"
    "  detach  asks the guest to let go of it, and removes it; --force does not ask\n"
    "  retire  closes all disks for good, or all of DOMAIN's, before blkgated itself is ended:\n"
    "          as detach, all at once. READ blkgate(8) before you do it to guests that run\n"
    "  quota   how much of xenstore this domain uses, of what a driver domain may use\n"
    "\n"
    "  -c, --config FILE  blkgated's configuration (default: /etc/blkgate/blkgate.conf)\n"
    "      --json         for programs\n"
    "      --read-only    the guest may only read\n"
    "      --force        remove the disk even if the guest still uses it\n"
    "      --timeout N    how many seconds retire waits for the guests (default: 60)\n"
    "      --yes          retire without a question at the terminal\n"
    "      --version      print the version\n"
    "  -h, --help         print this\n"
    "\n"
    "Exit status: 0 done, 1 not done, 100 wrong use, 111 system failure. See blkgate(8).\n";

enum { TIMEOUT_S = 60, TIMEOUT_MAX_S = 86400 };

struct options {
    const char *config;
    bool json, readonly, force, yes;
    uint32_t timeout_s;
};

static void complain(void *arg, const char *text)
{
    (void)arg;
    fprintf(stderr, "blkgate: %s\n", text);
}

static void nap(void)
{
    struct timespec time = {.tv_nsec = 50000000};

    nanosleep(&time, NULL);
}

/* DOMAIN VDEV */
static int parse_place(struct nodes *nodes, char **words, struct place *ret_place)
{
    uint32_t domid, devid;

    if (place_find_domain(nodes, words[0], &domid) < 0)
        return report_fail(EXIT_FAILED, "no domain \"%s\" (xl list names them)", words[0]);
    if (xenbus_vdev_parse(words[1], &devid) < 0)
        return report_fail(EXIT_USE, "\"%s\" is no virtual device: write xvdb, for example",
                           words[1]);
    place_find(nodes, domid, devid, ret_place);
    return EXIT_DONE;
}

/* -- attach -------------------------------------------------------------------------------- */

struct attach {
    struct place place;
    const char *disk;
    bool readonly;
    const struct config *config;
};

static int put_all(struct nodes *nodes, const char *directory, const char *const (*pairs)[2])
{
    for (; (*pairs)[0]; pairs++) {
        int err = nodes_put(nodes, (*pairs)[1], "%s/%s", directory, (*pairs)[0]);

        if (err < 0)
            return err;
    }
    return 0;
}

static int write_nodes(struct nodes *nodes, void *arg)
{
    const struct attach *attach = arg;
    const struct place *place = &attach->place;
    char value[NODES_VALUE_BYTES], domid[16], ours[16], devid[16];
    char indirect[16], order[16], queues[16];
    const char *const back[][2] = {
        {KEY_FRONTEND, place->front},
        {KEY_FRONTEND_ID, domid},
        {KEY_PARAMS, attach->disk},
        {"dev", place->vdev},
        {"type", place->kind},
        {KEY_MODE, attach->readonly ? "r" : "w"},
        {KEY_DEVICE_TYPE, "disk"},
        {"bootable", "1"},
        {KEY_REMOVABLE, "1"},
        {KEY_ONLINE, "1"},
        {"specification", "xen"},
        {KEY_DISCARD_ENABLE, "1"},
        {KEY_MAX_INDIRECT, indirect},
        {KEY_MAX_RING_ORDER, order},
        {KEY_MAX_QUEUES, queues},
        {KEY_STATE, "2"},
        {NULL, NULL},
    };
    const char *const front[][2] = {
        {"backend", place->back},
        {"backend-id", ours},
        {"virtual-device", devid},
        {KEY_DEVICE_TYPE, "disk"},
        {"trusted", "1"},
        {KEY_STATE, "1"},
        {NULL, NULL},
    };
    const char *const record[][2] = {
        {"backend", place->back}, {KEY_FRONTEND, place->front}, {NULL, NULL}};
    int err;

    if (nodes_get(nodes, value, "%s", place->front) == 0 ||
        nodes_get(nodes, value, "%s", place->back) == 0)
        return -EEXIST;
    snprintf(domid, sizeof domid, "%" PRIu32, place->domid);
    snprintf(ours, sizeof ours, "%" PRIu32, place->ours);
    snprintf(devid, sizeof devid, "%" PRIu32, place->devid);
    snprintf(indirect, sizeof indirect, "%" PRIu32, attach->config->indirect_segments);
    snprintf(order, sizeof order, "%" PRIu32, attach->config->ring_page_order);
    snprintf(queues, sizeof queues, "%" PRIu32, attach->config->queues);

    err = nodes_make_directory(nodes, place->ours, place->domid, "%s", place->back);
    if (err == 0)
        err = nodes_make_directory(nodes, place->domid, place->ours, "%s", place->front);
    if (err == 0)
        err = put_all(nodes, place->back, back);
    if (err == 0)
        err = put_all(nodes, place->front, front);
    if (err == 0)
        err = put_all(nodes, place->libxl, back);
    if (err == 0)
        err = put_all(nodes, place->libxl, record);
    return err;
}

/* Until blkgated says whether the server can be reached. */
static int await_verdict(struct nodes *nodes, const struct attach *attach)
{
    char status[NODES_VALUE_BYTES] = "";

    for (int i = 0; i < (LIMIT_CONNECT_MS + 2000) / 50; i++, nap()) {
        if (nodes_get(nodes, status, "%s/" KEY_BLKGATE_STATUS, attach->place.back) < 0)
            continue;
        if (strcmp(status, "ready") == 0)
            return EXIT_DONE;
        if (strncmp(status, "failed: ", 8) == 0)
            return report_fail(EXIT_FAILED, "not attached: %s", status + 8);
    }
    if (status[0])
        return report_fail(EXIT_FAILED, "not attached: blkgated is still trying (it says \"%s\")",
                           status);
    return report_fail(EXIT_FAILED,
                       "not attached: blkgated does not answer: does it run, and does its "
                       "configuration name \"%s\"? (systemctl status blkgated)",
                       attach->disk);
}

static int attach_disk(struct nodes *nodes, const struct options *options, char **words)
{
    struct attach attach = {.disk = words[2], .readonly = options->readonly};
    struct config *config = NULL;
    int status = parse_place(nodes, words, &attach.place);
    int err;

    if (status != EXIT_DONE)
        return status;
    err = config_load(options->config, complain, NULL, &config);
    if (err < 0)
        return EXIT_FAILED;
    attach.config = config;
    if (!config_disk_find(config, attach.disk) && !config->allow_uri) {
        status = report_fail(EXIT_FAILED,
                             "no disk \"%s\" in %s: add a section [disk %s], and restart "
                             "blkgated",
                             attach.disk, options->config, attach.disk);
        config_free(config);
        return status;
    }
    err = nodes_transaction(nodes, write_nodes, &attach);
    if (err == -EEXIST)
        status =
            report_fail(EXIT_FAILED, "domain %s has a %s already (blkgate list, xl block-list)",
                        words[0], words[1]);
    else if (err < 0)
        status = report_fail(EXIT_SYSTEM, "xenstore cannot be written: %s", strerror(-err));
    else
        status = await_verdict(nodes, &attach);
    if (status == EXIT_FAILED && err == 0)
        (void)place_remove(nodes, &attach.place);
    config_free(config);
    return status;
}

/* -- detach -------------------------------------------------------------------------------- */

static int detach_disk(struct nodes *nodes, const struct options *options, char **words)
{
    struct place place = {0};
    int status = parse_place(nodes, words, &place), err;
    bool gone = false;

    if (status != EXIT_DONE)
        return status;
    if (!place.served)
        return report_fail(EXIT_FAILED,
                           "domain %s has no %s of blkgated's (blkgate list names them)", words[0],
                           words[1]);
    err = place_unplug(nodes, &place, options->force);
    if (err < 0)
        return report_fail(EXIT_SYSTEM, "xenstore cannot be written: %s", strerror(-err));
    for (int i = 0; i < (LIMIT_CLOSE_MS + 2000) / 50 && !gone; i++, nap())
        gone = place_is_closed(nodes, &place);
    if (!gone)
        return report_fail(EXIT_FAILED, "not detached: %s",
                           options->force
                               ? "blkgated has not let go of it: its log says why"
                               : "the guest still uses it; unmount it there and try again, "
                                 "or use --force");
    (void)place_remove(nodes, &place);
    return EXIT_DONE;
}

/* -- quota --------------------------------------------------------------------------------- */

static void warn_if_near(struct nodes *nodes)
{
    struct quota quota;

    if (place_our_domid(nodes) == 0)
        return; /* nothing to walk for */
    quota_measure(nodes, place_our_domid(nodes), &quota);
    if (quota_is_near(&quota))
        fprintf(stderr,
                "blkgate: xenstore is nearly full for this domain: %u of %u nodes, %u of %u "
                "watches, room for %u more disks (raise xenstored's quota, or use another driver "
                "domain)\n",
                quota.nodes, LIMIT_QUOTA_NODES, quota.watches, LIMIT_QUOTA_WATCHES,
                quota_room_disks(&quota));
}

/* One line of the table, or two fields of the JSON. */
static void print_quota(const struct options *options, const char *what, unsigned used,
                        unsigned quota)
{
    if (!options->json)
        printf("%-7s %5u %5u\n", what, used, quota);
    else if (quota)
        printf("\"%s\": %u, \"%s_quota\": %u, ", what, used, what, quota);
    else
        printf("\"%s\": %u, \"%s_quota\": null, ", what, used, what);
}

static int show_quota(struct nodes *nodes, const struct options *options)
{
    uint32_t ours = place_our_domid(nodes);
    struct quota quota;

    if (ours == 0 && !options->json) {
        puts("Domain 0 has no quota in xenstore.");
        return EXIT_DONE;
    }
    quota_measure(nodes, ours, &quota);
    if (options->json)
        printf("{\"domid\": %" PRIu32 ", \"disks\": %u, ", ours, quota.disks);
    else
        printf("%-7s %5s %5s\n", "", "USED", "QUOTA");
    print_quota(options, "nodes", quota.nodes, ours ? LIMIT_QUOTA_NODES : 0);
    print_quota(options, "watches", quota.watches, ours ? LIMIT_QUOTA_WATCHES : 0);
    if (options->json)
        printf("\"near\": %s}\n", quota_is_near(&quota) ? "true" : "false");
    else
        printf("Room for %u more disks, if the quotas are the usual ones.\n",
               quota_room_disks(&quota));
    return fflush(stdout) == 0 && !ferror(stdout) ? EXIT_DONE : EXIT_SYSTEM;
}

/* -- list ---------------------------------------------------------------------------------- */

struct listing {
    struct nodes *nodes;
    bool json, any;
};

static void list_disk(void *arg, const struct place *place)
{
    struct listing *listing = arg;
    struct nodes *nodes = listing->nodes;
    char status[NODES_VALUE_BYTES] = "-", name[NODES_VALUE_BYTES] = "-";
    char state[NODES_VALUE_BYTES] = "-", disk[NODES_VALUE_BYTES];

    place_disk_name(nodes, place, disk);
    (void)nodes_get(nodes, status, "%s/" KEY_BLKGATE_STATUS, place->back);
    (void)nodes_get(nodes, name, "/local/domain/%" PRIu32 "/name", place->domid);
    if (nodes_get(nodes, state, "%s/" KEY_STATE, place->back) == 0)
        snprintf(state, sizeof state, "%s", xenbus_state_name(xenbus_state_parse(state)));
    if (listing->json) {
        printf("%s\n  {\"domid\": %" PRIu32 ", ", listing->any ? "," : "", place->domid);
        report_json("domain", name, ", ");
        report_json("vdev", place->vdev, ", ");
        report_json("kind", place->kind, ", ");
        report_json("disk", disk, ", ");
        report_json("state", state, ", ");
        report_json("status", status, "}");
    } else {
        if (!listing->any)
            printf("%5s %-16s %-6s %-6s %-20s %-12s %s\n", "DOMID", "DOMAIN", "VDEV", "KIND",
                   "DISK", "STATE", "STATUS");
        printf("%5" PRIu32 " %-16s %-6s %-6s %-20s %-12s %s\n", place->domid, name, place->vdev,
               place->kind, disk, state, status);
    }
    listing->any = true;
}

static int list_disks(struct nodes *nodes, const struct options *options)
{
    struct listing listing = {.nodes = nodes, .json = options->json};
    int err;

    if (options->json)
        fputc('[', stdout);
    err = place_each(nodes, list_disk, &listing);
    if (options->json)
        puts(listing.any ? "\n]" : "]");
    else if (!listing.any && err == 0)
        puts("blkgated serves no disk.");
    if (err < 0)
        return report_fail(EXIT_SYSTEM, "xenstore cannot be read: %s", strerror(-err));
    warn_if_near(nodes);
    return report_end();
}

static int retire(struct nodes *nodes, const struct options *options, const char *domain)
{
    const struct retire_options retire_options = {
        .domain = domain,
        .timeout_s = options->timeout_s,
        .json = options->json,
        .yes = options->yes,
    };

    return retire_run(nodes, &retire_options);
}

/* -- the command --------------------------------------------------------------------------- */

static int parse_options(int argc, char **argv, struct options *options)
{
    enum { JSON = 256, READ_ONLY, FORCE, TIMEOUT, YES, VERSION };
    static const struct option known[] = {{"config", required_argument, NULL, 'c'},
                                          {"json", no_argument, NULL, JSON},
                                          {"read-only", no_argument, NULL, READ_ONLY},
                                          {"force", no_argument, NULL, FORCE},
                                          {"timeout", required_argument, NULL, TIMEOUT},
                                          {"yes", no_argument, NULL, YES},
                                          {"version", no_argument, NULL, VERSION},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    int option;

    while ((option = getopt_long(argc, argv, "c:h", known, NULL)) != -1) {
        switch (option) {
        case 'c': options->config = optarg; break;
        case JSON: options->json = true; break;
        case READ_ONLY: options->readonly = true; break;
        case FORCE: options->force = true; break;
        case YES: options->yes = true; break;
        case TIMEOUT:
            if (xenbus_parse_u32(optarg, TIMEOUT_MAX_S, &options->timeout_s) == 0)
                break;
            return report_fail(EXIT_USE, "--timeout %s: write a number of seconds, %d at most",
                               optarg, TIMEOUT_MAX_S);
        case VERSION: puts("blkgate " BLKGATE_VERSION); exit(EXIT_DONE);
        case 'h': fputs(help, stdout); exit(EXIT_DONE);
        default: return EXIT_USE; /* getopt has said what */
        }
    }
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    struct options options = {.config = "/etc/blkgate/blkgate.conf", .timeout_s = TIMEOUT_S};
    struct nodes *nodes = NULL;
    int status = parse_options(argc, argv, &options), words, err;
    const char *command;

    if (status != EXIT_DONE)
        return status;
    if (optind == argc)
        return report_fail(EXIT_USE, "what to do? blkgate --help lists the commands");
    command = argv[optind++];
    words = argc - optind;
    if (!(strcmp(command, "list") == 0 && words == 0) &&
        !(strcmp(command, "quota") == 0 && words == 0) &&
        !(strcmp(command, "attach") == 0 && words == 3) &&
        !(strcmp(command, "detach") == 0 && words == 2) &&
        !(strcmp(command, "retire") == 0 && words <= 1))
        return report_fail(EXIT_USE, "\"%s\" with %d words is not a command: see blkgate --help",
                           command, words);
    err = nodes_connect(&nodes);
    if (err < 0)
        return report_fail(EXIT_SYSTEM, "xenstore cannot be used: %s (is xenstored running?)",
                           strerror(-err));
    if (strcmp(command, "list") == 0)
        status = list_disks(nodes, &options);
    else if (strcmp(command, "quota") == 0)
        status = show_quota(nodes, &options);
    else if (strcmp(command, "attach") == 0)
        status = attach_disk(nodes, &options, argv + optind);
    else if (strcmp(command, "detach") == 0)
        status = detach_disk(nodes, &options, argv + optind);
    else
        status = retire(nodes, &options, words == 1 ? argv[optind] : NULL);
    nodes_disconnect(nodes);
    return status;
}
