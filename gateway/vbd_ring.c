/*
 * vbd_ring: see vbd_ring.h.
 *
 * blkfront writes ring-page-order and multi-queue-num-queues only if they say more than the
 * default, and never removes them: after a kexec into a kernel with other settings, or into a crash
 * kernel, which has one CPU and so one queue, the old ones still lie there. What tells is that a
 * frontend with several queues does not write a single ring's nodes, nor one with larger rings
 * those of a page. So those count that have changed since the device was last connected, and if
 * none has, it is read as it was then. Where they say more than B offers, which nobody could
 * rightly ask for, the plain nodes count if they are in order.
 */
#include "gateway/vbd_ring.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/xenbus.h"

enum { VALUE_BYTES = 64, KEY_BYTES = 64 };

_Static_assert(1 << LIMIT_RING_ORDER == LIMIT_RING_PAGES, "the greatest ring order");

struct reading {
    const struct vbd_ring_source *source;
    char *reason;
};

__attribute__((format(printf, 2, 3))) static int refuse(struct reading *reading, const char *format,
                                                        ...)
{
    va_list list;

    va_start(list, format);
    vsnprintf(reading->reason, LIMIT_REASON_BYTES, format, list);
    va_end(list);
    return -EPROTO;
}

/* A number in min..max at F/key. -ENOENT: no such node (no reason given). */
static int read_number(struct reading *reading, const char *key, uint32_t min, uint32_t max,
                       uint32_t *ret_value)
{
    char text[VALUE_BYTES];
    uint32_t value = 0;
    int ret = reading->source->read(reading->source->arg, key, text, sizeof(text));

    if (ret == -EMSGSIZE || ret == -EILSEQ)
        return refuse(reading, "the frontend's %s is not a number", key);
    if (ret < 0)
        return ret;
    ret = xenbus_parse_u32(text, max, &value);
    if (ret == -EINVAL)
        return refuse(reading, "the frontend's %s is \"%s\", not a number", key, text);
    if (ret < 0 || value < min)
        return refuse(reading, "the frontend's %s is %s, not within %u .. %u", key, text, min, max);
    *ret_value = value;
    return 0;
}

static int need_number(struct reading *reading, const char *key, uint32_t min, uint32_t max,
                       uint32_t *ret_value)
{
    int ret = read_number(reading, key, min, max, ret_value);

    return ret == -ENOENT ? refuse(reading, "the frontend has no %s", key) : ret;
}

static int read_protocol(struct reading *reading, enum blkif_abi *ret_abi)
{
    char text[VALUE_BYTES];
    int ret = reading->source->read(reading->source->arg, KEY_PROTOCOL, text, sizeof(text));

    if (ret == -ENOENT)
        return blkif_abi_parse(NULL, ret_abi) < 0 ? refuse(reading, "no protocol named") : 0;
    if (ret == -EMSGSIZE || ret == -EILSEQ)
        return refuse(reading, "the frontend's protocol is unknown");
    if (ret < 0)
        return ret;
    if (blkif_abi_parse(text, ret_abi) < 0)
        return refuse(reading, "the frontend's protocol is \"%s\", which is unknown", text);
    return 0;
}

/* One ring below `prefix`: its plain form, or 1 << order numbered references. */
static int read_ring(struct reading *reading, const char *prefix, int order,
                     struct disk_ring *ret_ring)
{
    struct disk_ring ring = {.page_count = 1};
    char key[KEY_BYTES];
    int ret;

    if (order < 0) {
        snprintf(key, sizeof(key), "%s" KEY_RING_REF, prefix);
        ret = need_number(reading, key, 1, UINT32_MAX, &ring.refs[0]);
        if (ret < 0)
            return ret;
    } else {
        ring.page_count = 1u << order;
        for (uint32_t page = 0; page < ring.page_count; page++) {
            snprintf(key, sizeof(key), "%s" KEY_RING_REF "%u", prefix, page);
            ret = need_number(reading, key, 1, UINT32_MAX, &ring.refs[page]);
            if (ret < 0)
                return ret;
        }
    }
    snprintf(key, sizeof(key), "%s" KEY_EVENT_CHANNEL, prefix);
    ret = need_number(reading, key, 1, UINT32_MAX, &ring.event_channel);
    if (ret < 0)
        return ret;
    *ret_ring = ring;
    return 0;
}

