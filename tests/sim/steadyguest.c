/* steadyguest: one guest whose load goes on through every outage, and what it saw of them. */
#include "steady.h"

#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

static const char usage[] =
    "usage: steadyguest --disk NAME --domid N [option...]\n"
    "Attaches, fills, loads and verifies one disk for as long as it takes, whatever happens to "
    "the\n"
    "daemon and its server meanwhile. Exit status: 0 all held, 1 it did not, 2 usage.\n"
    "  --kind qdisk|vbd|vbd3 (qdisk)  --abi x86_64|x86_32|arm|none\n"
    "  --queues N (4)  --ring-order N (0)  --depth D (64)\n"
    "  --indirect N           also indirect requests, of up to N segments (32; 0: none)\n"
    "  --sectors N            the part of the disk that is used (32768)\n"
    "  --hot N                sectors of it that 60 of 100 requests are about (64; 0: none)\n"
    "  --flush-every N (40)   of N requests one is a flush; 0: none\n"
    "  --discard-every N (0)  and about one a discard\n"
    "  --rate N (0)           so many requests a second at most; 0: as fast as they are answered\n"
    "  --seed X (1)\n"
    "  --seconds S | --requests N    when the load ends (never)\n"
    "  --patience-ms MS (0)   gives up when an answer takes longer; 0: never\n"
    "  --tell-ms MS (1000)    how often it says how it goes\n"
    "  --errors-allowed       requests (not flushes) may fail\n"
    "  --image FILE           in the end, what the part of the disk must hold\n"
    "  --json                 the result's form\n"
    "SIGUSR1 ends the load. At its end, all requests answered: a\n"
    "flush, everything is read and compared, and the disk is unplugged.\n";

#define GRANTS_MAX 16000u /* a little less than a domain of the simulation has */

struct settings {
    struct tool_disk disk;
    struct front front;
    struct steady_options load;
    unsigned domid;
    bool json;
};

static volatile sig_atomic_t stop;

enum {
    OPT_DISK = 256,
    OPT_DOMID,
    OPT_KIND,
    OPT_ABI,
    OPT_QUEUES,
    OPT_ORDER,
    OPT_DEPTH,
    OPT_INDIRECT,
    OPT_SECTORS,
    OPT_HOT,
    OPT_FLUSH,
    OPT_DISCARD,
    OPT_RATE,
    OPT_SEED,
    OPT_SECONDS,
    OPT_REQUESTS,
    OPT_PATIENCE,
    OPT_TELL,
    OPT_ERRORS,
    OPT_IMAGE,
    OPT_JSON,
    OPT_HELP
};

