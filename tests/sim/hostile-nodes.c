/* A guest that breaks the rules in xenstore: junk where its rings are named, and flapping states.
 * The backend must refuse with state 5 and a readable reason, and serve it when it is right. */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "@ref0" and the like stand for a good ring's, "@more" for one more than the backend offers; NULL:
 * no such node. */
struct node {
    const char *key, *value;
};

/* Over the nodes of one good ring of one page. */
static const struct {
    const char *says; /* in the error node */
    struct node nodes[6];
} junk[] = {
    {"ring-ref is \"\", not a number", {{"ring-ref", ""}}},
    {"ring-ref is \"12x\", not a number", {{"ring-ref", "12x"}}},
    {"ring-ref is 4294967296, not within", {{"ring-ref", "4294967296"}}},
    {"cannot be mapped", {{"ring-ref", "99999"}}},
    {"no ring-ref", {{"ring-ref", NULL}}},
    {"event-channel is \"-1\", not a number", {{"event-channel", "-1"}}},
    {"event-channel 4095 cannot be bound", {{"event-channel", "4095"}}},
    {"not within", {{"event-channel", "18446744073709551617"}}},
    {"vax-abi", {{"protocol", "vax-abi"}}},
    {"multi-queue-num-queues is 0, not within", {{"multi-queue-num-queues", "0"}}},
    {"multi-queue-num-queues is 17, not within", {{"multi-queue-num-queues", "17"}}},
    {"multi-queue-num-queues is \"2x\", not a number", {{"multi-queue-num-queues", "2x"}}},
    {"multi-queue-num-queues is .* offered",
     {{"multi-queue-num-queues", "@more"}, {"ring-ref", NULL}}},
    {"no queue-0/ring-ref",
     {{"multi-queue-num-queues", "2"}, {"ring-ref", NULL}, {"event-channel", NULL}}},
    {"no queue-1/ring-ref",
     {{"multi-queue-num-queues", "2"},
      {"queue-0/ring-ref", "@ref0"},
      {"queue-0/event-channel", "@port0"}}},
    {"no queue-1/event-channel",
     {{"multi-queue-num-queues", "2"},
      {"queue-0/ring-ref", "@ref0"},
      {"queue-0/event-channel", "@port0"},
      {"queue-1/ring-ref", "@ref1"}}},
    {"event channel .* twice",
     {{"multi-queue-num-queues", "2"},
      {"queue-0/ring-ref", "@ref0"},
      {"queue-0/event-channel", "@port0"},
      {"queue-1/ring-ref", "@ref1"},
      {"queue-1/event-channel", "@port0"}}},
    {"ring-ref .* twice",
     {{"multi-queue-num-queues", "2"},
      {"queue-0/ring-ref", "@ref0"},
      {"queue-0/event-channel", "@port0"},
      {"queue-1/ring-ref", "@ref0"},
      {"queue-1/event-channel", "@port1"}}},
    {"ring-page-order is 5, not within", {{"ring-page-order", "5"}}},
    {"ring-page-order is .* offered", {{"ring-page-order", "@more"}, {"ring-ref", NULL}}},
    {"no ring-ref1", {{"ring-page-order", "1"}, {"ring-ref0", "@ref0"}}},
    {"ring-ref .* twice",
     {{"ring-page-order", "1"}, {"ring-ref0", "@ref0"}, {"ring-ref1", "@ref0"}}},
};

#define JUNKS (sizeof(junk) / sizeof(junk[0]))

int hostile_reconnect(struct load *load, const char *what)
{
    if (front_close(load->front) || front_reopen(load->front) || front_connect(load->front)) {
        fprintf(stderr, "simguest: no reconnection after %s\n", what);
        return -1;
    }
    return 0;
}

static void node_remove(struct load *load, const char *key)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", load->front->disk->frontend, key);
    xs_rm(load->guest->xs, XBT_NULL, path);
}

/* All that names a ring, of this connection or an earlier one. */
static void nodes_remove(struct load *load)
{
    static const char *const keys[] = {"ring-ref",  "ring-page-order", "multi-queue-num-queues",
                                       "ring-ref0", "ring-ref1",       "event-channel",
                                       "queue-0",   "queue-1"};
    size_t i;

    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        node_remove(load, keys[i]);
}

struct good {
    uint32_t ref[2], port[2];
};

/* What the backend offers of it, and what there can be at all. */
static long offered(struct load *load, const char *key, long *ret_most)
{
    bool queues = strcmp(key, "multi-queue-num-queues") == 0;

    *ret_most = queues ? GUEST_QUEUES_MAX : 4;
    return guest_xs_read_number(load->guest, load->front->disk->backend,
                                queues ? "multi-queue-max-queues" : "max-ring-page-order", 0);
}

/* Can more be asked for than is offered, and less than is junk anyway? */
static bool junk_possible(struct load *load, size_t pick)
{
    const struct node *node = junk[pick].nodes;
    long most;

    return !node->value || strcmp(node->value, "@more") != 0 ||
           offered(load, node->key, &most) < most;
}