static int refuse_duplicates(struct reading *reading, const struct disk_order *order)
{
    uint32_t refs[LIMIT_QUEUES * LIMIT_RING_PAGES];
    uint32_t count = 0;

    for (uint32_t q = 0; q < order->queue_count; q++) {
        const struct disk_ring *ring = &order->queue[q];

        for (uint32_t earlier = 0; earlier < q; earlier++)
            if (order->queue[earlier].event_channel == ring->event_channel)
                return refuse(reading, "the frontend names event channel %u twice",
                              ring->event_channel);
        for (uint32_t page = 0; page < ring->page_count; page++) {
            for (uint32_t earlier = 0; earlier < count; earlier++)
                if (refs[earlier] == ring->refs[page])
                    return refuse(reading, "the frontend names ring-ref %u twice",
                                  ring->refs[page]);
            refs[count++] = ring->refs[page];
        }
    }
    return 0;
}

/* Is there one ring of one page in the plain nodes? */
static bool plain_ring(const struct vbd_ring_source *source, struct disk_ring *ret_ring)
{
    char unused[LIMIT_REASON_BYTES];
    struct reading reading = {.source = source, .reason = unused};

    return read_ring(&reading, "", -1, ret_ring) == 0;
}

static int refuse_excess(struct reading *reading, uint32_t queue_count, uint32_t page_order)
{
    const struct vbd_ring_source *source = reading->source;

    if (queue_count > source->queues_offered)
        return refuse(reading, "the frontend's " KEY_NUM_QUEUES " is %u, and %u %s offered",
                      queue_count, source->queues_offered,
                      source->queues_offered == 1 ? "was" : "were");
    return refuse(reading, "the frontend's " KEY_RING_ORDER " is %u, and %u was offered",
                  page_order, source->order_offered);
}

/* What is no number counts as absent. */
static int read_text(const struct vbd_ring_source *source, const char *prefix, const char *key,
                     char ret_text[static VBD_RING_TEXT_BYTES])
{
    char path[KEY_BYTES];
    uint32_t unused;
    int ret;

    snprintf(path, sizeof(path), "%s%s", prefix, key);
    ret = source->read(source->arg, path, ret_text, VBD_RING_TEXT_BYTES);
    if (ret < 0 && ret != -ENOENT && ret != -EMSGSIZE && ret != -EILSEQ)
        return ret;
    if (ret < 0 || xenbus_parse_u32(ret_text, UINT32_MAX, &unused) < 0)
        ret_text[0] = '\0';
    return 0;
}

static int read_nodes(const struct vbd_ring_source *source, const char *prefix,
                      struct vbd_ring_nodes *ret_nodes)
{
    int ret = read_text(source, prefix, KEY_EVENT_CHANNEL, ret_nodes->event_channel);

    if (ret == 0)
        ret = read_text(source, prefix, KEY_RING_REF, ret_nodes->ring_ref);
    if (ret == 0)
        ret = read_text(source, prefix, KEY_RING_REF "0", ret_nodes->ring_ref0);
    return ret;
}

/* What is not in order is refused when it is read. */
static uint32_t number_or(const struct vbd_ring_source *source, const char *key, uint32_t max,
                          uint32_t other)
{
    char text[VALUE_BYTES];
    uint32_t value = other;

    if (source->read(source->arg, key, text, sizeof(text)) == 0)
        (void)xenbus_parse_u32(text, max, &value);
    return value;
}

static bool is_new(const char *now, const char *before)
{
    return now[0] && strcmp(now, before) != 0;
}

static bool nodes_new(const struct vbd_ring_nodes *now, const struct vbd_ring_nodes *before)
{
    return is_new(now->event_channel, before->event_channel) ||
           is_new(now->ring_ref, before->ring_ref) || is_new(now->ring_ref0, before->ring_ref0);
}

/* Of two ways to read the nodes: the one whose are new, else that of before. */
static bool prefer(bool plain_new, bool other_new, bool before)
{
    return plain_new != other_new ? plain_new : !plain_new && before;
}