static const struct option options[] = {
    {"disk", 1, NULL, OPT_DISK},
    {"domid", 1, NULL, OPT_DOMID},
    {"kind", 1, NULL, OPT_KIND},
    {"abi", 1, NULL, OPT_ABI},
    {"queues", 1, NULL, OPT_QUEUES},
    {"ring-order", 1, NULL, OPT_ORDER},
    {"depth", 1, NULL, OPT_DEPTH},
    {"indirect", 1, NULL, OPT_INDIRECT},
    {"sectors", 1, NULL, OPT_SECTORS},
    {"hot", 1, NULL, OPT_HOT},
    {"flush-every", 1, NULL, OPT_FLUSH},
    {"discard-every", 1, NULL, OPT_DISCARD},
    {"rate", 1, NULL, OPT_RATE},
    {"seed", 1, NULL, OPT_SEED},
    {"seconds", 1, NULL, OPT_SECONDS},
    {"requests", 1, NULL, OPT_REQUESTS},
    {"patience-ms", 1, NULL, OPT_PATIENCE},
    {"tell-ms", 1, NULL, OPT_TELL},
    {"errors-allowed", 0, NULL, OPT_ERRORS},
    {"image", 1, NULL, OPT_IMAGE},
    {"json", 0, NULL, OPT_JSON},
    {"help", 0, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static unsigned number(const char *text)
{
    unsigned long value = strtoul(text, NULL, 10);

    return value > UINT_MAX ? UINT_MAX : (unsigned)value;
}

static int option(struct settings *s, int opt, const char *arg)
{
    switch (opt) {
    case OPT_DISK: s->disk.params = arg; return 0;
    case OPT_DOMID: s->domid = number(arg); return 0;
    case OPT_KIND: s->disk.kind = arg; return 0;
    case OPT_ABI: s->front.abi = guest_abi_find(arg); return s->front.abi ? 0 : -1;
    case OPT_QUEUES: s->front.nr_queues = number(arg); return 0;
    case OPT_ORDER: s->front.ring_order = number(arg); return 0;
    case OPT_DEPTH: s->load.depth = number(arg); return 0;
    case OPT_INDIRECT: s->load.indirect = number(arg); return 0;
    case OPT_SECTORS: s->load.sectors = number(arg); return 0;
    case OPT_HOT: s->load.hot = number(arg); return 0;
    case OPT_FLUSH: s->load.flush_every = number(arg); return 0;
    case OPT_DISCARD: s->load.discard_every = number(arg); return 0;
    case OPT_RATE: s->load.rate = number(arg); return 0;
    case OPT_SEED: s->load.seed = number(arg); return 0;
    case OPT_SECONDS: s->load.run_ms = (int64_t)(strtod(arg, NULL) * 1000); return 0;
    case OPT_REQUESTS: s->load.requests = strtoull(arg, NULL, 10); return 0;
    case OPT_PATIENCE: s->load.patience_ms = number(arg); return 0;
    case OPT_TELL: s->load.tell_ms = number(arg); return 0;
    case OPT_ERRORS: s->load.errors_allowed = true; return 0;
    case OPT_IMAGE: s->load.image = arg; return 0;
    case OPT_JSON: s->json = true; return 0;
    default: return -1; /* --help too */
    }
}

static unsigned pages(const struct settings *s)
{
    unsigned frames = s->load.indirect > GUEST_SEGMENTS_MAX ? s->load.indirect : GUEST_SEGMENTS_MAX;

    return s->load.depth * (frames + 1) + (s->front.nr_queues << s->front.ring_order);
}

static bool settings_good(const struct settings *s)
{
    return s->disk.params && s->domid > 0 && s->load.depth > 0 &&
           s->load.depth <= STEADY_DEPTH_MAX && s->front.nr_queues > 0 &&
           s->front.nr_queues <= GUEST_QUEUES_MAX && s->front.ring_order <= 4 &&
           s->load.indirect <= GUEST_INDIRECT_MAX && pages(s) <= GRANTS_MAX;
}

static int settings_read(struct settings *s, int argc, char **argv)
{
    int opt;

    s->disk.kind = "qdisk";
    s->disk.vdev = "xvda";
    s->disk.devid = 51712;
    s->front.abi = guest_abi_find("x86_64");
    s->front.nr_queues = 4;
    s->load = (struct steady_options){.seed = 1,
                                      .sectors = 32768,
                                      .depth = 64,
                                      .indirect = 32,
                                      .hot = 64,
                                      .flush_every = 40,
                                      .tell_ms = 1000};
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (option(s, opt, optarg))
            return -1;
    s->front.timeout_ms = s->load.patience_ms ? (int)s->load.patience_ms : INT_MAX;
    return optind == argc && settings_good(s) ? 0 : -1;
}

static int plug(struct settings *s, struct guest *guest)
{
    s->disk.guest = s->front.guest = guest;
    s->front.disk = &s->disk;
    return tool_attach(&s->disk) || front_connect(&s->front) ? -1 : 0;
}

static int unplug(struct settings *s)
{
    if (tool_unplug(&s->disk) || front_close(&s->front) ||
        tool_wait_state(&s->disk, STATE_CLOSED, s->front.timeout_ms))
        return -1;
    tool_remove(&s->disk);
    if (guest_mapped_grants(s->front.guest, s->domid) == 0)
        return 0;
    fprintf(stderr, "steadyguest: grants of domain %u are still mapped\n", s->domid);
    return -1;
}

static int work(struct steady *steady)
{
    if (steady_fill(steady))
        return -1;
    printf("filled\n");
    fflush(stdout);
    if (steady_run(steady) || steady_flush(steady) || steady_reread(steady))
        return -1;
    return steady->options.image ? steady_image_write(steady) : 0;
}

/* -- the result ------------------------------------------------------------------------------ */

static void report_json(const struct steady *steady, bool held, double seconds)
{
    static const char *const names[STEADY_OPS] = {"read", "write", "flush", "discard"};
    const struct front *front = steady->front;
    unsigned op;

    printf("{\"held\": %s, \"seconds\": %.3f, \"requests\": %" PRIu64 ", \"indirect\": %" PRIu64
           ", \"errors\": %" PRIu64 ", \"failed_flushes\": %" PRIu64
           ", \"double_answers\": %u, \"unknown_ids\": %u, \"wrong_operations\": %u"
           ", \"unanswered\": %" PRIu64 ", \"wrong_bytes\": %" PRIu64
           ", \"stale_sectors\": %" PRIu64 ", \"lost_sectors\": %" PRIu64
           ", \"lost_flushed_sectors\": %" PRIu64 ", \"closed\": %s, \"longest_gap_ms\": %" PRId64,
           held ? "true" : "false", seconds, steady->nr_requests, steady->nr_indirect,
           steady->nr_errors, steady->nr_flush_failures, front->nr_double, front->nr_unknown,
           front->nr_wrong_op, steady->nr_unanswered, steady->nr_wrong_bytes,
           steady->nr_stale_sectors, steady->nr_lost, steady->nr_lost_flushed,
           steady->closed ? "true" : "false", steady->gap_ms);
    for (op = 0; op < STEADY_OPS; op++)
        printf(", \"%s\": {\"count\": %" PRIu64 ", \"max_ms\": %.1f, \"at_s\": %.1f}", names[op],
               steady->latency[op].count, (double)steady->latency[op].max_us / 1000,
               (double)steady->latency[op].at_ms / 1000);
    printf("}\n");
}

static void report_text(const struct steady *steady, bool held, double seconds)
{
    static const char *const names[STEADY_OPS] = {"reads", "writes", "flushes", "discards"};
    const struct front *front = steady->front;
    unsigned op;

    for (op = 0; op < STEADY_OPS; op++)
        if (steady->latency[op].count)
            printf("%s: %" PRIu64 ", the longest %.1f ms, at %.1f s\n", names[op],
                   steady->latency[op].count, (double)steady->latency[op].max_us / 1000,
                   (double)steady->latency[op].at_ms / 1000);
    printf(
        "held: %s  seconds: %.1f  requests: %" PRIu64 "  of them indirect: %" PRIu64
        "  errors: %" PRIu64 "  double answers: %u  unknown ids: %u  wrong operations: %u"
        "  unanswered: %" PRIu64 "  wrong bytes: %" PRIu64 "  acknowledged sectors lost: %" PRIu64
        " (flushed: %" PRIu64 ")  longest gap: %" PRId64 " ms\n",
        held ? "yes" : "NO", seconds, steady->nr_requests, steady->nr_indirect, steady->nr_errors,
        front->nr_double, front->nr_unknown, front->nr_wrong_op, steady->nr_unanswered,
        steady->nr_wrong_bytes, steady->nr_lost, steady->nr_lost_flushed, steady->gap_ms);
}

static void on_usr1(int signal_number)
{
    (void)signal_number;
    stop = 1;
}

int main(int argc, char **argv)
{
    static struct settings s;
    static struct steady steady;
    struct guest *guest;
    double seconds;
    bool held;

    if (settings_read(&s, argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it would wait for ever */
    signal(SIGUSR1, on_usr1);
    guest = guest_create(s.domid, 64 + pages(&s));
    if (!guest)
        return 1;
    steady.front = &s.front;
    s.load.stop = &stop;
    held = plug(&s, guest) == 0 && steady_init(&steady, &s.front, &s.load) == 0;
    held = held && work(&steady) == 0;
    seconds = steady.start_ms ? (double)(guest_clock_ms() - steady.start_ms) / 1000 : 0;
    held = held && steady_held(&steady) && unplug(&s) == 0;
    if (s.json)
        report_json(&steady, held, seconds);
    else
        report_text(&steady, held, seconds);
    steady_free(&steady);
    guest_destroy(guest);
    return !held;
}
