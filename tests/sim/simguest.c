/* simguest: one guest with one disk that knows what every byte of it must be. See --help. */
#include "load.h"

#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: simguest --disk NAME --domid N [option...]\n"
    "Attaches the disk NAME (the toolstack's target) to a new domain N, fills it, loads it, "
    "checks\n"
    "every byte, detaches. Exits 0 only if all held. Needs BLKGATE_SIM and XENSTORED_PATH.\n"
    "  --kind vbd|qdisk|vbd3      the backend's kind (qdisk)\n"
    "  --script PATH [--run]      the disk's hotplug script; --run runs it, else its success is\n"
    "                             written for it\n"
    "  --vdev NAME --devid N      xvda, 51712\n"
    "  --abi x86_64|x86_32|arm|none\n"
    "  --direct                   ring and state 4 in one go, as OVMF does\n"
    "  --ring-order N --queues N  0 and 1; with --features as many as are offered\n"
    "  --readonly                 attached with mode r; checked against what it holds\n"
    "  --requests N | --seconds S | --until FILE\n"
    "                             length (1000 requests); FILE: until there is one\n"
    "  --mix random|seq|rw70|scatter|read4k|write4k\n"
    "  --indirect N               up to N segments in some requests, by INDIRECT (0: none)\n"
    "  --discard-every N          a random DISCARD after N other requests\n"
    "  --discard-all              the whole disk in one DISCARD before the load\n"
    "  --flush-data               some FLUSH requests carry data\n"
    "  --features                 all that the backend offers, mixed\n"
    "  --grown SECTORS            the disk must grow to it under the load\n"
    "  --depth D --flush-every N --model-sectors N --seed X --timeout-ms MS\n"
    "  --reconnect N              close and reconnect N times, a round of load after each\n"
    "  --hostile                  break the rules instead, one at a time\n"
    "  --case-2005                the request lists of the 2005 report instead\n"
    "  --progress --json\n";

#define NOT_GIVEN  UINT_MAX
#define GRANTS_MAX 16000u /* a little less than a domain of the simulation has */

struct settings {
    struct tool_disk disk;
    struct front front;
    struct load_options load;
    unsigned domid, reconnects;
    bool run_script, hostile, case_2005;
};

enum {
    OPT_DISK = 256,
    OPT_DOMID,
    OPT_KIND,
    OPT_SCRIPT,
    OPT_RUN,
    OPT_VDEV,
    OPT_DEVID,
    OPT_ABI,
    OPT_DIRECT,
    OPT_ORDER,
    OPT_QUEUES,
    OPT_READONLY,
    OPT_INDIRECT,
    OPT_DISCARD,
    OPT_DISCARD_ALL,
    OPT_FLUSH_DATA,
    OPT_FEATURES,
    OPT_GROWN,
    OPT_REQUESTS,
    OPT_SECONDS,
    OPT_UNTIL,
    OPT_MIX,
    OPT_DEPTH,
    OPT_FLUSH,
    OPT_MODEL,
    OPT_SEED,
    OPT_TIMEOUT,
    OPT_RECONNECT,
    OPT_HOSTILE,
    OPT_2005,
    OPT_PROGRESS,
    OPT_JSON,
    OPT_HELP
};