static struct vbd_ring_shape judge(const struct vbd_ring_trace *now,
                                   const struct vbd_ring_past *past, bool many)
{
    const struct vbd_ring_nodes *nodes = &now->only, *before = &past->trace.only;
    struct vbd_ring_shape shape = {0};

    if (many && nodes->event_channel[0] && (nodes->ring_ref[0] || nodes->ring_ref0[0]))
        shape.one_queue = prefer(nodes_new(nodes, before),
                                 nodes_new(&now->first, &past->trace.first), past->shape.one_queue);
    if (many && !shape.one_queue) {
        nodes = &now->first;
        before = &past->trace.first;
    }
    if (nodes->ring_ref[0])
        shape.one_page = prefer(is_new(nodes->ring_ref, before->ring_ref),
                                is_new(nodes->ring_ref0, before->ring_ref0), past->shape.one_page);
    return shape;
}

int vbd_ring_judge(const struct vbd_ring_source *source, const struct vbd_ring_past *before,
                   struct vbd_ring_past *ret_now)
{
    uint32_t queues = number_or(source, KEY_NUM_QUEUES, LIMIT_QUEUES, 1);
    uint32_t page_order = number_or(source, KEY_RING_ORDER, LIMIT_RING_ORDER, 0);
    bool excess = queues > source->queues_offered || page_order > source->order_offered;
    struct vbd_ring_past now = {0};
    struct disk_ring unused;
    int ret = read_nodes(source, "", &now.trace.only);

    if (ret == 0)
        ret = read_nodes(source, "queue-0/", &now.trace.first);
    if (ret < 0)
        return ret;
    if (excess && plain_ring(source, &unused))
        now.shape = (struct vbd_ring_shape){.one_queue = true, .one_page = true};
    else if (before)
        now.shape = judge(&now.trace, before, queues > 1);
    *ret_now = now;
    return 0;
}

int vbd_ring_read(const struct vbd_ring_source *source, const struct vbd_ring_shape *shape,
                  struct disk_order *ret_order, char ret_reason[static LIMIT_REASON_BYTES])
{
    struct reading reading = {.source = source, .reason = ret_reason};
    struct disk_order order = {.queue_count = 1};
    uint32_t page_order = 0;
    int ret, pages = -1; /* present, even 0, the order means numbered references */

    ret = read_protocol(&reading, &order.abi);
    if (ret < 0)
        return ret;
    ret = read_number(&reading, KEY_NUM_QUEUES, 1, LIMIT_QUEUES, &order.queue_count);
    if (ret < 0 && ret != -ENOENT)
        return ret;
    ret = read_number(&reading, KEY_RING_ORDER, 0, LIMIT_RING_ORDER, &page_order);
    if (ret < 0 && ret != -ENOENT)
        return ret;
    if (shape->one_queue)
        order.queue_count = 1;
    if (shape->one_page)
        page_order = 0;
    else if (ret == 0)
        pages = (int)page_order;
    if (order.queue_count > source->queues_offered || page_order > source->order_offered)
        return refuse_excess(&reading, order.queue_count, page_order);
    if (order.queue_count == 1) {
        ret = read_ring(&reading, "", pages, &order.queue[0]);
        if (ret < 0)
            return ret;
    }
    for (uint32_t q = 0; order.queue_count > 1 && q < order.queue_count; q++) {
        char prefix[KEY_BYTES / 2];

        snprintf(prefix, sizeof(prefix), "queue-%u/", q);
        ret = read_ring(&reading, prefix, pages, &order.queue[q]);
        if (ret < 0)
            return ret;
    }
    ret = refuse_duplicates(&reading, &order);
    if (ret < 0)
        return ret;
    ret_order->abi = order.abi;
    ret_order->queue_count = order.queue_count;
    memcpy(ret_order->queue, order.queue, sizeof(order.queue));
    return 0;
}

bool vbd_ring_same(const struct disk_order *one, const struct disk_order *other)
{
    if (one->abi != other->abi || one->queue_count != other->queue_count)
        return false;
    for (uint32_t q = 0; q < one->queue_count; q++) {
        const struct disk_ring *a = &one->queue[q], *b = &other->queue[q];

        if (a->page_count != b->page_count || a->event_channel != b->event_channel ||
            memcmp(a->refs, b->refs, a->page_count * sizeof(a->refs[0])) != 0)
            return false;
    }
    return true;
}