static int node_write(struct load *load, const struct node *node, const struct good *good)
{
    const char *dir = load->front->disk->frontend, *value = node->value;
    size_t last = value ? strlen(value) : 0;
    unsigned which;
    long most;

    if (!value) {
        node_remove(load, node->key);
        return 0;
    }
    if (value[0] != '@')
        return guest_xs_write(load->guest, XBT_NULL, dir, node->key, "%s", value);
    if (strcmp(value, "@more") == 0)
        return guest_xs_write(load->guest, XBT_NULL, dir, node->key, "%ld",
                              offered(load, node->key, &most) + 1);
    which = (unsigned)(value[last - 1] - '0');
    return guest_xs_write(load->guest, XBT_NULL, dir, node->key, "%u",
                          value[1] == 'r' ? good->ref[which] : good->port[which]);
}

/* Does the pattern (with one ".*" at most) occur in the text? */
static bool occurs(const char *pattern, const char *text)
{
    const char *gap = strstr(pattern, ".*");
    char head[64];

    if (!gap)
        return strstr(text, pattern) != NULL;
    snprintf(head, sizeof(head), "%.*s", (int)(gap - pattern), pattern);
    text = strstr(text, head);
    return text && strstr(text + strlen(head), gap + 2);
}

static char *error_read(struct load *load)
{
    static const char own[] = "/local/domain/0/";
    char path[256];
    unsigned len;

    snprintf(path, sizeof(path), "%serror/%s/error", own, load->front->disk->backend + strlen(own));
    return xs_read(load->guest->xs, XBT_NULL, path, &len);
}

/* State 5, and why. */
static int refusal_wait(struct load *load, const char *says)
{
    char *error;
    int err = 0;

    if (tool_wait_state(load->front->disk, STATE_CLOSING, load->front->timeout_ms))
        return -1;
    error = error_read(load);
    if (!error || !occurs(says, error)) {
        fprintf(stderr, "simguest: the error node says '%s' and not '%s'\n", error ? error : "",
                says);
        err = -1;
    }
    free(error);
    return err;
}

/* It goes after state 4 has come, not with it. */
static bool error_gone(struct load *load)
{
    int64_t deadline_ms = guest_clock_ms() + load->front->timeout_ms;
    char *error;

    while ((error = error_read(load))) {
        free(error);
        if (guest_clock_ms() > deadline_ms) {
            fprintf(stderr, "simguest: connected, and the error is still told\n");
            return false;
        }
        guest_wait(load->guest, 2);
    }
    return true;
}

static int junk_publish(struct load *load, size_t pick, const struct good *good)
{
    const struct node plain[] = {{"ring-ref", "@ref0"},
                                 {"event-channel", "@port0"},
                                 {"protocol", load->front->abi->protocol}};
    int err = 0;
    size_t i;

    nodes_remove(load);
    for (i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
        err |= node_write(load, &plain[i], good);
    for (i = 0; i < 6 && junk[pick].nodes[i].key; i++)
        err |= node_write(load, &junk[pick].nodes[i], good);
    return err | front_state_set(load->front, STATE_INITIALISED);
}

/* In a fresh connection; then the proper values in another one, to which no error clings. */
int hostile_nodes(struct load *load)
{
    struct front *front = load->front;
    struct good good;
    uint32_t slot;
    size_t pick;

    do
        pick = load->nr_junk++ % JUNKS;
    while (!junk_possible(load, pick));

    if (front_close(front) || front_reopen(front) || front_ring_create(front) ||
        guest_port_alloc(load->guest, 0, &good.port[1], &slot))
        return -1;
    good.ref[0] = front->queues[0].refs[0];
    good.port[0] = front->queues[0].port;
    good.ref[1] = guest_grant(load->guest, load->ios[0].frames[0], 0, false);
    if (junk_publish(load, pick, &good) || refusal_wait(load, junk[pick].says) ||
        front_state_set(front, STATE_CLOSED) ||
        tool_wait_state(front->disk, STATE_CLOSED, front->timeout_ms) || front_ring_free(front) ||
        !guest_revoke(load->guest, good.ref[1]) || front_reopen(front))
        goto fail;
    guest_port_close(load->guest, good.port[1]);
    nodes_remove(load);
    if (front_connect(front) == 0 && error_gone(load))
        return 0;
fail:
    fprintf(stderr, "simguest: trouble after junk: '%s'\n", junk[pick].says);
    return -1;
}

/* Says nothing before the ring is replaced: whether the backend stops it or answers is its own. */
int hostile_states(struct load *load)
{
    static const int states[] = {4, 3, 1, 4, 0, 9, 4, 5, 4, 1, 6, 3};
    unsigned i;

    for (i = 0; i < 40; i++)
        if (front_state_set(load->front, states[load_below(load, 12)]))
            return -1;
    return hostile_reconnect(load, "flapping states");
}