static const struct option options[] = {
    {"disk", 1, NULL, OPT_DISK},
    {"domid", 1, NULL, OPT_DOMID},
    {"kind", 1, NULL, OPT_KIND},
    {"script", 1, NULL, OPT_SCRIPT},
    {"run", 0, NULL, OPT_RUN},
    {"vdev", 1, NULL, OPT_VDEV},
    {"devid", 1, NULL, OPT_DEVID},
    {"abi", 1, NULL, OPT_ABI},
    {"direct", 0, NULL, OPT_DIRECT},
    {"ring-order", 1, NULL, OPT_ORDER},
    {"queues", 1, NULL, OPT_QUEUES},
    {"readonly", 0, NULL, OPT_READONLY},
    {"indirect", 1, NULL, OPT_INDIRECT},
    {"discard-every", 1, NULL, OPT_DISCARD},
    {"discard-all", 0, NULL, OPT_DISCARD_ALL},
    {"flush-data", 0, NULL, OPT_FLUSH_DATA},
    {"features", 0, NULL, OPT_FEATURES},
    {"grown", 1, NULL, OPT_GROWN},
    {"requests", 1, NULL, OPT_REQUESTS},
    {"seconds", 1, NULL, OPT_SECONDS},
    {"until", 1, NULL, OPT_UNTIL},
    {"mix", 1, NULL, OPT_MIX},
    {"depth", 1, NULL, OPT_DEPTH},
    {"flush-every", 1, NULL, OPT_FLUSH},
    {"model-sectors", 1, NULL, OPT_MODEL},
    {"seed", 1, NULL, OPT_SEED},
    {"timeout-ms", 1, NULL, OPT_TIMEOUT},
    {"reconnect", 1, NULL, OPT_RECONNECT},
    {"hostile", 0, NULL, OPT_HOSTILE},
    {"case-2005", 0, NULL, OPT_2005},
    {"progress", 0, NULL, OPT_PROGRESS},
    {"json", 0, NULL, OPT_JSON},
    {"help", 0, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static int mix_find(const char *name)
{
    static const char *const names[MIXES] = {"random",  "seq",    "rw70",
                                             "scatter", "read4k", "write4k"};
    int i;

    for (i = 0; i < MIXES; i++)
        if (strcmp(name, names[i]) == 0)
            return i;
    return -1;
}

static int load_option(struct load_options *load, int opt, const char *arg)
{
    int mix;

    switch (opt) {
    case OPT_REQUESTS: load->requests = strtoull(arg, NULL, 10); return 0;
    case OPT_SECONDS:
        load->run_ms = (int64_t)(strtod(arg, NULL) * 1000);
        load->requests = 0;
        return 0;
    case OPT_UNTIL:
        load->until = arg;
        load->requests = 0;
        return 0;
    case OPT_MIX:
        mix = mix_find(arg);
        load->mix = (enum load_mix)mix;
        return mix < 0 ? -1 : 0;
    case OPT_INDIRECT: load->indirect = (unsigned)strtoul(arg, NULL, 10); return 0;
    case OPT_DISCARD: load->discard_every = (unsigned)strtoul(arg, NULL, 10); return 0;
    case OPT_DISCARD_ALL: load->discard_all = true; return 0;
    case OPT_FLUSH_DATA: load->flush_data = true; return 0;
    case OPT_FEATURES: load->features = true; return 0;
    case OPT_GROWN: load->grown_sectors = strtoull(arg, NULL, 10); return 0;
    case OPT_DEPTH: load->depth = (unsigned)strtoul(arg, NULL, 10); return 0;
    case OPT_FLUSH: load->flush_every = (unsigned)strtoul(arg, NULL, 10); return 0;
    case OPT_MODEL: load->model_sectors = strtoull(arg, NULL, 10); return 0;
    case OPT_SEED: load->seed = strtoull(arg, NULL, 10); return 0;
    case OPT_PROGRESS: load->progress = true; return 0;
    case OPT_JSON: load->json = true; return 0;
    default: return -1;
    }
}

static int option(struct settings *s, int opt, const char *arg)
{
    switch (opt) {
    case OPT_DISK: s->disk.params = arg; return 0;
    case OPT_DOMID: s->domid = (unsigned)strtoul(arg, NULL, 10); return 0;
    case OPT_KIND: s->disk.kind = arg; return 0;
    case OPT_SCRIPT: s->disk.script = arg; return 0;
    case OPT_RUN: s->run_script = true; return 0;
    case OPT_VDEV: s->disk.vdev = arg; return 0;
    case OPT_DEVID: s->disk.devid = (unsigned)strtoul(arg, NULL, 10); return 0;
    case OPT_ABI: s->front.abi = guest_abi_find(arg); return s->front.abi ? 0 : -1;
    case OPT_DIRECT: s->front.direct_to_4 = true; return 0;
    case OPT_ORDER: s->front.ring_order = (unsigned)strtoul(arg, NULL, 10); return 0;
    case OPT_QUEUES: s->front.nr_queues = (unsigned)strtoul(arg, NULL, 10); return 0;
    case OPT_READONLY: s->disk.readonly = true; return 0;
    case OPT_TIMEOUT: s->front.timeout_ms = s->load.timeout_ms = atoi(arg); return 0;
    case OPT_RECONNECT: s->reconnects = (unsigned)strtoul(arg, NULL, 10); return 0;
    case OPT_HOSTILE: s->hostile = true; return 0;
    case OPT_2005: s->case_2005 = true; return 0;
    default: return load_option(&s->load, opt, arg);
    }
}

/* What was not said: nothing beyond the plain requests of old, or all there is. */
static void settings_default(struct settings *s)
{
    bool all = s->load.features;

    s->front.all_queues = all && s->front.nr_queues == NOT_GIVEN;
    s->front.whole_ring = all && s->front.ring_order == NOT_GIVEN;
    if (s->front.nr_queues == NOT_GIVEN)
        s->front.nr_queues = 1;
    if (s->front.ring_order == NOT_GIVEN)
        s->front.ring_order = 0;
    if (s->load.indirect == NOT_GIVEN)
        s->load.indirect = all ? GUEST_INDIRECT_MAX : 0;
    if (s->load.discard_every == NOT_GIVEN)
        s->load.discard_every = all ? 30 : 0;
    if (s->load.flush_every == NOT_GIVEN)
        s->load.flush_every = all ? 50 : 0;
    s->load.flush_data |= all;
}

static unsigned ring_pages(const struct settings *s)
{
    return (s->front.all_queues ? GUEST_QUEUES_MAX : s->front.nr_queues)
           << (s->front.whole_ring ? 4 : s->front.ring_order);
}

/* Frames, and grants, of the requests in flight. */
static unsigned load_pages(const struct settings *s)
{
    unsigned frames = s->load.indirect > GUEST_SEGMENTS_MAX ? s->load.indirect : GUEST_SEGMENTS_MAX;

    return s->load.depth * (frames + 1);
}

static bool settings_good(const struct settings *s)
{
    return s->disk.params && s->domid != NOT_GIVEN && s->load.depth > 0 &&
           s->load.depth <= LOAD_DEPTH_MAX && s->front.ring_order <= 4 && s->front.nr_queues > 0 &&
           s->front.nr_queues <= GUEST_QUEUES_MAX && s->load.indirect <= GUEST_INDIRECT_MAX &&
           ring_pages(s) + load_pages(s) <= GRANTS_MAX;
}

static int settings_read(struct settings *s, int argc, char **argv)
{
    int opt;

    s->domid = NOT_GIVEN;
    s->disk.kind = "qdisk";
    s->disk.vdev = "xvda";
    s->disk.devid = 51712;
    s->front.abi = guest_abi_find("x86_64");
    s->front.timeout_ms = s->load.timeout_ms = 30000;
    s->front.nr_queues = s->front.ring_order = NOT_GIVEN;
    s->load.indirect = s->load.discard_every = s->load.flush_every = NOT_GIVEN;
    s->load.requests = 1000;
    s->load.depth = 32;
    s->load.model_sectors = 32768;
    s->load.seed = 1;
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (option(s, opt, optarg))
            return -1;
    settings_default(s);
    return optind == argc && settings_good(s) ? 0 : -1;
}

/* What is asked for must be offered; what --features means is what is offered. */
static int offers_fit(struct settings *s)
{
    const struct front *front = &s->front;
    struct load_options *load = &s->load;

    if (load->features && (long)load->indirect > front->max_indirect)
        load->indirect = (unsigned)front->max_indirect;
    if ((long)load->indirect <= front->max_indirect &&
        (load->features || load->discard_every == 0 || front->discard))
        return 0;
    fprintf(stderr, "simguest: offered are %ld indirect segments and %s discard\n",
            front->max_indirect, front->discard ? "a" : "no");
    return -1;
}

/* The nodes that a frontend reads before it connects must be there in state 2. */
static int first_connect(struct settings *s)
{
    struct front *front = &s->front;

    if (!front->direct_to_4 && (tool_wait_state(&s->disk, STATE_INITWAIT, front->timeout_ms) ||
                                front_nodes_check(front, STATE_INITWAIT)))
        return -1;
    if (front_connect(front) || front_nodes_check(front, STATE_CONNECTED) || offers_fit(s))
        return -1;
    if (front->readonly == s->disk.readonly || !s->disk.readonly)
        return 0;
    fprintf(stderr, "simguest: attached with mode r, and `info` does not say so\n");
    return -1;
}

static int plug(struct settings *s, struct guest *guest)
{
    s->disk.guest = s->front.guest = guest;
    s->front.disk = &s->disk;
    if (tool_attach(&s->disk))
        return -1;
    if (s->disk.script && !s->front.direct_to_4) {
        /* libxl runs the script when the backend is at exactly 2. */
        if (tool_wait_state(&s->disk, STATE_INITWAIT, s->front.timeout_ms) ||
            (s->run_script ? tool_hotplug_run(&s->disk, "add") : tool_hotplug_done(&s->disk)))
            return -1;
    }
    return first_connect(s);
}

static int unplug(struct settings *s)
{
    if (tool_unplug(&s->disk) || front_close(&s->front) ||
        tool_wait_state(&s->disk, STATE_CLOSED, s->front.timeout_ms))
        return -1;
    if (s->run_script && tool_hotplug_run(&s->disk, "remove"))
        return -1;
    tool_remove(&s->disk);
    if (guest_mapped_grants(s->front.guest, s->domid) == 0)
        return 0;
    fprintf(stderr, "simguest: grants of domain %u are still mapped\n", s->domid);
    return -1;
}

static int work(struct settings *s, struct load *load)
{
    unsigned i;

    if (s->front.readonly ? load_adopt(load) : load_fill(load))
        return -1;
    if (load->options.discard_all && load_discard(load))
        return -1;
    if (s->case_2005)
        return case2005_run(load);
    if (s->hostile)
        return hostile_run(load);
    for (i = 0;; i++) {
        if (load_run(load))
            return -1;
        if (i == s->reconnects)
            return 0;
        if (front_close(&s->front) || front_reopen(&s->front) || front_connect(&s->front))
            return -1;
    }
}

static void report(const struct load *load, bool held)
{
    double seconds = (double)(load->end_ms - load->start_ms) / 1000;
    const char *format = load->options.json
                             ? "{\"held\": %s, \"requests\": %" PRIu64 ", \"bytes\": %" PRIu64
                               ", \"wrong_bytes\": %" PRIu64 ", \"errors\": %" PRIu64
                               ", \"seconds\": %.3f, \"iops\": %.0f, \"mb_per_s\": %.1f}\n"
                             : "held: %s  requests: %" PRIu64 "  bytes: %" PRIu64
                               "  wrong bytes: %" PRIu64 "  errors: %" PRIu64
                               "  seconds: %.3f  IOPS: %.0f  MB/s: %.1f\n";

    if (seconds <= 0)
        seconds = 0.001;
    printf(format, held ? "true" : "false", load->nr_requests, load->nr_bytes, load->nr_wrong_bytes,
           load->nr_errors, seconds, (double)load->nr_requests / seconds,
           (double)load->nr_bytes / seconds / 1e6);
    if (load->options.json || load->nr_indirect + load->nr_discards + load->nr_flush_writes == 0)
        return;
    printf("of them indirect: %" PRIu64 "  discards: %" PRIu64 "  flushes with data: %" PRIu64
           "  queues: %u  ring pages: %u\n",
           load->nr_indirect, load->nr_discards, load->nr_flush_writes, load->front->nr_queues,
           1u << load->front->ring_order);
}

int main(int argc, char **argv)
{
    static struct settings s;
    static struct load load;
    struct guest *guest;
    struct load ran;
    bool held;

    if (settings_read(&s, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    guest = guest_create(s.domid, 64 + ring_pages(&s) + load_pages(&s));
    if (!guest)
        return 1;
    held = plug(&s, guest) == 0 && load_init(&load, &s.front, &s.load) == 0;
    held = held && work(&s, &load) == 0;
    ran = load; /* without the rereading, which is no part of the load */
    held = held && load_reread(&load) == 0 && load_held(&load);
    held = held && unplug(&s) == 0;
    ran.nr_wrong_bytes = load.nr_wrong_bytes;
    ran.nr_errors = load.nr_errors;
    if (ran.end_ms == 0)
        ran.end_ms = guest_clock_ms();
    report(&ran, held);
    load_free(&load);
    guest_destroy(guest);
    return !held;
}
