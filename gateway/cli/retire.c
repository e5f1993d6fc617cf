#include "gateway/cli/retire.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gateway/cli/nodes.h"
#include "gateway/cli/place.h"
#include "gateway/cli/report.h"
#include "proto/xenbus.h"

enum {
    ROUND_MS = 250,
    ROUNDS_PER_LINE = 1000 / ROUND_MS,
    NAMED = 4, /* disks in a line of text */
};

/* Whom a disk waits for. */
enum waits { WAITS_ANSWER, WAITS_USE, WAITS_DAEMON, WAITS_COUNT };

struct round {
    struct nodes *nodes;
    const struct retire_options *options;
    uint32_t domid; /* if a domain was named */
    bool loud;      /* a line is due */
    unsigned count, waiting[WAITS_COUNT];
    unsigned connected; /* of a round that only looks */
};

static bool is_meant(const struct round *round, const struct place *place)
{
    return !round->options->domain || place->domid == round->domid;
}

/* -- what is said -------------------------------------------------------------------------- */

static void print_waiting(const struct round *round, const struct place *place, enum waits waits)
{
    static const char *const words[] = {"answer", "use", "blkgated"};
    static const char *const texts[] = {"the guest has not answered", "the guest still uses it",
                                        "blkgated is to close it"};
    char name[NODES_VALUE_BYTES];

    if (round->options->json) {
        place_disk_name(round->nodes, place, name);
        printf("%s{\"domid\": %" PRIu32 ", ", round->count > 1 ? ", " : "", place->domid);
        report_json("vdev", place->vdev, ", ");
        report_json("disk", name, ", ");
        report_json("for", words[waits], "}");
    } else if (round->count <= NAMED) {
        printf("%s%" PRIu32 "/%s: %s", round->count > 1 ? "; " : "waiting for ", place->domid,
               place->vdev, texts[waits]);
    }
}

static void end_line(const struct round *round)
{
    if (round->options->json)
        fputs("]}", stdout);
    else if (round->count > NAMED)
        printf("; and %u more", round->count - NAMED);
    if (round->options->json || round->count > 0)
        putchar('\n');
    fflush(stdout);
}

static int say_done(const struct retire_options *options)
{
    if (options->json)
        puts("{\"waiting\": []}");
    else if (options->domain)
        printf("Domain %s has no disk of blkgated's any more.\n", options->domain);
    else
        puts("blkgated serves no disk any more. To end it for good: systemctl disable --now "
             "blkgated");
    return report_end();
}

static int say_late(const struct round *round)
{
    const unsigned *waiting = round->waiting;

    report_fail(EXIT_FAILED, "not done after %" PRIu32 " s, disks left: %u",
                round->options->timeout_s, round->count);
    if (waiting[WAITS_USE] > 0)
        report_fail(EXIT_FAILED,
                    "still used by their guests, and served on: %u; unmount them there, or shut "
                    "these guests down: they close by themselves then",
                    waiting[WAITS_USE]);
    if (waiting[WAITS_ANSWER] > 0)
        report_fail(
            EXIT_FAILED,
            "of guests that have not answered, and served on, or held: %u; shut these guests down, "
            "or take their disks away with blkgate detach --force",
            waiting[WAITS_ANSWER]);
    if (waiting[WAITS_DAEMON] > 0)
        report_fail(EXIT_FAILED,
                    "let go of by their guests, but not closed by blkgated: %u; does it run? "
                    "(systemctl status blkgated)",
                    waiting[WAITS_DAEMON]);
    return report_fail(EXIT_FAILED, "when that is done, run blkgate retire again");
}

/* -- rounds -------------------------------------------------------------------------------- */

static enum waits find_out(struct nodes *nodes, const struct place *place)
{
    char text[NODES_VALUE_BYTES];
    enum xenbus_state state = XENBUS_ABSENT;

    if (nodes_get(nodes, text, "%s/" KEY_STATE, place->front) == 0)
        state = xenbus_state_parse(text);
    if (state == XENBUS_CLOSING)
        return WAITS_USE;
    return state >= XENBUS_INIT_WAIT && state <= XENBUS_CONNECTED ? WAITS_ANSWER : WAITS_DAEMON;
}

/* The same every time: who was asked is not asked again, so it can be ended and begun anywhere. */
static void step(void *arg, const struct place *place)
{
    struct round *round = arg;
    enum waits waits;

    if (!is_meant(round, place) || place_remove_closed(round->nodes, place) == 0)
        return;
    (void)place_unplug(round->nodes, place, false); /* else in the next round */
    waits = find_out(round->nodes, place);
    round->count++;
    round->waiting[waits]++;
    if (round->loud)
        print_waiting(round, place, waits);
}

static int go_round(struct round *round, bool loud)
{
    int err;

    round->loud = loud;
    round->count = 0;
    memset(round->waiting, 0, sizeof round->waiting);
    if (loud && round->options->json)
        fputs("{\"waiting\": [", stdout);
    err = place_each(round->nodes, step, round);
    if (loud)
        end_line(round);
    return err;
}

/* -- consent ------------------------------------------------------------------------------- */

static void count_connected(void *arg, const struct place *place)
{
    struct round *round = arg;
    char state[NODES_VALUE_BYTES];

    if (is_meant(round, place) &&
        nodes_get(round->nodes, state, "%s/" KEY_STATE, place->back) == 0 &&
        xenbus_state_parse(state) == XENBUS_CONNECTED)
        round->connected++;
}

/* Somebody at a terminal may not know what it does to guests. */
static bool is_meant_so(struct round *round)
{
    char answer[16] = "";

    if (round->options->yes || !isatty(STDIN_FILENO))
        return true;
    (void)place_each(round->nodes, count_connected, round);
    if (round->connected == 0)
        return true;
    fprintf(stderr,
            "Disks of running guests that are to be closed for good: %u. Linux since 5.14 lets go "
            "of a disk at once, mounted or not, and what it had not written back is lost: unmount "
            "them in the guests, or shut these down, before. Close them now? [y/N] ",
            round->connected);
    return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

int retire_run(struct nodes *nodes, const struct retire_options *options)
{
    const struct timespec nap = {.tv_nsec = ROUND_MS * 1000000L};
    struct round round = {.nodes = nodes, .options = options};
    uint64_t rounds = (uint64_t)options->timeout_s * ROUNDS_PER_LINE;
    int err;

    if (options->domain && place_find_domain(nodes, options->domain, &round.domid) < 0)
        return report_fail(EXIT_FAILED, "no domain \"%s\" (xl list names them)", options->domain);
    if (!is_meant_so(&round))
        return report_fail(EXIT_FAILED, "nothing was done");
    for (uint64_t i = 0; i <= rounds; i++) {
        err = go_round(&round, i % ROUNDS_PER_LINE == ROUNDS_PER_LINE - 1);
        if (err < 0)
            return report_fail(EXIT_SYSTEM, "xenstore cannot be read: %s", strerror(-err));
        if (round.count == 0)
            return say_done(options);
        nanosleep(&nap, NULL);
    }
    return say_late(&round);
}
